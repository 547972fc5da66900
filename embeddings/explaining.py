"""Which models would answer a request of an agent, in which order, and why: selection and preferences put together.
Pure.

Owns the order of the steps (narrow, find, prefer, drop, rank) and the words in which a chain is shown. Calls nobody:
limits, breakers and the cache come in when a request is really made. Latencies are those that the caller knows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from core.errors import KeyNotPermitted
from core.money import usd_text
from embeddings import preferring, selection
from embeddings.requests import EmbeddingRequest, Strategy
from embeddings.selection import Candidate, Chain, Dropped, Eligible
from embeddings.snapshot import Choice, TenantSnapshot
from embeddings.tokens import Size
from tenants.preferences import Preferences

Sizes = Callable[[Collection[str]], Mapping[str, Size | None]]  # of the request, under these tokenizers
_BY: Mapping[Strategy, str] = {"cost": "by price", "latency": "by latency", "quality": "by quality"}
NONE = Preferences()


@dataclass(frozen=True, slots=True)
class Explained:
    chain: Chain
    missing: list[tuple[str, str]]  # names that the agent prefers and the tenant does not have, with their reasons


def explain(
    request: EmbeddingRequest,
    snapshot: TenantSnapshot,
    sizes: Sizes,
    *,
    preferences: Preferences = NONE,
    allowed_models: Collection[str] = (),
    latency_ms: Mapping[UUID, float],
    now: datetime,
) -> Explained:
    """The chain of a request. Raises `ModelNotConfigured` for a name that stands for nothing, `InvalidRequest` for what
    the agent rules out."""
    asked = preferring.narrowed(request, preferences)
    found = selection.eligible(asked.model, snapshot, strategy=asked.strategy, latency_ms=latency_ms, now=now)
    missing: list[tuple[str, str]] = []
    if asked.model is None:
        own = preferring.preferred(snapshot, preferences, asked.task_type)
        missing = preferring.missing(snapshot, preferences, asked.task_type)
        found = _by_strategy(found, snapshot, asked.strategy)
        # An order that the request itself asks for goes over all; that of the agent begins behind the models it names.
        found = _preferred_first(found, own) if request.strategy == "priority" else _with_reasons(found, own)
    unwanted = _unwanted(found, snapshot, preferences, latency_ms)
    wanted = [entry for entry in found if _id(entry.choice) not in unwanted]
    tokenizers = {entry.choice.deployment.tokenizer for entry in found}
    chain = selection.rank(asked, snapshot, wanted, sizes(tokenizers), allowed_models=allowed_models, now=now)
    candidates = () if _is_ruled_out(asked.model, snapshot, found, unwanted) else chain.candidates
    dropped = sorted([*chain.dropped, *unwanted.values()], key=_place(found, unwanted, is_free=asked.model is None))
    return Explained(Chain(candidates, tuple(dropped)), missing)


def candidates_of(explained: Explained) -> list[dict[str, Any]]:
    """Who may answer, for people and programs."""
    return [described(each) for each in explained.chain.candidates]


def described(candidate: Candidate) -> dict[str, Any]:
    deployment = candidate.choice.deployment
    return {
        "model": deployment.name,
        "provider": deployment.provider,
        "space": deployment.space,
        "dimensions": candidate.dimensions,
        "estimated_cost": usd_text(candidate.held_nano),
        "reasons": [candidate.reason],
    }


def dropped_of(explained: Explained) -> list[dict[str, Any]]:
    """Who may not, and why. A name that the tenant no longer has belongs to no provider."""
    named = [
        {"model": name, "provider": None, "reason": f"{name} is {reason}, but the tenant has no such model any more."}
        for name, reason in explained.missing
    ]
    return named + [
        {"model": d.choice.deployment.name, "provider": d.choice.deployment.provider, "reason": d.reason}
        for d in explained.chain.dropped
    ]


def _by_strategy(found: list[Eligible], snapshot: TenantSnapshot, strategy: Strategy) -> list[Eligible]:
    if strategy == "priority":
        return found
    return [e if e.choice is snapshot.default else replace(e, reason=_BY[strategy]) for e in found]


def _preferred_first(found: list[Eligible], own: list[tuple[Choice, str]]) -> list[Eligible]:
    entries = {_id(entry.choice): entry for entry in found}
    first = [replace(entries.pop(_id(choice)), reason=reason) for choice, reason in own]
    # Disabled ones last: they are listed for their reason only, and must not speak for the others.
    return sorted([*first, *entries.values()], key=lambda entry: not entry.choice.configured.is_enabled)


def _with_reasons(found: list[Eligible], own: list[tuple[Choice, str]]) -> list[Eligible]:
    reasons = {_id(choice): reason for choice, reason in own}
    return [replace(entry, reason=reasons.get(_id(entry.choice), entry.reason)) for entry in found]


def _unwanted(
    found: list[Eligible], snapshot: TenantSnapshot, preferences: Preferences, latency_ms: Mapping[UUID, float]
) -> dict[UUID, Dropped]:
    refused = {}
    for entry in found:
        error = preferring.unwanted(entry.choice, snapshot, preferences, latency_ms)
        if error is not None:
            refused[_id(entry.choice)] = Dropped(entry.choice, error.message, error)
    return refused


def _is_ruled_out(
    model: str | None, snapshot: TenantSnapshot, found: list[Eligible], unwanted: Mapping[UUID, Dropped]
) -> bool:
    """Whether the agent uses none of what was named: then a fallback would be a way around."""
    named = {_id(each) for each in snapshot.by_name.get(model or "", ())} & {_id(entry.choice) for entry in found}
    foreign = {each for each, dropped in unwanted.items() if isinstance(dropped.error, KeyNotPermitted)}
    return model is not None and bool(named) and named <= foreign


def _place(
    found: list[Eligible], unwanted: Mapping[UUID, Dropped], *, is_free: bool
) -> Callable[[Dropped], tuple[bool, int]]:
    """The order of what was dropped: the preferred first, for the first speaks for all. Where nobody named them, those
    that the agent does not use at all speak last."""
    places = {_id(entry.choice): place for place, entry in enumerate(found)}

    def place(dropped: Dropped) -> tuple[bool, int]:
        is_foreign = _id(dropped.choice) in unwanted and isinstance(dropped.error, KeyNotPermitted)
        return is_free and is_foreign, places[_id(dropped.choice)]

    return place


def _id(choice: Choice) -> UUID:
    return choice.configured.tenant_model_id
