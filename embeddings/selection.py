"""Which models may answer a request, in which order, and why. Pure.

Decides in two steps. `plan` takes what may answer at all, in order (`finding.py`), and judges each by its rows
(`faults.py`): that much is the same for every such request until a row changes. `fit` looks at one entry for this very
request: size, price, sunset. Every model that cannot answer is dropped with its reason. Health and limits are the
gateway's, at the call.

The rule that vector spaces never mix silently is held here: a request that names a model gets that model's
space, or the fallback that the tenant's admin wrote down, and nothing else; its own `fallback` can only narrow that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from math import inf
from types import MappingProxyType
from uuid import UUID

import msgspec

from core import errors
from core.money import cost_nano
from embeddings import preferring
from embeddings.faults import left_out, not_available, not_permitted, other_shape, too_dear, too_long
from embeddings.finding import NO_WISHES, REQUESTED, Eligible, Question, find
from embeddings.requests import EmbeddingRequest, Strategy
from embeddings.routes import route_key
from embeddings.snapshot import Choice, TenantSnapshot
from embeddings.tokens import CL100K, Size
from embeddings.ways import by_ways, can_be_called
from providers.base import Kind
from tenants.preferences import Preferences
from tenants.settings import Fallback

_NONE: Mapping[int, errors.QuiverError] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Plan:
    """In order of preference, those that cannot answer among them. Holds as long as its snapshot does."""

    entries: tuple[Eligible, ...]
    strategy: Strategy

    def in_order(self, latency_ms: Mapping[UUID, float]) -> Sequence[Eligible]:
        """Live latency is never kept: it is looked at each time."""
        if self.strategy != "latency":
            return self.entries
        return sorted(
            self.entries,
            key=lambda e: (
                e.is_fallback,
                not e.is_preferred,
                not e.choice.configured.is_enabled,
                latency_ms.get(e.choice.deployment.model_id, inf),
            ),
        )


class Candidate(msgspec.Struct, frozen=True, gc=False):
    """A model that can answer this request. `held_tokens` is an upper bound of what the provider will count."""

    choice: Choice
    reason: str
    dimensions: int
    size: Size
    held_tokens: int
    nano_per_million: int
    too_dear: errors.QuiverError | None = None  # for what must be computed; what is in the cache may be answered
    too_long: Mapping[int, errors.QuiverError] = _NONE  # items that fail alone, by index
    way: str = ""  # with whose credential, where the tenant has one of its own

    @property
    def held_nano(self) -> int:
        return cost_nano(self.held_tokens, self.nano_per_million)

    @property
    def counts(self) -> Sequence[int]:
        """Tokens of each item, as far as it is sent."""
        most = self.choice.deployment.max_tokens
        return self.size.counts if self.held_tokens == self.size.total else [min(c, most) for c in self.size.counts]


@dataclass(frozen=True, slots=True)
class Dropped:
    """A model that cannot answer, why, and the error that says so when nothing else is left."""

    choice: Choice
    reason: str
    error: errors.QuiverError


@dataclass(frozen=True, slots=True)
class Chain:
    candidates: tuple[Candidate, ...]
    dropped: tuple[Dropped, ...]


def question(
    request: EmbeddingRequest, allowed_models: frozenset[str], *, agent_id: str = "", is_ordered: bool = False
) -> Question:
    """What `plan` has to know of a request."""
    return Question(
        request.model,
        request.strategy,
        request.fallback,
        request.dimensions,
        request.required_space,
        request.required_space_dimensions,
        allowed_models,
        agent_id,
        request.task_type if agent_id else "",
        is_ordered,
    )


def plan(asked: Question, snapshot: TenantSnapshot, now: datetime, preferences: Preferences = NO_WISHES) -> Plan:
    """The configured part. Raises `ModelNotConfigured` when the name stands for nothing of this tenant's."""
    judged = [_judged(entry, asked, snapshot, preferences) for entry in find(asked, snapshot, preferences, now)]
    forbidden = _prohibition(judged)
    if forbidden is not None:
        judged = [replace(each, fault=each.fault or forbidden) for each in judged]
    if asked.model is None:  # what the agent does not use at all is listed for its reason only
        judged.sort(key=lambda e: isinstance(e.fault, errors.KeyNotPermitted) and not e.is_preferred)
    fallback = asked.fallback or snapshot.config.settings.fallback
    return Plan(tuple(by_ways(_narrowed(judged, fallback), snapshot)), asked.strategy)


def fit(
    entry: Eligible, request: EmbeddingRequest, snapshot: TenantSnapshot, size: Size | None, now: datetime
) -> Candidate | Dropped:
    """Whether an entry can answer this very request, now. `size` is the request's under the entry's tokenizer; None
    where it takes only text and these tokens are none."""
    choice, fault = entry.choice, entry.fault
    deployment = choice.deployment
    if fault is None and size is None:
        fault = errors.InvalidRequest(
            f"These token arrays are no valid UTF-8 by themselves, and {deployment.name} takes only text.",
            param="input",
        )
    if fault is None and deployment.sunset_at is not None and deployment.sunset_at <= now:
        fault = errors.NoModelAvailable(
            f"{deployment.name} at {deployment.provider} is past its sunset of {deployment.sunset_at:%Y-%m-%d}."
        )
    if fault is not None or size is None:
        assert fault is not None
        return Dropped(choice, fault.message, fault)
    longer = too_long(request, choice, size)
    if longer and (not request.is_partial or len(longer) == request.items):
        first = next(iter(longer.values()))
        return Dropped(choice, first.message, first)
    held = size.total
    if request.truncate:
        held = sum(min(count, deployment.max_tokens) for count in size.counts)
    price = choice.price_at(now)
    dear = too_dear(request, snapshot, choice, price, held)
    return Candidate(choice, entry.reason, entry.dimensions, size, held, price or 0, dear, longer, entry.way)


def rank(
    found: Plan,
    request: EmbeddingRequest,
    snapshot: TenantSnapshot,
    sizes: Mapping[str, Size | None],
    *,
    latency_ms: Mapping[UUID, float],
    now: datetime,
    preferences: Preferences = NO_WISHES,
) -> Chain:
    """The whole chain at once, too dear ones among the dropped: for who explains it and calls nobody."""
    candidates: list[Candidate] = []
    dropped: list[Dropped] = []
    for entry in found.in_order(latency_ms):
        fitted = fit(entry, request, snapshot, sizes[entry.choice.deployment.tokenizer], now)
        slow = preferring.too_slow(entry.choice, preferences, latency_ms)
        if isinstance(fitted, Dropped):
            dropped.append(fitted)
        elif slow is not None:
            dropped.append(Dropped(fitted.choice, slow.message, slow))
        elif fitted.too_dear is not None:
            dropped.append(Dropped(fitted.choice, fitted.too_dear.message, fitted.too_dear))
        else:
            candidates.append(fitted)
    return Chain(tuple(candidates), tuple(dropped))


def quickest(choices: Iterable[Choice], p50_ms: Mapping[str, float]) -> dict[UUID, float]:
    """The median of each model's quickest route, by the medians of routes; none for a model that was not called."""
    found: dict[UUID, float] = {}
    for choice in choices:
        deployment = choice.deployment
        known = [p50_ms.get(route_key(each, deployment.identifier)) for each in choice.endpoints]
        known.append(found.get(deployment.model_id))  # by another way to it
        if times := [ms for ms in known if ms is not None]:
            found[deployment.model_id] = min(times)
    return found


def refusal(dropped: Sequence[Dropped]) -> errors.QuiverError:
    """The error of a chain without candidates: that of the model preferred most."""
    if not dropped:
        return errors.NoModelAvailable("No model is configured and enabled for this tenant; configure one first.")
    first = dropped[0]
    if isinstance(first.error, errors.NoModelAvailable):
        listed = [
            {"model": d.choice.deployment.name, "provider": d.choice.deployment.provider, "reason": d.reason}
            for d in dropped
        ]
        return errors.NoModelAvailable(first.reason, extra={"dropped": listed})
    return first.error


def _judged(entry: Eligible, asked: Question, snapshot: TenantSnapshot, preferences: Preferences) -> Eligible:
    choice = entry.choice
    dimensions = asked.dimensions or entry.own_dimensions or choice.deployment.dimensions
    fault = (
        not_permitted(choice, snapshot, asked.allowed_models)
        or not_available(choice, can_be_called=can_be_called(choice, snapshot))
        or other_shape(asked, choice, dimensions)
        or preferring.not_own(choice, snapshot, preferences)
    )
    return replace(entry, dimensions=dimensions, fault=fault)


def _prohibition(judged: Sequence[Eligible]) -> errors.QuiverError | None:
    """Set when the caller may use none of what it named: then a fallback would be a way around the prohibition."""
    faults = [e.fault for e in judged if e.reason == REQUESTED]
    if faults and all(isinstance(f, errors.KeyNotPermitted | errors.ModelNotConfigured) for f in faults):
        return faults[0]
    return None


def _narrowed(judged: Sequence[Eligible], fallback: Fallback) -> list[Eligible]:
    """What `fallback`, the caller's or else the tenant's, leaves of the entries: all; those of one space; one. The
    others are dropped for it.

    Neither `space` nor `none` leads to what the tenant's admin wrote down, and `none` keeps to the name that was asked.
    """
    if fallback == "auto":
        return list(judged)
    is_named = any(e.reason == REQUESTED for e in judged)
    left = [e for e in judged if not e.is_fallback and (fallback == "space" or not is_named or e.reason == REQUESTED)]
    first = next((e for e in left if e.fault is None), None)
    if fallback == "none":
        left = [] if first is None else [first]
    elif first is not None:
        left = [e for e in left if _place(e) == _place(first)]
    kept = {e.choice.configured.tenant_model_id for e in left}
    return [
        e if e.fault or e.choice.configured.tenant_model_id in kept else replace(e, fault=left_out(e.choice, fallback))
        for e in judged
    ]


def _place(entry: Eligible) -> tuple[str, int, int]:
    return entry.choice.deployment.space, entry.choice.deployment.epoch, entry.dimensions


def takes_tokens(choice: Choice) -> bool:
    """Whether the provider takes cl100k token arrays as they are; others get the text that they stand for."""
    return choice.deployment.tokenizer == CL100K and choice.deployment.kind in (
        Kind.OPENAI,
        Kind.AZURE,
        Kind.OPENAI_COMPATIBLE,
    )
