"""A platform that looks lived in: the seeded catalogue and demo tenant, a month of requests, people, keys, limits."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.apps import apps

from core.clock import utc_now
from core.ids import uuid7, uuid7_time

_MODELS = (
    ("text-embedding-3-small", "openai", 20),
    ("cohere.embed-english-v3", "bedrock", 100),
    ("gemini-embedding-001", "google", 150),
)
_FAILURES = (("timeout", "no complete answer in time"), ("capacity", "HTTP 429 rate_limit_exceeded"))


def furnish() -> dict[str, Any]:
    """Returns what `quickstart.json` tells: addresses and passwords of the operator and of the tenant's owner."""
    from billing.partitions import make_partitions
    from config.seed import seed

    said = seed(demo=True, previous=None)
    tenant = UUID(said["tenant_id"])
    key = _access(tenant)
    _models(tenant)
    make_partitions(today=utc_now().date() - timedelta(days=31), ahead=1)
    for number in range(120):
        _request(tenant, key, number)
    return said


def rows() -> dict[str, list[str]]:
    """One row of each kind by the label of its model: that of the tenant where there is one."""
    found: dict[str, list[str]] = {}
    for model in apps.get_models():
        row = model._default_manager.order_by("-pk").first()
        found |= {model._meta.label_lower: [str(row.pk)]} if row is not None else {}
    return found


def _access(tenant: UUID) -> UUID:
    from tenants.invitations import invite
    from tenants.members import add_member
    from tenants.minting import mint_key
    from tenants.models import Role, User
    from tenants.rights import Rights
    from tenants.services import add_user

    owner = User.objects.get(email="owner@demo.quiver.local")
    for name, role in (("Ada Lovelace", Role.ADMIN), ("Grace Hopper", Role.VIEWER), ("Ida Rhodes", Role.BILLING)):
        user = add_user(email=f"{name.split()[0].lower()}@demo.quiver.local", name=name)
        add_member(tenant_id=tenant, user=user, role=role)
    invite(tenant_id=tenant, email="newcomer@example.com", role=Role.VIEWER, by=owner)
    rights = Rights(frozenset({"embeddings", "usage:read"}), agent_id="indexer")
    return mint_key(tenant_id=tenant, name="search backend", rights=rights, created_by=owner)[0].id


def _models(tenant: UUID) -> None:
    from billing.services import add_limit, configure_model
    from catalog.models import EmbeddingModel
    from catalog.services import move_model
    from catalog.upstreams import add_credential
    from tenants.selectors import configured_models

    secrets = {
        "openai": {"api_key": "sk-a-secret-of-a-picture"},
        "google": {"api_key": "a-secret-of-a-picture"},
        "bedrock": {"aws_access_key_id": "AKIAEXAMPLEEXAMPLE", "aws_secret_access_key": "a-secret-of-a-picture"},
    }
    for slug, secret in secrets.items():
        add_credential(slug=slug, secret=secret, label="production")
    there = set(configured_models(tenant).values_list("model__name", flat=True))
    for model in EmbeddingModel.objects.filter(name__in={name for name, _, _ in _MODELS} - there):
        configure_model(tenant_id=tenant, model_id=model.id, limits={"monthly_token_limit": 5_000_000})
    small = EmbeddingModel.objects.get(name="text-embedding-3-small")
    old = EmbeddingModel.objects.get(name="text-embedding-ada-002")
    move_model(model_id=old.id, to="deprecated", reason="the small one is better", successor=small.id)
    add_limit(
        tenant_id=tenant,
        scope="tenant",
        scope_id="",
        measure="usd",
        period="month",
        amount=Decimal(250),
        thresholds=[50, 80],
    )
    add_limit(
        tenant_id=tenant,
        scope="agent",
        scope_id="indexer",
        measure="requests",
        period="day",
        amount=Decimal(1000),
        thresholds=[],
    )


def _request(tenant: UUID, key: UUID, number: int) -> None:
    from billing.models import ProviderCall, UsageRow

    model, provider, price = _MODELS[number % len(_MODELS)]
    at = utc_now() - timedelta(minutes=3 * number**2)  # 30 days, the more the nearer
    outcome, detail = _FAILURES[number % 2] if number % 17 == 3 else ("ok", "")
    is_ok = outcome == "ok"
    row_id, call_id = (uuid7(int(at.timestamp() * 1000)) for _ in range(2))
    tokens = 90_000 + 13_700 * (number % 11)
    common = {"tenant_id": tenant, "model": model, "provider": provider, "created_at": uuid7_time(row_id)}
    UsageRow.objects.create(
        id=row_id, key_id=key, agent_id="indexer" if number % 3 else "", space=f"{provider}/{model}", source="api",
        status="ok" if is_ok else "provider_error", tokens=tokens if is_ok else 0, held_tokens=tokens, items=8,
        cost_usd=Decimal(tokens * price) / 10**9 if is_ok else 0, latency_ms=38.2 + number % 40, attempts=1, **common,
    )  # fmt: skip
    ProviderCall.objects.create(
        id=call_id, request_id=row_id, model_id=row_id, credential_id="production", items=8, outcome=outcome,
        tokens=tokens if is_ok else None, detail=detail, upstream_id=f"req_{number}", latency_ms=31.4 + number % 40,
        **common,
    )  # fmt: skip
