"""The rows that a request leaves behind, put together from what happened to it. Pure, but for ids and durations."""

from __future__ import annotations

import time

import msgspec

from billing.ledger import REPLAY, CallRecord, UsageRecord
from core.ids import uuid7_text
from embeddings.caller import Call
from embeddings.calls import CallShare
from embeddings.requests import EmbeddingRequest
from embeddings.selection import Candidate
from embeddings.snapshot import PLATFORM


class Attempt(msgspec.Struct, frozen=True, gc=False):
    """One candidate that was tried; `outcome` is `ok` or why it gave no answer."""

    model: str
    provider: str
    outcome: str
    ms: float


class Trace(msgspec.Struct, gc=False):
    """What has been tried for one request so far."""

    attempts: list[Attempt] = msgspec.field(default_factory=list)
    calls: list[CallRecord] = msgspec.field(default_factory=list)

    def tried(self, candidate: Candidate, outcome: str, started: float) -> None:
        deployment = candidate.choice.deployment
        self.attempts.append(Attempt(deployment.name, deployment.provider, outcome, ms_since(started)))


class Charge(msgspec.Struct, frozen=True, gc=False):
    """What a request costs its tenant."""

    candidate: Candidate
    tokens: int = 0
    nano: int = 0
    held_tokens: int = 0
    provider_tokens: int | None = None
    is_estimated: bool = False
    cached: int = 0
    pool: int | None = None
    paid_by: str = PLATFORM


def usage_of(
    request: EmbeddingRequest, call: Call, trace: Trace, status: str, charge: Charge | None = None
) -> UsageRecord:
    """The usage row; without a charge, that of a request that failed."""
    last = trace.attempts[-1] if trace.attempts else None
    deployment = charge.candidate.choice.deployment if charge else None
    provider_ms = 0.0
    for attempt in trace.attempts:
        provider_ms += attempt.ms
    return UsageRecord(
        id=call.request_id,
        created_ms=call.created_ms,
        tenant_id=call.snapshot.config.tenant_id,
        key_id=call.key.key_id,
        agent_id=call.agent_id,
        model_id=deployment.model_id if deployment else None,
        model=deployment.name if deployment else (last.model if last else ""),
        provider=deployment.provider if deployment else (last.provider if last else ""),
        space=deployment.space if deployment else "",
        dimensions=charge.candidate.dimensions if charge else 0,
        items=request.items,
        cached=charge.cached if charge else 0,
        tokens=charge.tokens if charge else 0,
        held_tokens=charge.held_tokens if charge else 0,
        provider_tokens=charge.provider_tokens if charge else None,
        estimated=charge is not None and charge.is_estimated,
        cost_nano=charge.nano if charge else 0,
        source=REPLAY if call.free else "api",
        status=status,
        task_type=request.task_type,
        latency_ms=ms_since(call.started),
        provider_latency_ms=round(provider_ms, 3),
        attempts=len(trace.attempts),
        pool=charge.pool if charge else None,
        own_price=charge is not None and charge.candidate.choice.configured.nano_per_million is not None,
        paid_by=charge.paid_by if charge else PLATFORM,
    )


def call_record(call: Call, candidate: Candidate, share: CallShare) -> CallRecord:
    """The row of one upstream call, as far as this request had a part in it."""
    deployment, failure = candidate.choice.deployment, share.failure
    return CallRecord(
        id=uuid7_text(share.created_ms),
        created_ms=share.created_ms,
        tenant_id=call.snapshot.config.tenant_id,
        request_id=call.request_id,
        model_id=deployment.model_id,
        model=deployment.name,
        provider=deployment.provider,
        credential_id=share.endpoint.credential_id,
        items=share.items,
        tokens=share.tokens,
        outcome=failure.kind.value if failure else "ok",
        status=failure.status if failure else None,
        detail=failure.detail if failure else "",
        upstream_id=share.upstream_id[:200],
        latency_ms=share.latency_ms,
    )


def ms_since(started: float) -> float:
    return round((time.monotonic() - started) * 1000, 3)
