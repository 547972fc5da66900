"""Which models may answer a request, in which order, and why. Pure.

Decides in two steps. `plan` finds by name or by freedom of choice what may answer at all, in order, and judges each by
its rows: that much is the same for every such request until a row changes. `fit` looks at one entry for this very
request: size, price, sunset. Every model that cannot answer is dropped with its reason. Health and limits are the
gateway's, at the call.

The rule that vector spaces never mix silently (DESIGN 5.1) is held here: a request that names a model gets that model's
space, or the fallback that the tenant's admin wrote down, and nothing else; its own `fallback` can only narrow that.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from math import inf
from uuid import UUID

from core import errors
from core.money import cost_nano
from embeddings.requests import EmbeddingRequest, Fallback, Strategy
from embeddings.snapshot import Choice, TenantSnapshot
from embeddings.tokens import CL100K, Size
from providers.base import Kind

_REQUESTED = "requested"
_TIERS = {"free": 0, "standard": 1, "enterprise": 2}


@dataclass(frozen=True, slots=True)
class Question:
    """What of a request decides the configured part of its chain; equal questions to one snapshot have one plan."""

    model: str | None
    strategy: Strategy
    fallback: Fallback
    dimensions: int | None
    required_space: str
    required_space_dimensions: int | None
    allowed_models: frozenset[str]  # of the key; empty: all


@dataclass(frozen=True, slots=True)
class Eligible:
    """A model that may answer as far as its name and the tenant's wishes go; `fault` is why its rows forbid it."""

    choice: Choice
    reason: str
    is_fallback: bool = False
    own_dimensions: int | None = None  # the requested model's: its space at another width is not comparable
    dimensions: int = 0
    fault: errors.QuiverError | None = None


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
                not e.choice.configured.is_enabled,
                latency_ms.get(e.choice.deployment.model_id, inf),
            ),
        )


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that can answer this request. `held_tokens` is an upper bound of what the provider will count."""

    choice: Choice
    reason: str
    dimensions: int
    size: Size
    held_tokens: int
    nano_per_million: int
    too_dear: errors.QuiverError | None = None  # for what must be computed; what is in the cache may be answered
    too_long: Mapping[int, errors.QuiverError] = field(default_factory=dict)  # items that fail alone, by index

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


def question(request: EmbeddingRequest, allowed_models: frozenset[str]) -> Question:
    """What `plan` has to know of a request."""
    return Question(
        request.model,
        request.strategy,
        request.fallback,
        request.dimensions,
        request.required_space,
        request.required_space_dimensions,
        allowed_models,
    )


def plan(asked: Question, snapshot: TenantSnapshot, now: datetime) -> Plan:
    """The configured part. Raises `ModelNotConfigured` when the name stands for nothing of this tenant's."""
    found = _free_choice(snapshot) if asked.model is None else _named(asked.model, snapshot)
    if asked.strategy in ("cost", "quality"):
        # What the admin wrote down as a fallback stays last: it may be another space; before it the
        # disabled ones, which must not speak for the others.
        found.sort(
            key=lambda e: (
                e.is_fallback,
                not e.choice.configured.is_enabled,
                _badness(e.choice, asked.strategy, now),
            )
        )
    judged = [_judged(entry, asked, snapshot) for entry in found]
    forbidden = _prohibition(judged)
    if forbidden is not None:
        judged = [replace(each, fault=each.fault or forbidden) for each in judged]
    return Plan(tuple(_narrowed(judged, asked.fallback)), asked.strategy)


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
    too_long = _too_long(request, choice, size)
    if too_long and (not request.is_partial or len(too_long) == request.items):
        first = next(iter(too_long.values()))
        return Dropped(choice, first.message, first)
    held = size.total
    if request.truncate:
        held = sum(min(count, deployment.max_tokens) for count in size.counts)
    price = choice.price_at(now)
    too_dear = _too_dear(request, snapshot, choice, price, held)
    return Candidate(choice, entry.reason, entry.dimensions, size, held, price or 0, too_dear, too_long)


def rank(
    found: Plan,
    request: EmbeddingRequest,
    snapshot: TenantSnapshot,
    sizes: Mapping[str, Size | None],
    *,
    latency_ms: Mapping[UUID, float],
    now: datetime,
) -> Chain:
    """The whole chain at once, too dear ones among the dropped: for who explains it and calls nobody."""
    candidates: list[Candidate] = []
    dropped: list[Dropped] = []
    for entry in found.in_order(latency_ms):
        fitted = fit(entry, request, snapshot, sizes[entry.choice.deployment.tokenizer], now)
        if isinstance(fitted, Dropped):
            dropped.append(fitted)
        elif fitted.too_dear is not None:
            dropped.append(Dropped(fitted.choice, fitted.too_dear.message, fitted.too_dear))
        else:
            candidates.append(fitted)
    return Chain(tuple(candidates), tuple(dropped))


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


def _judged(entry: Eligible, asked: Question, snapshot: TenantSnapshot) -> Eligible:
    choice = entry.choice
    dimensions = asked.dimensions or entry.own_dimensions or choice.deployment.dimensions
    fault = (
        _not_permitted(choice, snapshot, asked.allowed_models)
        or _not_available(choice)
        or _other_shape(asked, choice, dimensions)
    )
    return replace(entry, dimensions=dimensions, fault=fault)


def _prohibition(judged: Sequence[Eligible]) -> errors.QuiverError | None:
    """Set when the caller may use none of what it named: then a fallback would be a way around the prohibition."""
    faults = [e.fault for e in judged if e.reason == _REQUESTED]
    if faults and all(isinstance(f, errors.KeyNotPermitted | errors.ModelNotConfigured) for f in faults):
        return faults[0]
    return None


def _narrowed(judged: Sequence[Eligible], fallback: Fallback) -> list[Eligible]:
    """What the caller's `fallback` leaves of the entries: all; those of the first usable one's space; that one."""
    first = next((e for e in judged if e.fault is None), None)
    if first is None or fallback == "auto":
        return list(judged)
    if fallback == "none":
        return [e for e in judged if e is first or e.fault is not None]
    named = judged[0] if judged[0].reason == _REQUESTED else first
    space = (named.choice.deployment.space, named.choice.deployment.epoch, named.dimensions)
    return [
        e
        for e in judged
        if e.fault is not None or (e.choice.deployment.space, e.choice.deployment.epoch, e.dimensions) == space
    ]


def _free_choice(snapshot: TenantSnapshot) -> list[Eligible]:
    first = [Eligible(snapshot.default, "the tenant's default")] if snapshot.default is not None else []
    others = [c for c in snapshot.choices if c is not snapshot.default]
    # Disabled ones last: they are listed for their reason only, and must not speak for the others.
    others.sort(key=lambda c: not c.configured.is_enabled)
    return first + [Eligible(c, "by priority") for c in others]


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
    found = [Eligible(c, _REQUESTED, own_dimensions=width) for c in named if c.deployment.space == space]
    found += [Eligible(c, "same space as requested", own_dimensions=width) for c in _same_space(snapshot, space, named)]
    fallback = snapshot.by_model_id.get(usable[0].configured.fallback_model_id or UUID(int=0))
    if fallback is not None and all(e.choice is not fallback for e in found):
        found.append(Eligible(fallback, "fallback written down for the requested model", is_fallback=True))
    return found


def suggested(snapshot: TenantSnapshot, *, but: Collection[str] = ()) -> list[str]:
    """Names that this tenant may ask for instead, the preferred first."""
    names = (c.deployment.name for c in snapshot.choices if c.configured.is_enabled)
    return list(dict.fromkeys(name for name in names if name not in but))[:10]


def _badness(choice: Choice, strategy: Strategy, now: datetime) -> float:
    """What a strategy sorts by; what is not known counts as worst, so that no claim is made for it."""
    if strategy == "cost":
        price = choice.price_at(now)
        return inf if price is None else price
    return -(choice.deployment.quality_score or 0)


def _same_space(snapshot: TenantSnapshot, space: str, named: Collection[Choice]) -> list[Choice]:
    return [c for c in snapshot.choices if c.deployment.space == space and c not in named]


def _not_permitted(
    choice: Choice, snapshot: TenantSnapshot, allowed_models: Collection[str]
) -> errors.QuiverError | None:
    deployment = choice.deployment
    if allowed_models and deployment.name not in allowed_models and deployment.identifier not in allowed_models:
        return errors.KeyNotPermitted(f"This key may not use {deployment.name}.", param="model")
    if not choice.configured.is_enabled:
        return errors.ModelNotConfigured(f"{deployment.name} is disabled by the tenant.", param="model")
    if _TIERS.get(snapshot.config.tier, 0) < _TIERS.get(deployment.minimum_tier, 0):
        return errors.KeyNotPermitted(
            f"{deployment.name} needs the tier {deployment.minimum_tier}; this tenant has {snapshot.config.tier}.",
            param="model",
        )
    return None


def _not_available(choice: Choice) -> errors.QuiverError | None:
    deployment = choice.deployment
    name = f"{deployment.name} at {deployment.provider}"
    if deployment.state not in ("available", "deprecated"):
        return errors.NoModelAvailable(f"{name} is {deployment.state}.")
    if not deployment.is_provider_enabled:
        return errors.NoModelAvailable(f"The provider {deployment.provider} is switched off.")
    if not deployment.endpoints:
        return errors.NoModelAvailable(f"No credential was added for the provider {deployment.provider} yet.")
    return None


def _other_shape(asked: Question, choice: Choice, dimensions: int) -> errors.QuiverError | None:
    deployment = choice.deployment
    if not deployment.can_answer_with(dimensions):
        others = ", ".join(map(str, sorted(deployment.allowed_dimensions | {deployment.dimensions})))
        allowed = f"any up to {deployment.dimensions}" if deployment.is_matryoshka else others
        return errors.DimensionsNotSupported(
            f"{deployment.name} cannot answer with {dimensions} dimensions; it offers {allowed}.", param="dimensions"
        )
    if asked.required_space and (
        asked.required_space != deployment.space or asked.required_space_dimensions not in (None, dimensions)
    ):
        return errors.SpaceMismatch(
            f"{deployment.name} answers in {deployment.space}@{dimensions}, not in the space required.",
            param="X-Require-Embedding-Space",
        )
    return None


def _too_long(request: EmbeddingRequest, choice: Choice, size: Size) -> dict[int, errors.QuiverError]:
    """The items that this model cannot take whole, by index."""
    deployment, counts = choice.deployment, size.counts
    if request.truncate:
        if deployment.tokenizer == CL100K or max(counts) <= deployment.max_tokens:
            return {}
        return {
            index: errors.NotSupported(
                f"{deployment.name} has a tokenizer unknown here, so that it cannot be truncated exactly; "
                "shorten the text or leave `truncate` out.",
                param="truncate",
            )
            for index, count in enumerate(counts)
            if count > deployment.max_tokens
        }
    if max(size.least) <= deployment.max_tokens:
        return {}
    return {
        index: errors.ContextLengthExceeded(
            f"`input[{index}]` has {counts[index]} tokens; {deployment.name} takes {deployment.max_tokens}.",
            param="input",
            extra={"index": index},
        )
        for index, least in enumerate(size.least)
        if least > deployment.max_tokens
    }


def _too_dear(
    request: EmbeddingRequest, snapshot: TenantSnapshot, choice: Choice, price: int | None, held: int
) -> errors.QuiverError | None:
    name = choice.deployment.name
    if price is None and not snapshot.config.settings.unpriced_allowed:
        return errors.ModelUnpriced(
            f"{name} has no price; the operator sets one, or the tenant allows unpriced models."
        )
    if request.max_cost_nano is not None and cost_nano(held, price or 0) > request.max_cost_nano:
        return errors.QuotaExceeded(
            f"This request may cost more than `max_cost_usd` at {name}.",
            param="max_cost_usd",
            extra={"quota_type": "request"},
        )
    return None


def takes_tokens(choice: Choice) -> bool:
    """Whether the provider takes cl100k token arrays as they are; others get the text that they stand for."""
    return choice.deployment.tokenizer == CL100K and choice.deployment.kind in (
        Kind.OPENAI,
        Kind.AZURE,
        Kind.OPENAI_COMPATIBLE,
    )
