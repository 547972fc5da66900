"""What an agent's preferences do to a request: an order of its own, and bounds that only narrow. Pure.

Decides which models an agent prefers and why (`preferred`), what a request becomes when an agent sends it (`narrowed`),
and which models an agent does not want (`not_own`) or not now (`too_slow`). What may answer at all, and in which order
what is left follows, is `finding.py` and `selection.py`: nothing here adds a model, raises a bound or opens a space.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from uuid import UUID

import msgspec

from core.errors import InvalidRequest, KeyNotPermitted, NoModelAvailable, QuiverError
from embeddings.requests import EmbeddingRequest, Strategy
from embeddings.snapshot import Choice, TenantSnapshot
from tenants.preferences import SLOTS, AgentStrategy, Preferences

_HEADER = "X-Require-Embedding-Space"
# `fixed` says which models, not in which order: theirs is the order in which they are named.
_STRATEGIES: Mapping[AgentStrategy, Strategy] = {"cost": "cost", "latency": "latency", "quality": "quality"}


def preferred(snapshot: TenantSnapshot, preferences: Preferences, task_type: str) -> list[tuple[Choice, str]]:
    """The models that the agent names for this task, the preferred first, each with the reason it is there. A name that
    the tenant has not configured any more stands for nothing; `missing` lists those."""
    found: dict[UUID, tuple[Choice, str]] = {}
    for name, reason in _named(preferences, task_type):
        for choice in _meant_by(name, snapshot):
            found.setdefault(choice.configured.tenant_model_id, (choice, reason))
    return list(found.values())


def missing(snapshot: TenantSnapshot, preferences: Preferences, task_type: str) -> list[tuple[str, str]]:
    """Names that the agent prefers for this task and the tenant does not have, each with its reason."""
    return [(name, reason) for name, reason in _named(preferences, task_type) if name not in snapshot.by_name]


def narrowed(request: EmbeddingRequest, preferences: Preferences) -> EmbeddingRequest:
    """The request as this agent may send it. Raises `InvalidRequest` where it asks for what the agent rules out."""
    return msgspec.structs.replace(
        request,
        strategy=_strategy(request.strategy, preferences),
        max_cost_nano=_lower(request.max_cost_nano, preferences.max_cost_per_request_nano),
        dimensions=_dimensions(request, preferences.required_dimensions),
        required_space=_space(request.required_space, preferences.required_space),
    )


def not_own(choice: Choice, snapshot: TenantSnapshot, preferences: Preferences) -> QuiverError | None:
    """Why an agent that is fixed to its own models does not use this one."""
    if preferences.strategy != "fixed" or _is_own(choice, snapshot, preferences):
        return None
    name = f"{choice.deployment.name} at {choice.deployment.provider}"
    return KeyNotPermitted(f"{name} is none of the models that the agent is fixed to.", param="model")


def too_slow(choice: Choice, preferences: Preferences, latency_ms: Mapping[UUID, float]) -> QuiverError | None:
    """Why the agent does not wait for this model. A latency that is not known is no reason."""
    most, usual = preferences.max_latency_ms, latency_ms.get(choice.deployment.model_id)
    if most is None or usual is None or usual <= most:
        return None
    name = f"{choice.deployment.name} at {choice.deployment.provider}"
    return NoModelAvailable(f"{name} answers in about {usual:.0f} ms at present; the agent waits at most {most}.")


def _named(preferences: Preferences, task_type: str) -> Iterator[tuple[str, str]]:
    of_task = preferences.task_models.get(task_type) if task_type else None
    if of_task is not None:
        yield of_task, f"the agent's model for task {task_type!r}"
    for slot in SLOTS:
        name = getattr(preferences, slot)
        if name is not None:
            yield name, f"the agent's {slot}"


def _meant_by(name: str, snapshot: TenantSnapshot) -> list[Choice]:
    """As where a request names a model: of one name in two spaces, the space preferred most."""
    named = snapshot.by_name.get(name, ())
    usable = [choice for choice in named if choice.configured.is_enabled] or list(named)
    return [choice for choice in named if choice.deployment.space == usable[0].deployment.space]


def _is_own(choice: Choice, snapshot: TenantSnapshot, preferences: Preferences) -> bool:
    return any(choice is each for name in preferences.models for each in _meant_by(name, snapshot))


def _strategy(asked: Strategy, preferences: Preferences) -> Strategy:
    return _STRATEGIES.get(preferences.strategy, asked) if asked == "priority" else asked


def _lower(one: int | None, other: int | None) -> int | None:
    return min((each for each in (one, other) if each is not None), default=None)


def _dimensions(request: EmbeddingRequest, required: int | None) -> int | None:
    if required is None:
        return request.dimensions
    if request.dimensions not in (None, required):
        raise InvalidRequest(
            f"The agent takes vectors of {required} dimensions only; this asks for {request.dimensions}.",
            param="dimensions",
        )
    if request.required_space_dimensions not in (None, required):
        raise InvalidRequest(
            f"The agent takes vectors of {required} dimensions only; this asks for "
            f"{request.required_space_dimensions}.",
            param=_HEADER,
        )
    return required


def _space(asked: str, required: str | None) -> str:
    if required is None:
        return asked
    if asked not in ("", required):
        raise InvalidRequest(f"The agent takes vectors of {required} only; this asks for {asked}.", param=_HEADER)
    return required
