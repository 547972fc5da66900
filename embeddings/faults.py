"""Why a model cannot answer: by its rows, by the shape that is asked for, by size, by price. Pure.

Each of these returns the public error that says so, or None. Order and choice are `selection.py`'s.
"""

from __future__ import annotations

from collections.abc import Collection

from catalog.lifecycle import Cause
from core import errors
from core.money import cost_nano, usd_text
from embeddings.finding import Question, suggested
from embeddings.requests import EmbeddingRequest
from embeddings.snapshot import Choice, TenantSnapshot
from embeddings.tokens import CL100K, Size
from tenants.settings import Fallback

_TIERS = {"free": 0, "standard": 1, "enterprise": 2}


def not_permitted(
    choice: Choice, snapshot: TenantSnapshot, allowed_models: Collection[str]
) -> errors.QuiverError | None:
    deployment = choice.deployment
    if allowed_models and deployment.name not in allowed_models and deployment.identifier not in allowed_models:
        return errors.KeyNotPermitted(f"This key may not use {deployment.name}.", param="model")
    if not choice.configured.is_enabled:
        return errors.ModelNotConfigured(
            f"{deployment.name} is disabled by the tenant.", param="model", extra=_instead_of(choice, snapshot)
        )
    if _TIERS.get(snapshot.config.tier, 0) < _TIERS.get(deployment.minimum_tier, 0):
        return errors.KeyNotPermitted(
            f"{deployment.name} needs the tier {deployment.minimum_tier}; this tenant has {snapshot.config.tier}.",
            param="model",
        )
    return None


def not_available(choice: Choice, *, can_be_called: bool) -> errors.QuiverError | None:
    deployment = choice.deployment
    name = f"{deployment.name} at {deployment.provider}"
    is_on_trial = deployment.state == "unavailable" and deployment.unavailable_cause == Cause.PROVIDER
    if deployment.state not in ("available", "deprecated") and not is_on_trial:  # a trial goes when its breaker says so
        return errors.NoModelAvailable(f"{name} is {deployment.state}.")
    if not deployment.is_provider_enabled:
        return errors.NoModelAvailable(f"The provider {deployment.provider} is switched off.")
    if not can_be_called:
        return errors.NoModelAvailable(f"No credential was added for the provider {deployment.provider} yet.")
    return None


def other_shape(asked: Question, choice: Choice, dimensions: int) -> errors.QuiverError | None:
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


def left_out(choice: Choice, fallback: Fallback) -> errors.QuiverError:
    """Where `fallback`, the caller's or the tenant's, is narrower than what there is."""
    deployment = choice.deployment
    return errors.NoModelAvailable(
        f"{deployment.name} at {deployment.provider} is left out, for `fallback` is `{fallback}`."
    )


def too_long(request: EmbeddingRequest, choice: Choice, size: Size) -> dict[int, errors.QuiverError]:
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


def too_dear(
    request: EmbeddingRequest, snapshot: TenantSnapshot, choice: Choice, price: int | None, held: int
) -> errors.QuiverError | None:
    name = choice.deployment.name
    if price is None and not snapshot.config.settings.unpriced_allowed:
        return errors.ModelUnpriced(
            f"{name} has no price; the operator sets one, or the tenant allows unpriced models.",
            extra=_instead_of(choice, snapshot),
        )
    cost, most = cost_nano(held, price or 0), request.max_cost_nano
    if most is None or cost <= most:
        return None
    figures = {"quota_type": "request", "scope": "request", "limit": usd_text(most), "used": usd_text(cost)}
    return errors.QuotaExceeded(
        f"This request may cost {usd_text(cost)} USD at {name}, more than `max_cost_usd`.",
        param="max_cost_usd",
        extra=figures | {"reset_time": None} | _instead_of(choice, snapshot),
    )


def _instead_of(choice: Choice, snapshot: TenantSnapshot) -> dict[str, list[str]]:
    return {"suggested_models": suggested(snapshot, but=(choice.deployment.name,))}
