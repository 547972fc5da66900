"""What a person's role in a tenant lets them do. Pure.

Owns the words for it. Which tenant a person acts for now is `tenants.current`; what keys may do is `tenants.scopes`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class Power(StrEnum):
    """Everybody in a tenant reads all of it; these are for changing."""

    MODELS = "models"  # which models the tenant uses, and how
    KEYS = "keys"
    AGENTS = "agents"  # agents and what they prefer
    LIMITS = "limits"  # quotas and budgets
    SETTINGS = "settings"  # the tenant's name and what it set for itself
    PEOPLE = "people"  # members below owner
    OWNERS = "owners"


POWERS: Mapping[str, frozenset[Power]] = MappingProxyType(
    {
        "owner": frozenset(Power),
        "admin": frozenset(Power) - {Power.OWNERS},
        "billing": frozenset({Power.LIMITS}),
        "viewer": frozenset(),
    }
)


def may(role: str, power: Power) -> bool:
    """Whether a member with this role may use this power."""
    return power in POWERS[role]


def may_manage(role: str, other: str) -> bool:
    """Whether a member with this role may give, take or change the role `other`."""
    return may(role, Power.OWNERS if other == "owner" else Power.PEOPLE)
