"""Scopes of API keys: the words, and what contains what. Pure."""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum


class Scope(StrEnum):
    EMBEDDINGS = "embeddings"
    MODELS_READ = "models:read"
    MODELS_WRITE = "models:write"
    USAGE_READ = "usage:read"
    BILLING_WRITE = "billing:write"
    AGENTS_WRITE = "agents:write"
    KEYS_WRITE = "keys:write"
    COLLECTIONS_READ = "collections:read"
    COLLECTIONS_WRITE = "collections:write"
    ADMIN = "admin"  # all of the tenant
    OPERATOR = "operator"  # the platform


TENANT_SCOPES = frozenset(Scope) - {Scope.OPERATOR}


def allows(held: Collection[str], wanted: Scope) -> bool:
    """Whether a key with the scopes `held` may do what `wanted` names."""
    return wanted in held or Scope.OPERATOR in held or (Scope.ADMIN in held and wanted in TENANT_SCOPES)


def granting(wanted: Collection[Scope]) -> frozenset[str]:
    """The scopes of which one is enough for any of `wanted`."""
    return frozenset(held.value for held in Scope for each in wanted if allows((held,), each))


def common(held: Collection[str], others: Collection[str]) -> frozenset[str]:
    """What both allow."""
    if not beyond(others, held):
        return frozenset(held)
    return frozenset(scope.value for scope in Scope if allows(held, scope) and allows(others, scope))


def beyond(held: Collection[str], asked: Collection[str]) -> list[str]:
    """Those of `asked` that a creator with `held` cannot give away."""
    return sorted(s for s in asked if not allows(held, Scope(s)))
