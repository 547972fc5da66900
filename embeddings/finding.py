"""Which models may answer at all, as far as names and wishes go, in order of preference, each with its reason. Pure.

Owns what a name stands for, what a free choice is, and how an agent's preferences and a strategy order both. Whether
one of them can answer is `faults.py` and `selection.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from math import inf
from uuid import UUID

import msgspec

from core import errors
from embeddings import preferring
from embeddings.requests import Strategy
from embeddings.snapshot import Choice, TenantSnapshot
from tenants.preferences import Preferences
from tenants.settings import Fallback

REQUESTED = "requested"
NO_WISHES = Preferences()
_BY: Mapping[Strategy, str] = {"cost": "by price", "latency": "by latency", "quality": "by quality"}


class Question(msgspec.Struct, frozen=True, gc=False):
    """What of a request decides the configured part of its chain; equal questions to one snapshot have one plan."""

    model: str | None
    strategy: Strategy
    fallback: Fallback | None
    dimensions: int | None
    required_space: str
    required_space_dimensions: int | None
    allowed_models: frozenset[str]  # of the key; empty: all
    agent_id: str = ""
    task_type: str = ""  # where an agent may have a model for it
    is_ordered: bool = False  # the request itself asks for an order


@dataclass(frozen=True, slots=True)
class Eligible:
    """A model that may answer as far as its name and the tenant's wishes go; `fault` is why its rows forbid it."""

    choice: Choice
    reason: str
    is_fallback: bool = False
    is_preferred: bool = False  # by the agent that asks
    own_dimensions: int | None = None  # the requested model's: its space at another width is not comparable
    dimensions: int = 0
    way: str = ""  # with whose credential, where the tenant has one of its own
    fault: errors.QuiverError | None = None


def find(asked: Question, snapshot: TenantSnapshot, preferences: Preferences, now: datetime) -> list[Eligible]:
    """Raises `ModelNotConfigured` when the name stands for nothing of this tenant's."""
    if asked.model is not None:
        return _by_strategy(_named(asked.model, snapshot), asked.strategy, now)
    found = _by_strategy(_free_choice(snapshot, asked.strategy, now), asked.strategy, now)
    own = preferring.preferred(snapshot, preferences, asked.task_type)
    # An order that the request itself asks for goes over all; that of the agent begins behind the models it names.
    return _with_reasons(found, own) if asked.is_ordered else _preferred_first(found, own)


def suggested(snapshot: TenantSnapshot, *, but: Collection[str] = ()) -> list[str]:
    """Names that this tenant may ask for instead, the preferred first."""
    names = (c.deployment.name for c in snapshot.choices if c.configured.is_enabled)
    return list(dict.fromkeys(name for name in names if name not in but))[:10]


def _by_strategy(found: list[Eligible], strategy: Strategy, now: datetime) -> list[Eligible]:
    """What the admin wrote down as a fallback stays last: it may be another space; before it the disabled ones, which
    must not speak for the others. Live latency is looked at later, each time."""
    if strategy not in ("cost", "quality"):
        return found
    return sorted(
        found,
        key=lambda e: (e.is_fallback, not e.choice.configured.is_enabled, _badness(e.choice, strategy, now)),
    )


def _preferred_first(found: list[Eligible], own: list[tuple[Choice, str]]) -> list[Eligible]:
    if not own:
        return found
    entries = {_id(entry.choice): entry for entry in found}
    first = [replace(entries.pop(_id(choice)), reason=reason, is_preferred=True) for choice, reason in own]
    # Disabled ones last: they are listed for their reason only, and must not speak for the others.
    return sorted([*first, *entries.values()], key=lambda entry: not entry.choice.configured.is_enabled)


def _with_reasons(found: list[Eligible], own: list[tuple[Choice, str]]) -> list[Eligible]:
    reasons = {_id(choice): reason for choice, reason in own}
    return [replace(entry, reason=reasons.get(_id(entry.choice), entry.reason)) for entry in found]


def _id(choice: Choice) -> UUID:
    return choice.configured.tenant_model_id


def _free_choice(snapshot: TenantSnapshot, strategy: Strategy, now: datetime) -> list[Eligible]:
    first = [Eligible(snapshot.default, "the tenant's default")] if snapshot.default is not None else []
    others = [c for c in snapshot.choices if c is not snapshot.default]
    # Disabled ones last: they are listed for their reason only, and must not speak for the others.
    others.sort(key=lambda c: (not c.configured.is_enabled, -c.configured.priority, _badness(c, "cost", now)))
    return first + [Eligible(c, _BY.get(strategy, "by priority")) for c in others]


def _named(name: str, snapshot: TenantSnapshot) -> list[Eligible]:
    named = snapshot.by_name.get(name)
    if named is None:
        raise errors.ModelNotConfigured(
            f"No model {name!r} is configured for this tenant.",
            param="model",
            extra={"suggested_models": suggested(snapshot)},
        )
    # One name at two providers may still be two spaces; the one preferred most decides which is meant.
    usable = [c for c in named if c.configured.is_enabled] or list(named)
    space, width = usable[0].deployment.space, usable[0].deployment.dimensions
    found = [Eligible(c, REQUESTED, own_dimensions=width) for c in named if c.deployment.space == space]
    found += [Eligible(c, "same space as requested", own_dimensions=width) for c in _same_space(snapshot, space, named)]
    fallback = snapshot.by_model_id.get(usable[0].configured.fallback_model_id or UUID(int=0))
    if fallback is not None and all(e.choice is not fallback for e in found):
        found.append(Eligible(fallback, "fallback written down for the requested model", is_fallback=True))
    return found


def _badness(choice: Choice, strategy: Strategy, now: datetime) -> float:
    """What a strategy sorts by; what is not known counts as worst, so that no claim is made for it."""
    if strategy == "cost":
        price = choice.price_at(now)
        return inf if price is None else price
    return -(choice.deployment.quality_score or 0)


def _same_space(snapshot: TenantSnapshot, space: str, named: Collection[Choice]) -> list[Choice]:
    return [c for c in snapshot.choices if c.deployment.space == space and c not in named]
