"""What a person's role in a tenant lets them do. Pure.

Owns the words for it, and how far the keys reach that a member has made. Which tenant a person acts for now is
`tenants.current`; what a key may do is `tenants.scopes`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from tenants.scopes import TENANT_SCOPES, Scope


class Power(StrEnum):
    """Everybody in a tenant reads all of it but its audit log; the others are for changing."""

    MODELS = "models"  # which models the tenant uses, and how
    KEYS = "keys"
    AGENTS = "agents"  # agents and what they prefer
    LIMITS = "limits"  # quotas and budgets
    SETTINGS = "settings"  # the tenant's name and what it set for itself
    PEOPLE = "people"  # members below owner
    OWNERS = "owners"
    AUDIT = "audit"  # reading who did what


POWERS: Mapping[str, frozenset[Power]] = MappingProxyType(
    {
        "owner": frozenset(Power),
        "admin": frozenset(Power) - {Power.OWNERS},
        "billing": frozenset({Power.LIMITS}),
        "viewer": frozenset(),
    }
)


_READING = frozenset({Scope.MODELS_READ, Scope.USAGE_READ, Scope.COLLECTIONS_READ})
# The most that a key may do whose maker has this role now; who has none any more has made keys that do nothing.
SCOPES: Mapping[str, frozenset[Scope]] = MappingProxyType(
    {
        "owner": TENANT_SCOPES,
        "admin": TENANT_SCOPES,
        "billing": _READING | {Scope.BILLING_WRITE},
        "viewer": _READING,
    }
)
_ORDER = ("owner", "admin", "billing", "viewer")


def lesser(one: str, other: str) -> str:
    """The role of the two that may do less."""
    return max(one, other, key=_ORDER.index)


def may(role: str, power: Power) -> bool:
    """Whether a member with this role may use this power."""
    return power in POWERS[role]


def may_manage(role: str, other: str) -> bool:
    """Whether a member with this role may give, take or change the role `other`."""
    return may(role, Power.OWNERS if other == "owner" else Power.PEOPLE)
