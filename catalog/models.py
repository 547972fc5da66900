"""Rows of the catalogue: providers with their credentials, vector spaces, embedding models, dated prices.

Owns what the platform's operator decides once for all tenants. Which tenant may use what is the tenants' app.
"""

from __future__ import annotations

import uuid
from decimal import Decimal

from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from django.db.models import F, Q

from providers.base import Kind

slug_rule = RegexValidator(
    r"^[a-z0-9][a-z0-9-]{0,62}$", "Small letters, digits and dashes, starting with neither dash."
)
# What callers write in `model`: no white space; slashes as in BAAI/bge-m3, colons as in titan-embed-text-v2:0.
name_rule = RegexValidator(r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,199}$", "Letters, digits and . _ : / @ + - only.")


class State(models.TextChoices):
    DRAFT = "draft"
    TESTING = "testing"
    AVAILABLE = "available"
    UNAVAILABLE = "unavailable"
    DEPRECATED = "deprecated"
    REMOVED = "removed"


class Tokenizer(models.TextChoices):
    CL100K = "cl100k_base", "cl100k_base (exact)"
    BYTES = "bytes", "bytes (an upper bound)"


class Capability(models.TextChoices):
    DIMENSIONS = "dimensions", "the provider takes a `dimensions` parameter"
    MATRYOSHKA = "matryoshka", "a vector may be cut to fewer dimensions and renormalised"


class UnavailableCause(models.TextChoices):
    """The words of `catalog.lifecycle.Cause`."""

    PROVIDER = "provider", "the provider"
    DRIFT = "drift", "its vectors drifted"
    OPERATOR = "operator", "an operator"


class Cuts(models.TextChoices):
    """What is known of a declared Matryoshka model; cuts are served when vouched or measured."""

    VOUCHED = "vouched", "the vendor documents it"
    MEASURED = "measured", "measured"
    REFUTED = "refuted", "measured, and not so"


class Tier(models.TextChoices):
    FREE = "free"
    STANDARD = "standard"
    ENTERPRISE = "enterprise"


class DiscoveryRule(models.TextChoices):
    AUTOMATIC = "automatic", "new models are registered as drafts"
    APPROVAL = "approval", "everything waits for approval"
    OFF = "off", "the list is not looked at by itself"


class Provider(models.Model):
    slug = models.CharField(max_length=63, unique=True, validators=[slug_rule])
    kind = models.CharField(max_length=20, choices=[(k.value, k.value) for k in Kind])
    # No URLField: it refuses `http://vllm:8000`, the way containers call each other. See `catalog.addresses`.
    base_url = models.CharField(max_length=500, blank=True, help_text="Empty: the vendor's own address.")
    region = models.CharField(max_length=63, blank=True)
    project = models.CharField(max_length=200, blank=True)
    api_version = models.CharField(max_length=63, blank=True)
    max_items = models.PositiveIntegerField(
        default=2048, validators=[MinValueValidator(1)], help_text="Texts per call."
    )
    max_tokens_per_call = models.PositiveIntegerField(default=300_000, validators=[MinValueValidator(1)])
    max_concurrency = models.PositiveIntegerField(
        default=64,
        validators=[MinValueValidator(1), MaxValueValidator(1024)],
        help_text="Calls at a time, per process.",
    )
    batch_window_ms = models.PositiveSmallIntegerField(
        default=5,
        validators=[MaxValueValidator(100)],
        help_text="How long texts gather for a shared call while others of their tenant are under way; "
        "who is alone never waits. 0: only while no call is free.",
    )
    mixes_tenants = models.BooleanField(
        default=False,
        help_text="A call may carry texts of several tenants. Only where the tokens of all models are counted exactly.",
    )
    rpm = models.PositiveIntegerField(null=True, blank=True, help_text="Requests a minute that the vendor grants us.")
    tpm = models.PositiveIntegerField(null=True, blank=True, help_text="Tokens a minute that the vendor grants us.")
    timeout_s = models.FloatField(default=30.0, validators=[MinValueValidator(0.1), MaxValueValidator(600)])
    is_enabled = models.BooleanField(default=True)
    discovery = models.CharField(
        max_length=20,
        choices=DiscoveryRule.choices,
        default=DiscoveryRule.AUTOMATIC,
        help_text="What happens to models that a look at the vendor's list finds.",
    )
    ignored_models = models.JSONField(default=list, blank=True, editable=False)  # identifiers that were refused
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ("slug",)
        constraints = [
            models.CheckConstraint(condition=Q(kind__in=[k.value for k in Kind]), name="provider_kind_known"),
            models.CheckConstraint(
                condition=Q(max_items__gte=1, max_tokens_per_call__gte=1, max_concurrency__gte=1, timeout_s__gt=0),
                name="provider_caps_positive",
            ),
            models.CheckConstraint(condition=Q(batch_window_ms__lte=100), name="provider_window_short"),
            models.CheckConstraint(
                condition=~Q(kind="openai_compatible") | ~Q(base_url=""), name="provider_compatible_has_address"
            ),
        ]

    def __str__(self) -> str:
        return self.slug


class ProviderCredential(models.Model):
    """One of the platform's credentials at a provider. Calls rotate over the enabled ones."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    provider = models.ForeignKey(Provider, on_delete=models.CASCADE, related_name="credentials")
    label = models.CharField(max_length=100, blank=True)
    sealed = models.TextField(editable=False)
    hint = models.CharField(max_length=4, blank=True, editable=False, help_text="The last four characters.")
    is_enabled = models.BooleanField(default=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("created_at", "id")

    def __str__(self) -> str:
        return f"{self.label or 'credential'} …{self.hint}"


class VectorSpace(models.Model):
    """What makes vectors comparable: artifact, revision, pooling. The epoch rises to forget its vectors."""

    slug = models.CharField(max_length=200, unique=True, validators=[name_rule])
    epoch = models.PositiveIntegerField(default=1)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("slug",)

    def __str__(self) -> str:
        return self.slug


class EmbeddingModel(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    provider = models.ForeignKey(Provider, on_delete=models.PROTECT, related_name="models")
    name = models.CharField(max_length=200, validators=[name_rule], help_text="What callers write in `model`.")
    identifier = models.CharField(max_length=200, validators=[name_rule], help_text="The vendor's id.")
    space = models.ForeignKey(VectorSpace, on_delete=models.PROTECT, related_name="models")
    dimensions = models.PositiveIntegerField(validators=[MinValueValidator(1), MaxValueValidator(65_536)])
    allowed_dimensions = models.JSONField(default=list, blank=True, help_text="Other widths that may be asked for.")
    max_tokens = models.PositiveIntegerField(default=8192, validators=[MinValueValidator(1)])
    tokenizer = models.CharField(max_length=20, choices=Tokenizer.choices, default=Tokenizer.BYTES)
    model_type = models.CharField(max_length=20, default="text")
    model_version = models.CharField(max_length=100, blank=True)
    capabilities = models.JSONField(default=list, blank=True)
    quality_score = models.DecimalField(
        max_digits=5, decimal_places=2, null=True, blank=True, validators=[MinValueValidator(0), MaxValueValidator(100)]
    )
    minimum_tier = models.CharField(max_length=20, choices=Tier.choices, default=Tier.FREE)
    state = models.CharField(max_length=20, choices=State.choices, default=State.DRAFT, db_index=True)
    state_reason = models.CharField(max_length=200, blank=True)
    unavailable_cause = models.CharField(max_length=20, choices=UnavailableCause.choices, blank=True, editable=False)
    validated_at = models.DateTimeField(null=True, blank=True, editable=False)
    cuts = models.CharField(max_length=20, choices=Cuts.choices, blank=True, editable=False)
    deprecated_at = models.DateTimeField(null=True, blank=True)
    sunset_at = models.DateTimeField(null=True, blank=True)
    listed_at = models.DateTimeField(null=True, blank=True, editable=False)  # by its vendor, when last looked at
    missed_listings = models.PositiveSmallIntegerField(default=0, editable=False)  # in a row
    successor = models.ForeignKey("self", null=True, blank=True, on_delete=models.SET_NULL, related_name="predecessors")
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ("name", "id")
        constraints = [
            models.UniqueConstraint(fields=["provider", "name"], name="model_name_once_per_provider"),
            models.CheckConstraint(condition=Q(dimensions__gte=1, max_tokens__gte=1), name="model_sizes_positive"),
            models.CheckConstraint(condition=Q(state__in=State.values), name="model_state_known"),
            models.CheckConstraint(condition=~Q(successor=F("id")), name="model_not_its_own_successor"),
            models.CheckConstraint(
                condition=Q(state="unavailable", unavailable_cause__in=UnavailableCause.values)
                | (~Q(state="unavailable") & Q(unavailable_cause="")),
                name="model_unavailable_has_cause",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.provider.slug}/{self.name}"


class ModelEvent(models.Model):
    """One thing that happened to a model, with who did it and why. Only ever added."""

    model = models.ForeignKey(EmbeddingModel, on_delete=models.CASCADE, related_name="events")
    kind = models.CharField(max_length=30)  # moved, sunset moved, validated, joined, drifted
    was = models.CharField(max_length=20, blank=True)
    now = models.CharField(max_length=20, blank=True)
    cause = models.CharField(max_length=20, blank=True)
    actor = models.CharField(max_length=200)
    reason = models.CharField(max_length=500, blank=True)
    at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("-at", "-id")
        indexes = [models.Index(fields=["model", "-at"], name="catalog_event_of_model")]

    def __str__(self) -> str:
        return f"{self.kind} {self.was} → {self.now}" if self.now else self.kind


class ModelCheck(models.Model):
    """One asking of a model's probes, at the platform's cost."""

    class Kind(models.TextChoices):
        VALIDATION = "validation"
        RECHECK = "recheck", "daily recheck of a shared space"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    model = models.ForeignKey(EmbeddingModel, on_delete=models.CASCADE, related_name="checks")
    kind = models.CharField(max_length=20, choices=Kind.choices)
    passed = models.BooleanField()
    failed = models.JSONField(default=list, blank=True)  # of `probe`, `expected`, `got`
    probes = models.PositiveIntegerField()
    tokens = models.PositiveIntegerField(help_text="The provider's count, or what is most likely.")
    cost_usd = models.DecimalField(max_digits=20, decimal_places=9, null=True)  # null: unpriced
    source = models.CharField(max_length=20, default="probe")
    actor = models.CharField(max_length=200)
    at = models.DateTimeField(auto_now_add=True, db_index=True)

    class Meta:
        ordering = ("-at", "-id")

    def __str__(self) -> str:
        return f"{self.kind} of {self.model_id}: {'passed' if self.passed else 'failed'}"


class SpaceReference(models.Model):
    """The vectors of the probes that everything in a space is compared with. `vectors` are float32, little-endian."""

    space = models.ForeignKey(VectorSpace, on_delete=models.CASCADE, related_name="references")
    dimensions = models.PositiveIntegerField()
    probes = models.JSONField()  # names, in the order of the rows
    vectors = models.BinaryField()
    # Only a row that was never released can be erased; what it left must not bind a space that nobody was in.
    model = models.ForeignKey(EmbeddingModel, on_delete=models.CASCADE, related_name="+")
    taken_at = models.DateTimeField(auto_now=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["space", "dimensions"], name="reference_once_per_width")]

    def __str__(self) -> str:
        return f"{self.space_id} at {self.dimensions}"


class DiscoveryRun(models.Model):
    """One look at one provider's list of models, with the difference that it found."""

    class State(models.TextChoices):
        QUEUED = "queued"
        RUNNING = "running"
        UNCHANGED = "unchanged"
        APPLIED = "applied"
        WAITING = "waiting", "waits for approval"
        IGNORED = "ignored"
        SKIPPED = "skipped", "another one was running"
        FAILED = "failed"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    provider = models.ForeignKey(Provider, on_delete=models.CASCADE, related_name="discovery_runs")
    state = models.CharField(max_length=20, choices=State.choices, default=State.QUEUED)
    detail = models.CharField(max_length=500, blank=True)
    listed = models.PositiveIntegerField(null=True)  # models in the vendor's list, of all kinds
    changes = models.JSONField(default=list)  # see `catalog.discovery_runs.as_row`
    actor = models.CharField(max_length=200)
    created_at = models.DateTimeField(auto_now_add=True)
    ended_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("-created_at", "-id")
        indexes = [models.Index(fields=["provider", "-created_at"], name="catalog_run_of_provider")]

    def __str__(self) -> str:
        return f"{self.provider.slug}, {self.created_at:%Y-%m-%d %H:%M}"


class Price(models.Model):
    """USD per million tokens from a moment on. Never edited: the newest row for a moment counts; a correction is a
    new row that counts from before it was written. No row is *unpriced*; 0 is free."""

    model = models.ForeignKey(EmbeddingModel, on_delete=models.CASCADE, related_name="prices")
    cost_per_million_tokens = models.DecimalField(
        max_digits=20, decimal_places=9, validators=[MinValueValidator(Decimal(0))]
    )
    effective_from = models.DateTimeField()
    source = models.CharField(max_length=100)
    reason = models.CharField(max_length=200, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("-effective_from", "-id")
        indexes = [models.Index(fields=["model", "effective_from"])]
        constraints = [models.CheckConstraint(condition=Q(cost_per_million_tokens__gte=0), name="price_not_negative")]

    def __str__(self) -> str:
        return f"${self.cost_per_million_tokens.normalize():f} per million from {self.effective_from:%Y-%m-%d}"


class PriceProposal(models.Model):
    """A price that differs too much from the one in force to be taken without asking."""

    class State(models.TextChoices):
        PENDING = "pending"
        APPROVED = "approved"
        REFUSED = "refused"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    model = models.ForeignKey(EmbeddingModel, on_delete=models.CASCADE, related_name="proposals")
    was = models.DecimalField(max_digits=20, decimal_places=9, null=True)
    cost_per_million_tokens = models.DecimalField(max_digits=20, decimal_places=9)
    source = models.CharField(max_length=100)
    state = models.CharField(max_length=20, choices=State.choices, default=State.PENDING)
    actor = models.CharField(max_length=200, blank=True)  # who decided
    created_at = models.DateTimeField(auto_now_add=True)
    decided_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("-created_at", "-id")
        constraints = [
            models.UniqueConstraint(fields=["model"], condition=Q(state="pending"), name="proposal_one_pending")
        ]

    def __str__(self) -> str:
        return f"${self.cost_per_million_tokens.normalize():f} per million for {self.model}"


class CatalogVersion(models.Model):
    """One row: rises with every change that a data plane must see."""

    id = models.SmallIntegerField(primary_key=True, default=1, editable=False)
    version = models.BigIntegerField(default=1)

    class Meta:
        constraints = [models.CheckConstraint(condition=Q(id=1), name="catalog_version_is_one_row")]
