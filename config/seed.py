"""What a new platform starts with: the catalogue, an operator, a demo tenant, the timetable, this month's partitions.

Idempotent, and only ever adds: a row that is there is the operator's, whatever was done to it. Passwords and keys are
in the returned dict and nowhere else; those of `previous` that still work are kept.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from django.conf import settings
from django.db import transaction
from django_celery_beat.models import CrontabSchedule, IntervalSchedule, PeriodicTask

from billing.partitions import make_partitions
from catalog import services as catalog
from catalog import upstreams
from catalog.lifecycle import Proof
from catalog.models import EmbeddingModel, Provider
from core.clock import utc_now
from providers.base import Kind
from providers.local_models import available_models
from tenants import members, minting
from tenants import services as tenants
from tenants.keys import digest
from tenants.loading import find_key
from tenants.model_states import SERVING
from tenants.models import Role, Tenant, User
from tenants.rights import Rights
from tenants.scopes import Scope, allows
from tenants.selectors import configured_models

ADMIN_EMAIL = "admin@quiver.local"
DEMO_OWNER_EMAIL = "owner@demo.quiver.local"
_OF_DEMO = ("tenant", "tenant_id", "api_key", "model", "owner_email", "owner_password")
OPERATOR_KEY, DEMO_KEY = "quickstart operator", "quickstart demo"
DEMO_SCOPES = frozenset({Scope.EMBEDDINGS, Scope.MODELS_READ, Scope.USAGE_READ})
LIST_PRICE = "vendor's list price, 2026-11"


class Model(NamedTuple):
    """One row of the table below; its name is the vendor's identifier."""

    provider: str
    identifier: str
    dimensions: int
    max_tokens: int
    usd_per_million: str
    allowed: Sequence[int] = ()
    capabilities: Sequence[str] = ()
    tokenizer: str = "bytes"
    space: str = ""  # empty: the identifier

    @property
    def artifact(self) -> str:
        return self.space or self.identifier


# Name, task, minutes between.
_REGULAR = (
    ("check limits", "billing.tasks.check_limits", 1),
    ("check budgets", "billing.tasks.check_budgets", 1),
    ("check provider excess", "billing.tasks.check_provider_excess", 5),
    ("add up usage", "billing.tasks.add_up_usage", 1),
    ("deliver alerts", "alerts.tasks.deliver_due", 1),
    ("follow breakers", "embeddings.tasks.follow_breakers", 1),
)
CL100K = "cl100k_base"
_CUT = ("dimensions", "matryoshka")
_TAKES = ("dimensions",)
VENDORS = {
    "openai": Kind.OPENAI,
    "bedrock": Kind.BEDROCK,
    "google": Kind.GOOGLE,
    "vertex": Kind.VERTEX,
}
MODELS = (
    Model("openai", "text-embedding-3-small", 1536, 8192, "0.02", capabilities=_CUT, tokenizer=CL100K),
    Model("openai", "text-embedding-3-large", 3072, 8192, "0.13", capabilities=_CUT, tokenizer=CL100K),
    Model("openai", "text-embedding-ada-002", 1536, 8192, "0.10", tokenizer=CL100K),
    Model("bedrock", "amazon.titan-embed-text-v2:0", 1024, 8192, "0.02", (256, 512), _TAKES),
    Model("bedrock", "amazon.titan-embed-text-v1", 1536, 8192, "0.10"),
    Model("bedrock", "cohere.embed-english-v3", 1024, 512, "0.10", space="embed-english-v3.0"),
    Model("bedrock", "cohere.embed-multilingual-v3", 1024, 512, "0.10", space="embed-multilingual-v3.0"),
    Model("bedrock", "cohere.embed-v4:0", 1536, 128_000, "0.12", (256, 512, 1024), _TAKES),
    Model("google", "gemini-embedding-001", 3072, 2048, "0.15", (768, 1536), _TAKES),
    Model("google", "gemini-embedding-2", 3072, 8192, "0.20"),
    Model("vertex", "text-embedding-005", 768, 2048, "0.10"),
    Model("vertex", "text-multilingual-embedding-002", 768, 2048, "0.10"),
)


@transaction.atomic
def seed(*, demo: bool, previous: dict[str, Any] | None) -> dict[str, Any]:
    """Adds what is missing; returns what `quickstart.json` tells of it."""
    said = previous or {}
    local = _catalogue()
    _timetable()
    make_partitions(today=utc_now().date(), ahead=settings.QUIVER.partitions_ahead)
    return {
        "admin_email": ADMIN_EMAIL,
        "admin_password": _password(_operator(), "admin_password", said),
        "operator_key": _key(None, OPERATOR_KEY, frozenset({Scope.OPERATOR}), said.get("operator_key")),
        **(_demo(local, said) if demo else dict.fromkeys(_OF_DEMO)),
    }


def _catalogue() -> EmbeddingModel:
    """All rows; returns that of the best local model."""
    for slug, kind in {**VENDORS, "local": Kind.LOCAL}.items():
        if not Provider.objects.filter(slug=slug).exists():
            upstreams.add_provider(slug=slug, kind=kind)
    found = [
        Model(
            "local",
            each.identifier,
            each.dimensions,
            each.max_tokens,
            "0",
            [width for width in each.allowed_dimensions if width != each.dimensions],
            _TAKES if len(each.allowed_dimensions) > 1 else (),
            each.tokenizer,
            each.space,
        )
        for each in available_models()
    ]
    for model in (*MODELS, *found):
        _add(model)
    return EmbeddingModel.objects.get(provider__slug="local", name=found[0].identifier)


def _add(model: Model) -> None:
    if EmbeddingModel.objects.filter(provider__slug=model.provider, name=model.identifier).exists():
        return
    row = catalog.add_model(
        provider=model.provider,
        name=model.identifier,
        identifier=model.identifier,
        dimensions=model.dimensions,
        space=model.artifact,
        allowed_dimensions=model.allowed,
        capabilities=model.capabilities,
        max_tokens=model.max_tokens,
        tokenizer=model.tokenizer,
        cost_per_million_tokens=Decimal(model.usd_per_million),
        source=LIST_PRICE if model.provider != "local" else "computed here",
    )
    # Without a probe: vendors' models are described well enough, and nobody has a credential for them yet.
    for state in ("testing", "available"):
        catalog.move_model(model_id=row.id, to=state, reason="seeded", proof=Proof.VOUCHED)


_DAILY = {  # name: task, hour, minute (UTC); an hour of "*" is every hour
    "make usage partitions": ("billing.tasks.make_usage_partitions", "0", "7"),
    "forget idempotency claims": ("billing.tasks.forget_claims", "*", "*/15"),
    "forget usage": ("billing.tasks.forget_usage", "1", "17"),
    "adjust for price corrections": ("billing.tasks.adjust_for_corrections", "0", "37"),
    "look at sunsets": ("billing.tasks.look_at_sunsets", "*", "27"),
    "discover models": ("catalog.tasks.discover_all", "3", "17"),
    "check prices": ("catalog.tasks.update_prices", "3", "47"),
    "recheck shared spaces": ("catalog.tasks.recheck_spaces", "2", "17"),
}


def _timetable() -> None:
    """Beat's rows; the operator may edit them afterwards."""
    for name, (task, hour, minute) in _DAILY.items():
        when, _ = CrontabSchedule.objects.get_or_create(
            minute=minute, hour=hour, day_of_week="*", day_of_month="*", month_of_year="*", timezone="UTC"
        )
        PeriodicTask.objects.get_or_create(name=name, defaults={"task": task, "crontab": when})
    for name, task, minutes in _REGULAR:
        interval, _ = IntervalSchedule.objects.get_or_create(every=minutes, period=IntervalSchedule.MINUTES)
        PeriodicTask.objects.get_or_create(name=name, defaults={"task": task, "interval": interval})


def _operator() -> User:
    found = User.objects.filter(email=ADMIN_EMAIL).first()
    return found or tenants.add_user(email=ADMIN_EMAIL, name="Operator", is_operator=True)


def _password(user: User, name: str, said: dict[str, Any]) -> str | None:
    """What was told under this name, while it works. None when the person has chosen another one since: that one is
    not ours to know, nor to replace."""
    if user.has_usable_password() and name in said:
        previous = said[name]
        return previous if previous and user.check_password(previous) else None
    password = secrets.token_urlsafe(16)
    tenants.set_password(user=user, password=password)
    return password


def _key(tenant: Tenant | None, name: str, scopes: frozenset[Scope], previous: str | None) -> str:
    grant = find_key(digest(previous)) if previous else None
    if (
        previous
        and grant is not None
        and grant.tenant_id == (tenant and tenant.id)
        and (grant.expires_at is None or grant.expires_at > utc_now())
        and all(allows(grant.scopes, scope) for scope in scopes)
    ):
        return previous
    return minting.remint_key(tenant_id=tenant.id if tenant else None, name=name, rights=Rights(scopes))[1]


def _demo(local: EmbeddingModel, said: dict[str, Any]) -> dict[str, str | None]:
    tenant = Tenant.objects.filter(slug="demo").first() or _demo_tenant(local)
    usable = configured_models(tenant.id).filter(state__in=SERVING).order_by("-is_default", "-priority")
    row = usable.filter(model__provider__kind=Kind.LOCAL).first()
    owner = User.objects.filter(email=DEMO_OWNER_EMAIL, memberships__tenant=tenant).first()
    return {
        "tenant": tenant.slug,
        "tenant_id": str(tenant.id),
        "api_key": _key(tenant, DEMO_KEY, DEMO_SCOPES, said.get("api_key")),
        "model": row.model.name if row else local.name,
        "owner_email": None if owner is None else owner.email,
        "owner_password": None if owner is None else _password(owner, "owner_password", said),
    }


def _demo_tenant(local: EmbeddingModel) -> Tenant:
    tenant = tenants.add_tenant(name="Demo", slug="demo")
    owner = User.objects.filter(email=DEMO_OWNER_EMAIL).first()
    members.add_member(
        tenant_id=tenant.id,
        user=owner or tenants.add_user(email=DEMO_OWNER_EMAIL, name="Demo owner"),
        role=Role.OWNER,
    )
    tenants.configure_model(tenant_id=tenant.id, model_id=local.id, is_default=True, priority=10)
    openai = EmbeddingModel.objects.get(provider__slug="openai", name="text-embedding-3-small")
    tenants.configure_model(tenant_id=tenant.id, model_id=openai.id)
    return tenant
