"""Rows of what was used and what may be used: usage rows (the ledger) and their sums by the hour, provider calls,
idempotency claims, limits.

Usage rows and provider calls are partitioned by month; their primary key in SQL is (id, created_at), where
`created_at` is the time in the id. They carry no foreign keys: the ledger outlives what it names.
"""

from __future__ import annotations

import uuid

from django.contrib.postgres.indexes import BrinIndex
from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import Q

from core.ids import uuid7


class UsageRow(models.Model):
    """One request of a tenant: what was charged. `id` is the request id. Never edited: a correction is a row of its
    own, with source `adjustment`."""

    id = models.UUIDField(primary_key=True, default=uuid7)
    created_at = models.DateTimeField()
    tenant_id = models.UUIDField()
    key_id = models.UUIDField(null=True)
    agent_id = models.CharField(max_length=200, blank=True)
    model_id = models.UUIDField(null=True)
    model = models.CharField(max_length=200, blank=True)
    provider = models.CharField(max_length=63, blank=True)
    space = models.CharField(max_length=200, blank=True)
    dimensions = models.PositiveIntegerField(default=0)
    items = models.PositiveIntegerField(default=0)
    cached = models.PositiveIntegerField(default=0)
    tokens = models.PositiveBigIntegerField(default=0, help_text="Charged: min(provider's count, held).")
    held_tokens = models.PositiveBigIntegerField(default=0)
    provider_tokens = models.PositiveBigIntegerField(null=True, help_text="The provider's own count.")
    estimated = models.BooleanField(default=False, help_text="The provider gave no count.")
    cost_usd = models.DecimalField(max_digits=20, decimal_places=9, default=0)
    source = models.CharField(max_length=20, default="api")
    status = models.CharField(max_length=40, default="ok", help_text="`ok`, or the code of the error.")
    task_type = models.CharField(max_length=100, blank=True)
    latency_ms = models.FloatField(default=0)
    provider_latency_ms = models.FloatField(default=0)
    attempts = models.PositiveSmallIntegerField(default=0)
    pool = models.BigIntegerField(null=True, help_text="What the charge was spent from; see `Pool`.")
    own_price = models.BooleanField(default=False, help_text="Charged at the tenant's own price, not the catalogue's.")
    paid_by = models.CharField(
        max_length=10,
        default="platform",
        choices=[("platform", "platform"), ("tenant", "tenant")],
        help_text="Who pays the provider. `tenant`: called with the tenant's own credential; it costs nothing here.",
    )
    corrects_day = models.DateField(null=True, help_text="Of an adjustment: the UTC day whose cost it corrects.")
    reason = models.CharField(max_length=200, blank=True, help_text="Of an adjustment: why.")

    class Meta:
        ordering = ("-created_at", "-id")

    def __str__(self) -> str:
        return str(self.id)


class ProviderCall(models.Model):
    """One call to a provider: how it went. Several belong to one usage row after a split or a failover."""

    id = models.UUIDField(primary_key=True, default=uuid7)
    created_at = models.DateTimeField()
    tenant_id = models.UUIDField()
    request_id = models.UUIDField()
    model_id = models.UUIDField()
    model = models.CharField(max_length=200)
    provider = models.CharField(max_length=63)
    credential_id = models.CharField(max_length=40, blank=True)
    items = models.PositiveIntegerField()
    tokens = models.PositiveBigIntegerField(null=True)
    outcome = models.CharField(max_length=40, help_text="`ok`, or the kind of failure.")
    status = models.PositiveSmallIntegerField(null=True)
    detail = models.CharField(max_length=200, blank=True)
    upstream_id = models.CharField(max_length=200, blank=True)
    latency_ms = models.FloatField()

    class Meta:
        ordering = ("created_at", "id")

    def __str__(self) -> str:
        return str(self.id)


class HourlyUsage(models.Model):
    """What a tenant used in one hour, by who asked for what: usage rows added up. Derived; only `billing.rollups`
    writes it."""

    id = models.BigAutoField(primary_key=True)
    tenant_id = models.UUIDField()
    hour = models.DateTimeField()
    model_id = models.UUIDField(null=True)
    model = models.CharField(max_length=200, blank=True)
    provider = models.CharField(max_length=63, blank=True)
    agent_id = models.CharField(max_length=200, blank=True)
    key_id = models.UUIDField(null=True)
    task_type = models.CharField(max_length=100, blank=True)
    requests = models.BigIntegerField(help_text="Rows, adjustments left out: nobody asked for those.")
    failed = models.BigIntegerField(help_text="Those of them that were not answered.")
    items = models.BigIntegerField()
    cached = models.BigIntegerField()
    tokens = models.BigIntegerField()
    cost_usd = models.DecimalField(max_digits=20, decimal_places=9)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["tenant_id", "hour", "model_id", "model", "provider", "agent_id", "key_id", "task_type"],
                nulls_distinct=False,
                name="hourly_usage_once",
            )
        ]
        indexes = [BrinIndex(fields=["hour"], name="hourly_usage_by_hour")]  # of all tenants; rows come in that order

    def __str__(self) -> str:
        return f"{self.hour:%Y-%m-%dT%H} {self.model}"


class LateHour(models.Model):
    """An hour of a tenant's that was given rows after it had been added up; to be added up anew."""

    id = models.BigAutoField(primary_key=True)
    tenant_id = models.UUIDField()
    hour = models.DateTimeField()

    class Meta:
        indexes = [models.Index(fields=["tenant_id"], name="late_hour_by_tenant")]

    def __str__(self) -> str:
        return f"{self.hour:%Y-%m-%dT%H}"


class KeptFrom(models.Model):
    """From when on single requests of a tenant are kept. Older ones are deleted or being deleted; the sums of their
    hours are all that is left, and final."""

    tenant_id = models.UUIDField(primary_key=True)
    since = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.tenant_id} from {self.since:%Y-%m-%d}"


class RolledUp(models.Model):
    """One row: up to which hour the ledger has been added up, for all tenants."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    until = models.DateTimeField()

    class Meta:
        constraints = [models.CheckConstraint(condition=Q(id=1), name="rolled_up_one_row")]

    def __str__(self) -> str:
        return f"until {self.until}"


class IdempotencyClaim(models.Model):
    """A tenant's `Idempotency-Key` of the last day: who answers it, whether it was charged, the answer if it is kept.

    Written by `billing.idempotency` and, `charged` alone, by `billing.ledger`.
    """

    id = models.UUIDField(primary_key=True, default=uuid7)
    tenant_id = models.UUIDField()
    key_digest = models.BinaryField(max_length=32)
    body_digest = models.BinaryField(max_length=32)
    request_id = models.UUIDField(help_text="Whose claim it is now.")
    created_at = models.DateTimeField()
    lease_until = models.DateTimeField(help_text="Until then nobody takes it over.")
    expires_at = models.DateTimeField()
    charged = models.BooleanField(default=False)
    status = models.PositiveSmallIntegerField(null=True, help_text="Of the answer that is kept.")
    headers = models.JSONField(default=list)
    answer = models.BinaryField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["tenant_id", "key_digest"], name="idempotency_key_once"),
            models.CheckConstraint(
                condition=Q(status=None, answer=None) | Q(status__isnull=False, answer__isnull=False),
                name="idempotency_answer_whole",
            ),
        ]
        indexes = [models.Index(fields=["expires_at"], name="idempotency_expiry")]

    def __str__(self) -> str:
        return str(self.id)


class Limit(models.Model):
    """How much of a measure a scope may use in a period. Quotas and budgets are views of these rows."""

    class Scope(models.TextChoices):
        TENANT = "tenant"
        MODEL = "model"
        AGENT = "agent"
        KEY = "key"

    class Measure(models.TextChoices):
        TOKENS = "tokens"
        REQUESTS = "requests"
        USD = "usd"

    class Period(models.TextChoices):
        MINUTE = "minute"
        DAY = "day"
        MONTH = "month"

    class Mode(models.TextChoices):
        HARD = "hard"
        SOFT = "soft"
        SHADOW = "shadow"

    class Origin(models.TextChoices):
        TENANT = "tenant"  # whoever may set limits for the tenant
        AGENT = "agent"  # the agent itself, by its preferences

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    tenant = models.ForeignKey("tenants.Tenant", on_delete=models.CASCADE, related_name="limits")
    scope = models.CharField(max_length=10, choices=Scope.choices)
    scope_id = models.CharField(
        max_length=200, blank=True, help_text="Tenant model, agent or key; empty for the tenant."
    )
    measure = models.CharField(max_length=10, choices=Measure.choices)
    period = models.CharField(max_length=10, choices=Period.choices)
    amount = models.DecimalField(max_digits=20, decimal_places=9, validators=[MinValueValidator(0)])
    mode = models.CharField(max_length=10, choices=Mode.choices, default=Mode.HARD)
    thresholds = models.JSONField(default=list, blank=True, help_text="Percentages at which somebody is told.")
    origin = models.CharField(
        max_length=10,
        choices=Origin.choices,
        default=Origin.TENANT,
        editable=False,
        help_text="Who set it. What an agent set for itself stands beside what the tenant set for it; both hold.",
    )
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ("scope", "scope_id", "measure", "period")
        indexes = [models.Index(fields=["tenant", "-created_at", "-id"], name="limit_by_tenant")]
        constraints = [
            models.UniqueConstraint(
                fields=["tenant", "scope", "scope_id", "measure", "period", "mode", "origin"], name="limit_once"
            ),
            models.CheckConstraint(
                condition=Q(origin="tenant") | Q(origin="agent", scope="agent"), name="limit_origin_fits_its_scope"
            ),
            models.CheckConstraint(condition=Q(amount__gte=0), name="limit_not_negative"),
            models.CheckConstraint(
                condition=Q(scope="tenant", scope_id="") | (~Q(scope="tenant") & ~Q(scope_id="")),
                name="limit_scope_named",
            ),
            models.CheckConstraint(
                condition=Q(measure="usd") | Q(amount=models.functions.Floor("amount")), name="limit_whole_unless_usd"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.amount.normalize():f} {self.measure} per {self.period} ({self.mode})"


class Pool(models.Model):
    """Whoever spends what PostgreSQL grants: a tenant's Redis, or one worker while Redis is away.

    A pool is *live* as long as its row is there: its grants stand for what was spent from it, and the usage rows that
    name it are in no counter. Once all of them are certain, `billing.reconciling` counts them and deletes the pool.
    """

    class Kind(models.TextChoices):
        REDIS = "redis"
        DIRECT = "direct"

    id = models.BigAutoField(primary_key=True)
    tenant_id = models.UUIDField()
    kind = models.CharField(max_length=10, choices=Kind.choices)
    opened_at = models.DateTimeField()
    used_at = models.DateTimeField(help_text="When it was granted something last.")
    closed_at = models.DateTimeField(null=True, help_text="From then on it is granted nothing.")

    class Meta:
        indexes = [models.Index(fields=["tenant_id", "kind"], name="pool_by_tenant")]
        constraints = [
            models.UniqueConstraint(
                fields=["tenant_id"], condition=Q(kind="redis", closed_at=None), name="pool_one_open_redis"
            )
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.id}"


class Counter(models.Model):
    """What a day or month of a limit has used and granted: `settled + granted <= amount`, where it is hard."""

    pk = models.CompositePrimaryKey("limit_id", "period_start")
    limit_id = models.UUIDField()
    period_start = models.DateField()
    tenant_id = models.UUIDField()
    settled = models.BigIntegerField(default=0, help_text="Sum of the usage rows that name no live pool.")
    granted = models.BigIntegerField(default=0, help_text="Sum of the grants of live pools.")
    recount_at = models.DateTimeField(null=True, help_text="From when the ledger can be trusted to tell it anew.")

    class Meta:
        indexes = [models.Index(fields=["tenant_id"], name="counter_by_tenant")]

    def __str__(self) -> str:
        return f"{self.limit_id} {self.period_start}"


class Grant(models.Model):
    """What a pool was granted of a day or month of a limit."""

    pk = models.CompositePrimaryKey("limit_id", "period_start", "pool_id")
    limit_id = models.UUIDField()
    period_start = models.DateField()
    pool_id = models.BigIntegerField()
    tenant_id = models.UUIDField()
    given = models.BigIntegerField()

    class Meta:
        indexes = [models.Index(fields=["tenant_id", "pool_id"], name="grant_by_pool")]

    def __str__(self) -> str:
        return f"{self.limit_id} {self.period_start} {self.pool_id}"
