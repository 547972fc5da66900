"""`GET /v1/models`: the models that a key may use, as OpenAI lists them, with Quiver's detail."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import orjson

from core.errors import NotFound
from core.money import usd_text
from embeddings.answers import deprecation_of
from embeddings.snapshot import Choice, TenantSnapshot
from tenants.snapshots import KeyGrant


def list_models(snapshot: TenantSnapshot, key: KeyGrant, now: datetime) -> bytes:
    """Each name once: of several providers' the one preferred most."""
    first: dict[str, Choice] = {}
    for choice in snapshot.choices:
        if _is_usable(choice, key):
            first.setdefault(choice.deployment.name, choice)
    return orjson.dumps({"object": "list", "data": [_described(choice, now) for choice in first.values()]})


def get_model(snapshot: TenantSnapshot, key: KeyGrant, name: str, now: datetime) -> bytes:
    """By name, identifier or `provider/name`. Raises `NotFound`."""
    for choice in snapshot.by_name.get(name, ()):
        if _is_usable(choice, key):
            return orjson.dumps(_described(choice, now))
    raise NotFound(f"This key can use no model {name[:200]!r}.", param="model")


def _is_usable(choice: Choice, key: KeyGrant) -> bool:
    deployment = choice.deployment
    is_allowed = not key.models or deployment.name in key.models or deployment.identifier in key.models
    return choice.configured.is_enabled and is_allowed and deployment.state in ("available", "deprecated")


def _described(choice: Choice, now: datetime) -> dict[str, Any]:
    deployment = choice.deployment
    price = choice.price_at(now)
    return {
        "id": deployment.name,
        "object": "model",
        "created": int(deployment.created_at.timestamp()),
        "owned_by": deployment.provider,
        "quiver": {
            "provider": deployment.provider,
            "identifier": deployment.identifier,
            "space": deployment.space,
            "dimensions": deployment.dimensions,
            "allowed_dimensions": sorted(deployment.allowed_dimensions),
            "matryoshka": deployment.is_matryoshka,
            "max_tokens": deployment.max_tokens,
            "cost_per_million_tokens": None if price is None else usd_text(price),
            "state": deployment.state,
            "is_default": choice.configured.is_default,
            "deprecation": deprecation_of(deployment),
        },
    }
