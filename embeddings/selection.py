"""Which models may answer a request, in which order, and why. Pure.

Decides in two steps: `eligible` finds by name or by freedom of choice what may answer at all, in order; `rank` drops,
each with its reason, what cannot answer this very request. Health and limits are the gateway's, at the call.
The rule that vector spaces never mix silently (DESIGN 5.1) is held here: a request that names a model gets that model's
space, or the fallback that the tenant's admin wrote down, and nothing else.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from math import inf
from uuid import UUID

from core import errors
from core.money import cost_nano
from embeddings.requests import EmbeddingRequest, Strategy
from embeddings.snapshot import Choice, TenantSnapshot
from embeddings.tokens import CL100K, Size
from providers.base import Kind

_REQUESTED = "requested"
_TIERS = {"free": 0, "standard": 1, "enterprise": 2}


@dataclass(frozen=True, slots=True)
class Eligible:
    """A model that may answer as far as its name and the tenant's wishes go."""

    choice: Choice
    reason: str
    is_fallback: bool = False
    dimensions: int | None = None  # the requested model's own: its space at another width is not comparable


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that can answer this request. `held_tokens` is an upper bound of what the provider will count."""

    choice: Choice
    reason: str
    dimensions: int
    size: Size
    held_tokens: int
    nano_per_million: int

    @property
    def held_nano(self) -> int:
        return cost_nano(self.held_tokens, self.nano_per_million)


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


def eligible(
    model: str | None,
    snapshot: TenantSnapshot,
    *,
    strategy: Strategy = "priority",
    latency_ms: Mapping[UUID, float],
    now: datetime,
) -> list[Eligible]:
    """In order of preference. Raises `ModelNotConfigured` when the name stands for nothing of this tenant's."""
    if model is None:
        found = _free_choice(snapshot)
    else:
        found = _named(model, snapshot)
    if strategy == "priority":
        return found
    # What the admin wrote down as a fallback stays last: it may be another space; before it the
    # disabled ones, which must not speak for the others.
    return sorted(
        found,
        key=lambda e: (
            e.is_fallback,
            not e.choice.configured.is_enabled,
            _badness(e.choice, strategy, latency_ms, now),
        ),
    )


def rank(
    request: EmbeddingRequest,
    snapshot: TenantSnapshot,
    found: list[Eligible],
    sizes: Mapping[str, Size | None],
    *,
    allowed_models: Collection[str],
    now: datetime,
) -> Chain:
    """Candidates in order and what was dropped. `sizes` holds the request's size under each tokenizer
    of `found`, None where it takes only text and these tokens are none."""
    candidates: list[Candidate] = []
    dropped: list[Dropped] = []
    for entry in found:
        deployment = entry.choice.deployment
        size = sizes[deployment.tokenizer]
        if size is None:
            no_text = errors.InvalidRequest(
                f"These token arrays are no valid UTF-8 by themselves, and {deployment.name} takes only text.",
                param="input",
            )
            dropped.append(Dropped(entry.choice, no_text.message, no_text))
            continue
        dimensions = request.dimensions or entry.dimensions or deployment.dimensions
        price = entry.choice.price_at(now)
        held = size.total
        if request.truncate:
            held = sum(min(count, deployment.max_tokens) for count in size.counts)
        fault = (
            _not_permitted(entry.choice, snapshot, allowed_models)
            or _not_available(entry.choice, now)
            or _other_shape(request, entry.choice, dimensions)
            or _too_long(request, entry.choice, size)
            or _too_dear(request, snapshot, entry.choice, price, held)
        )
        if fault is not None:
            dropped.append(Dropped(entry.choice, fault.message, fault))
            continue
        candidates.append(Candidate(entry.choice, entry.reason, dimensions, size, held, price or 0))
    if _is_forbidden(found, dropped):
        candidates = []
    return Chain(tuple(candidates), tuple(dropped))


def _is_forbidden(found: list[Eligible], dropped: list[Dropped]) -> bool:
    """Whether the caller may use none of what it named: then a fallback would be a way around the prohibition."""
    requested = {e.choice.configured.tenant_model_id for e in found if e.reason == _REQUESTED}
    refused = {
        d.choice.configured.tenant_model_id
        for d in dropped
        if isinstance(d.error, (errors.KeyNotPermitted, errors.ModelNotConfigured))
    }
    return bool(requested) and requested <= refused


def refusal(chain: Chain) -> errors.QuiverError:
    """The error of a chain without candidates: that of the model preferred most."""
    if not chain.dropped:
        return errors.NoModelAvailable("No model is configured and enabled for this tenant; configure one first.")
    first = chain.dropped[0]
    if isinstance(first.error, errors.NoModelAvailable):
        listed = [
            {"model": d.choice.deployment.name, "provider": d.choice.deployment.provider, "reason": d.reason}
            for d in chain.dropped
        ]
        return errors.NoModelAvailable(first.reason, extra={"dropped": listed})
    return first.error


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
            extra={"suggested_models": [c.deployment.name for c in snapshot.choices if c.configured.is_enabled][:10]},
        )
    # One name at two providers may still be two spaces; the one preferred most decides which is meant.
    usable = [c for c in named if c.configured.is_enabled] or list(named)
    space, width = usable[0].deployment.space, usable[0].deployment.dimensions
    found = [Eligible(c, _REQUESTED, dimensions=width) for c in named if c.deployment.space == space]
    found += [Eligible(c, "same space as requested", dimensions=width) for c in _same_space(snapshot, space, named)]
    fallback = snapshot.by_model_id.get(usable[0].configured.fallback_model_id or UUID(int=0))
    if fallback is not None and all(e.choice is not fallback for e in found):
        found.append(Eligible(fallback, "fallback written down for the requested model", is_fallback=True))
    return found


def _badness(choice: Choice, strategy: Strategy, latency_ms: Mapping[UUID, float], now: datetime) -> float:
    """What a strategy sorts by; what is not known counts as worst, so that no claim is made for it."""
    if strategy == "cost":
        price = choice.price_at(now)
        return inf if price is None else price
    if strategy == "latency":
        return latency_ms.get(choice.deployment.model_id, inf)
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


def _not_available(choice: Choice, now: datetime) -> errors.QuiverError | None:
    deployment = choice.deployment
    name = f"{deployment.name} at {deployment.provider}"
    if deployment.state not in ("available", "deprecated"):
        return errors.NoModelAvailable(f"{name} is {deployment.state}.")
    if deployment.sunset_at is not None and deployment.sunset_at <= now:
        return errors.NoModelAvailable(f"{name} is past its sunset of {deployment.sunset_at:%Y-%m-%d}.")
    if not deployment.is_provider_enabled:
        return errors.NoModelAvailable(f"The provider {deployment.provider} is switched off.")
    if not deployment.endpoints:
        return errors.NoModelAvailable(f"No credential was added for the provider {deployment.provider} yet.")
    return None


def _other_shape(request: EmbeddingRequest, choice: Choice, dimensions: int) -> errors.QuiverError | None:
    deployment = choice.deployment
    if not deployment.can_answer_with(dimensions):
        others = ", ".join(map(str, sorted(deployment.allowed_dimensions | {deployment.dimensions})))
        allowed = f"any up to {deployment.dimensions}" if deployment.is_matryoshka else others
        return errors.DimensionsNotSupported(
            f"{deployment.name} cannot answer with {dimensions} dimensions; it offers {allowed}.", param="dimensions"
        )
    if request.required_space and (
        request.required_space != deployment.space or request.required_space_dimensions not in (None, dimensions)
    ):
        return errors.SpaceMismatch(
            f"{deployment.name} answers in {deployment.space}@{dimensions}, not in the space required.",
            param="X-Require-Embedding-Space",
        )
    return None


def _too_long(request: EmbeddingRequest, choice: Choice, size: Size) -> errors.QuiverError | None:
    deployment = choice.deployment
    if request.truncate:
        if deployment.tokenizer == CL100K or max(size.counts) <= deployment.max_tokens:
            return None
        return errors.NotSupported(
            f"{deployment.name} has a tokenizer unknown here, so that it cannot be truncated exactly; "
            "shorten the text or leave `truncate` out.",
            param="truncate",
        )
    if max(size.least) <= deployment.max_tokens:
        return None
    index = next(i for i, least in enumerate(size.least) if least > deployment.max_tokens)
    return errors.ContextLengthExceeded(
        f"`input[{index}]` has {size.counts[index]} tokens; {deployment.name} takes {deployment.max_tokens}.",
        param="input",
        extra={"index": index},
    )


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
