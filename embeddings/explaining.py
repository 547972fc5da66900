"""Which models would answer a request of an agent, in which order, and why: selection and preferences put together.
Pure.

Owns the order of the steps (narrow, plan, rank) and the words in which a chain is shown. Calls nobody:
limits, breakers and the cache come in when a request is really made. Latencies are those that the caller knows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from core.money import usd_text
from embeddings import preferring, selection
from embeddings.finding import NO_WISHES
from embeddings.requests import EmbeddingRequest
from embeddings.selection import Candidate, Chain, Dropped
from embeddings.snapshot import TenantSnapshot
from embeddings.tokens import Size
from tenants.preferences import Preferences

Sizes = Callable[[Collection[str]], Mapping[str, Size | None]]  # of the request, under these tokenizers


@dataclass(frozen=True, slots=True)
class Explained:
    chain: Chain
    missing: list[tuple[str, str]]  # names that the agent prefers and the tenant does not have, with their reasons


def explain(
    request: EmbeddingRequest,
    snapshot: TenantSnapshot,
    sizes: Sizes,
    *,
    preferences: Preferences = NO_WISHES,
    allowed_models: frozenset[str] = frozenset(),
    latency_ms: Mapping[UUID, float],
    now: datetime,
) -> Explained:
    """The chain of a request. Raises `ModelNotConfigured` for a name that stands for nothing, `InvalidRequest` for what
    the agent rules out."""
    asked = preferring.narrowed(request, preferences)
    question = selection.question(asked, allowed_models, is_ordered=request.strategy != "priority")
    question = msgspec.structs.replace(question, task_type=asked.task_type)
    plan = selection.plan(question, snapshot, now, preferences)
    tokenizers = {entry.choice.deployment.tokenizer for entry in plan.entries}
    chain = selection.rank(
        plan, asked, snapshot, sizes(tokenizers), latency_ms=latency_ms, now=now, preferences=preferences
    )
    missing = preferring.missing(snapshot, preferences, asked.task_type) if asked.model is None else []
    return Explained(chain, missing)


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
        "reasons": [candidate.reason, *filter(None, [candidate.way])],
    }


def dropped_of(explained: Explained) -> list[dict[str, Any]]:
    """Who may not, and why. A name that the tenant no longer has belongs to no provider."""
    named = [
        {"model": name, "provider": None, "reason": f"{name} is {reason}, but the tenant has no such model any more."}
        for name, reason in explained.missing
    ]
    return named + [shown_dropped(each) for each in explained.chain.dropped]


def shown_dropped(dropped: Dropped) -> dict[str, Any]:
    deployment = dropped.choice.deployment
    return {"model": deployment.name, "provider": deployment.provider, "reason": dropped.reason}
