"""Frozen values of the data plane for tests, each with sound defaults."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from billing.limit_terms import LimitTerms
from catalog.deployments import Deployment, PricePoint
from core.clock import unix_ms
from core.ids import uuid7_text
from embeddings.caller import Call
from embeddings.requests import EmbeddingRequest
from embeddings.snapshot import Choice, TenantSnapshot
from providers.base import Endpoint, Kind
from tenants.own_routes import OwnRoutes
from tenants.preferences import Preferences
from tenants.settings import TenantSettings
from tenants.snapshots import ConfiguredModel, KeyGrant, TenantConfig

ACME, MALLORY = UUID(int=1), UUID(int=666)
NOW = datetime(2026, 11, 15, 12, tzinfo=UTC)
TWO_CENTS = 20_000_000  # nano-dollars per million tokens


def endpoint(slug: str = "openai", credential: str = "c1", **words: Any) -> Endpoint:
    return Endpoint(slug, Kind.OPENAI, credential_id=credential, secret={"api_key": f"sk-{credential}"}, **words)


def deployment(
    name: str = "small", *, provider: str = "openai", price: int | None = TWO_CENTS, **words: Any
) -> Deployment:
    """A model of four dimensions at $0.02 per million, with one credential."""
    facts: dict[str, Any] = {
        "model_id": uuid4(),
        "name": name,
        "identifier": name,
        "provider": provider,
        "kind": Kind.OPENAI,
        "endpoints": (endpoint(provider),),
        "is_provider_enabled": True,
        "space": name,
        "epoch": 1,
        "dimensions": 4,
        "allowed_dimensions": frozenset(),
        "takes_dimensions": False,
        "is_matryoshka": False,
        "max_tokens": 100,
        "max_items": 2048,
        "max_tokens_per_call": 300_000,
        "tokenizer": "cl100k_base",
        "quality_score": None,
        "minimum_tier": "free",
        "state": "available",
        "deprecated_at": None,
        "sunset_at": None,
        "successor": None,
        "created_at": NOW - timedelta(days=100),
        "prices": () if price is None else (PricePoint(NOW - timedelta(days=1), price),),
    }
    return Deployment(**{**facts, **words})


def choice(of: Deployment | None = None, **words: Any) -> Choice:
    """`of` as a tenant configured it."""
    of = of or deployment()
    facts: dict[str, Any] = {
        "tenant_model_id": uuid4(),
        "model_id": of.model_id,
        "is_enabled": True,
        "is_default": False,
        "priority": 0,
        "nano_per_million": None,
        "fallback_model_id": None,
    }
    return Choice(of, ConfiguredModel(**{**facts, **words}))


def snapshot(
    *choices: Choice,
    tier: str = "standard",
    version: int = 1,
    tenant_id: UUID = ACME,
    limits: tuple[LimitTerms, ...] = (),
    agents: Mapping[str, Preferences] | None = None,
    own: Mapping[str, OwnRoutes] | None = None,
    **settings: Any,
) -> TenantSnapshot:
    """A tenant with these models, the preferred one first, and with these settings of its own."""
    config = TenantConfig(
        tenant_id=tenant_id,
        slug="acme",
        tier=tier,
        is_suspended=False,
        settings=TenantSettings(**settings),
        version=version,
        models=tuple(c.configured for c in choices),
        agents=agents or {},
    )
    return TenantSnapshot(config, 1, choices, limits, own or {})


def limit(
    measure: str = "tokens", amount: int = 100, period: str = "month", *, of: Choice | None = None, **words: Any
) -> LimitTerms:
    """A hard limit of the tenant, or of one of its models; `amount` in tokens, requests or nano-dollars."""
    scope, scope_id = ("tenant", "") if of is None else ("model", str(of.configured.tenant_model_id))
    facts: dict[str, Any] = {"scope": scope, "scope_id": scope_id, "mode": "hard"}
    return LimitTerms(limit_id=uuid4(), measure=measure, period=period, amount=amount, **{**facts, **words})


def grant(**words: Any) -> KeyGrant:
    facts: dict[str, Any] = {
        "key_id": UUID(int=7),
        "tenant_id": UUID(int=1),
        "tenant_version": 1,
        "scopes": frozenset({"embeddings"}),
        "models": frozenset(),
        "networks": (),
        "agent_id": "",
        "expires_at": None,
        "lines": (words.get("key_id", UUID(int=7)),),
    }
    return KeyGrant(**{**facts, **words})


def request(*texts: str, **words: Any) -> EmbeddingRequest:
    """A request for these texts, of the tenant's default unless it names a model."""
    return EmbeddingRequest(**{"texts": list(texts or ("hello world",)), "tokens": [], "model": None, **words})


def token_request(*arrays: list[int], **words: Any) -> EmbeddingRequest:
    return EmbeddingRequest(**{"texts": [], "tokens": list(arrays), "model": None, **words})


def call(of: TenantSnapshot, *, seconds: float = 5.0, key: KeyGrant | None = None, **words: Any) -> Call:
    now, created_ms = time.monotonic(), unix_ms()
    return Call(uuid7_text(created_ms), created_ms, key or grant(), of, now, now + seconds, **words)
