"""Rows of who calls: users, tenants, memberships, invitations, API keys, agents, and the models that each tenant
configured."""

from __future__ import annotations

import uuid
from decimal import Decimal

from django.contrib.auth.models import AbstractBaseUser, BaseUserManager, PermissionsMixin
from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.indexes import GinIndex
from django.core.validators import MinValueValidator
from django.db import models, transaction
from django.db.models import Q
from django.db.models.functions import Lower

from audit.facts import facts as facts_of
from audit.services import record
from catalog.models import Tier, slug_rule
from tenants.model_states import SERVING


class UserAccounts(BaseUserManager["User"]):
    """Makes accounts; Django's own commands call these two names, so that what they do is recorded here."""

    @transaction.atomic
    def create_user(self, email: str, password: str | None = None, **fields: object) -> User:
        user = self.model(email=self.normalize_email(email).lower(), **fields)
        user.set_password(password)
        user.save(using=self._db)
        record("person.added", tenant_id=None, subject="person", subject_id=user.pk, after=facts_of(user))
        return user

    def create_superuser(self, email: str, password: str | None = None, **fields: object) -> User:
        return self.create_user(email, password, is_superuser=True, **fields)


class User(AbstractBaseUser, PermissionsMixin):
    """A person. `is_superuser` is the platform's operator; everybody else acts through memberships."""

    email = models.EmailField(unique=True)
    name = models.CharField(max_length=200, blank=True)
    is_active = models.BooleanField(default=True)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = UserAccounts()
    USERNAME_FIELD = "email"

    class Meta:
        ordering = ("email",)
        constraints = [models.UniqueConstraint(Lower("email"), name="user_email_once_in_any_case")]

    @property
    def is_staff(self) -> bool:
        """May open the admin: operators, and members of a tenant (who see their tenant only)."""
        return self.is_superuser or self.memberships.exists()

    def __str__(self) -> str:
        return self.email


class Tenant(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=200)
    slug = models.CharField(max_length=63, unique=True, validators=[slug_rule])
    tier = models.CharField(max_length=20, choices=Tier.choices, default=Tier.STANDARD)
    is_suspended = models.BooleanField(default=False)
    settings = models.JSONField(default=dict, blank=True, help_text="See `tenants.settings`.")
    version = models.BigIntegerField(
        default=1, editable=False, help_text="Rises with every change the data plane sees."
    )
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ("slug",)

    def __str__(self) -> str:
        return self.name


class Role(models.TextChoices):
    OWNER = "owner"
    ADMIN = "admin"
    BILLING = "billing"
    VIEWER = "viewer"


class Membership(models.Model):
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="memberships")
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=20, choices=Role.choices)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("tenant", "user")
        constraints = [
            models.UniqueConstraint(fields=["tenant", "user"], name="membership_once"),
            models.CheckConstraint(condition=Q(role__in=Role.values), name="membership_role_known"),
        ]

    def __str__(self) -> str:
        return f"{self.user} ({self.role})"


class Invitation(models.Model):
    """A role in a tenant, offered to the owner of an e-mail address. Only the digest of its link is kept."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="invitations")
    email = models.EmailField()
    role = models.CharField(max_length=20, choices=Role.choices)
    digest = models.BinaryField(max_length=32, unique=True, editable=False)
    invited_by = models.ForeignKey(User, null=True, on_delete=models.SET_NULL, related_name="+", editable=False)
    invited_with = models.ForeignKey("ApiKey", null=True, on_delete=models.CASCADE, related_name="+", editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(editable=False)
    accepted_at = models.DateTimeField(null=True, editable=False)
    accepted_by = models.ForeignKey(User, null=True, on_delete=models.SET_NULL, related_name="+", editable=False)
    revoked_at = models.DateTimeField(null=True, editable=False)

    class Meta:
        ordering = ("-created_at", "-id")
        indexes = [models.Index(fields=["tenant", "-created_at", "-id"])]
        constraints = [
            models.UniqueConstraint(
                "tenant",
                Lower("email"),
                condition=Q(accepted_at__isnull=True, revoked_at__isnull=True),
                name="invitation_one_open",
            ),
            models.CheckConstraint(condition=Q(role__in=Role.values), name="invitation_role_known"),
            models.CheckConstraint(
                condition=Q(accepted_at__isnull=True) | Q(revoked_at__isnull=True), name="invitation_ends_once"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.email} ({self.role})"


class ApiKey(models.Model):
    """A credential for programs. Only its digest is kept. Without a tenant it is the platform's."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    tenant = models.ForeignKey(Tenant, null=True, blank=True, on_delete=models.CASCADE, related_name="api_keys")
    name = models.CharField(max_length=200)
    prefix = models.CharField(max_length=40, unique=True, editable=False, help_text="`qv_live_<id>`, to recognise it.")
    digest = models.BinaryField(max_length=32, unique=True, editable=False)
    scopes = models.JSONField(default=list)
    models_allowed = models.JSONField(
        default=list, blank=True, help_text="Names of models; empty: all of the tenant's."
    )
    networks = models.JSONField(default=list, blank=True, help_text="Address ranges (CIDR); empty: anywhere.")
    agent_id = models.CharField(max_length=200, blank=True)
    # Neither may be forgotten: a key without a maker is the platform's, and nothing bounds it.
    created_by = models.ForeignKey(User, null=True, blank=True, on_delete=models.RESTRICT, related_name="+")
    created_with = models.ForeignKey(
        "self", null=True, blank=True, on_delete=models.RESTRICT, related_name="minted", editable=False
    )
    rotated_from = models.ForeignKey(
        "self",
        null=True,
        blank=True,
        on_delete=models.RESTRICT,
        related_name="rotated_to",
        editable=False,
        help_text="The key that made it of itself, as its successor.",
    )
    lines = ArrayField(
        models.UUIDField(),
        editable=False,
        help_text="Whose limits count what it uses: its own line, named by the first of the keys that replaced each "
        "other, then those of the keys that made it. Never changes.",
    )
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True, editable=False)
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ("-created_at", "-id")
        indexes = [
            models.Index(fields=["tenant", "-created_at", "-id"]),
            models.Index(fields=["tenant", "name", "id"], name="key_by_name"),
            GinIndex(fields=["lines"], name="key_by_line"),
        ]
        constraints = [
            models.CheckConstraint(
                condition=Q(tenant__isnull=True) | ~Q(scopes__contains=["operator"]), name="key_operator_has_no_tenant"
            )
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…)"


class TenantModel(models.Model):
    """A tenant's configuration of a catalogue row."""

    class State(models.TextChoices):
        CONFIGURED = "configured"
        ENABLED = "enabled"
        DISABLED = "disabled"
        QUOTA_EXCEEDED = "quota_exceeded"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="models")
    model = models.ForeignKey("catalog.EmbeddingModel", on_delete=models.PROTECT, related_name="configurations")
    state = models.CharField(
        max_length=20, choices=State.choices, default=State.ENABLED, help_text="See `tenants.model_states`."
    )
    is_default = models.BooleanField(default=False)
    priority = models.IntegerField(default=0, help_text="Higher is preferred.")
    custom_cost_per_million_tokens = models.DecimalField(
        max_digits=20, decimal_places=9, null=True, blank=True, validators=[MinValueValidator(Decimal(0))]
    )
    fallback_model = models.ForeignKey(
        "catalog.EmbeddingModel", null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    settings = models.JSONField(default=dict, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ("-priority", "created_at", "id")
        constraints = [
            models.UniqueConstraint(fields=["tenant", "model"], name="tenant_model_once"),
            models.UniqueConstraint(fields=["tenant"], condition=Q(is_default=True), name="tenant_model_one_default"),
            models.CheckConstraint(
                condition=Q(is_default=False) | Q(state__in=["enabled", "quota_exceeded"]),
                name="tenant_model_default_is_enabled",
            ),
            models.CheckConstraint(
                condition=Q(custom_cost_per_million_tokens__isnull=True) | Q(custom_cost_per_million_tokens__gte=0),
                name="tenant_model_price_not_negative",
            ),
            models.CheckConstraint(
                condition=Q(state__in=["configured", "enabled", "disabled", "quota_exceeded"]),
                name="tenant_model_state_known",
            ),
        ]

    @property
    def is_enabled(self) -> bool:
        """Whether it is switched on; what is left of its quota does not count."""
        return self.state in SERVING

    def __str__(self) -> str:
        return f"{self.model} of {self.tenant}"


class TenantCredential(models.Model):
    """A tenant's own credential at a provider: used for its calls alone, and its provider bills the tenant."""

    class Use(models.TextChoices):
        ONLY = "only", "only: the platform's credentials are never used for this provider"
        FIRST = "first", "first: when it fails, the platform's serve, at the platform's price"
        LAST = "last", "last: it serves when the platform's credentials fail"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="provider_credentials")
    provider = models.ForeignKey("catalog.Provider", on_delete=models.CASCADE, related_name="+")
    label = models.CharField(max_length=100, blank=True, help_text="For you, to tell several apart.")
    use = models.CharField(
        max_length=10,
        choices=Use.choices,
        default=Use.ONLY,
        help_text="What serves your requests at this provider. What is called with your own credential costs nothing "
        "here; your provider bills you.",
    )
    region = models.CharField(max_length=40, blank=True, help_text="Bedrock and Vertex. Empty: the platform's.")
    project = models.CharField(max_length=63, blank=True, help_text="Vertex. Empty: that of the service account.")
    resource = models.CharField(max_length=63, blank=True, help_text="Azure: the name of your OpenAI resource.")
    sealed = models.TextField(editable=False)
    hint = models.CharField(max_length=4, blank=True, editable=False, help_text="The last four characters.")
    is_enabled = models.BooleanField(
        default=True, help_text="Switched off, it is as if it were not there: the platform's credentials serve."
    )
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ("-created_at", "-id")
        verbose_name = "provider credential"
        indexes = [models.Index(fields=["tenant", "-created_at", "-id"], name="credential_by_tenant")]
        constraints = [
            models.CheckConstraint(condition=Q(use__in=["only", "first", "last"]), name="credential_use_known"),
        ]

    def __str__(self) -> str:
        return f"{self.label or 'credential'} …{self.hint}"


class Agent(models.Model):
    """A program of a tenant's that gives itself a name, and says what it prefers."""

    class Status(models.TextChoices):
        AVAILABLE = "available"
        BUSY = "busy"
        OFFLINE = "offline"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="agents")
    agent_id = models.CharField(max_length=200, help_text="What the agent calls itself.")
    agent_type = models.CharField(max_length=100, blank=True)
    name = models.CharField(max_length=200, blank=True)
    version = models.CharField(max_length=100, blank=True)
    capabilities = models.JSONField(default=list, blank=True)
    preferences = models.JSONField(default=dict, blank=True, help_text="See `tenants.preferences`.")
    metadata = models.JSONField(default=dict, blank=True)
    status = models.CharField(max_length=20, choices=Status.choices, default=Status.AVAILABLE)
    last_seen_at = models.DateTimeField(null=True, blank=True, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ("-created_at", "-id")
        indexes = [models.Index(fields=["tenant", "-created_at", "-id"])]
        constraints = [
            models.UniqueConstraint(fields=["tenant", "agent_id"], name="agent_once"),
            models.CheckConstraint(condition=~Q(agent_id=""), name="agent_named"),
            models.CheckConstraint(condition=Q(status__in=["available", "busy", "offline"]), name="agent_status_known"),
        ]

    def __str__(self) -> str:
        return self.name or self.agent_id
