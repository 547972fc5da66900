"""One request from texts to vectors, in order: the orchestrator of the data plane. Read this first.

plan (which models may answer) → is the ledger up → call the candidates until one gives right vectors → charge →
commit the usage row → answer. Selection, sizes, costs, failures and the wire are decided elsewhere; here is the order.

Failure: a candidate fails → the next one, inside one deadline; the ledger away → held back by it, then its 503, and no
provider is called meanwhile. What was sent is never cancelled: it is awaited to its deadline, recorded and paid for.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median
from typing import Protocol
from uuid import UUID

import numpy as np

from billing.ledger import CallRecord, UsageRecord
from catalog.deployments import Deployment
from core.clock import unix_ms
from core.errors import InternalError, InvalidRequest, NoModelAvailable, ProviderTimeout, QuiverError
from core.ids import uuid7_text
from core.money import cost_nano
from embeddings import selection
from embeddings.inputs import Inputs
from embeddings.requests import EmbeddingRequest
from embeddings.selection import Candidate, Chain
from embeddings.snapshot import TenantSnapshot
from embeddings.tokens import CL100K, likely
from providers.answers import check_vectors
from providers.base import EmbedCall, Endpoint, EndpointRefused, Provider, Vectors
from providers.failures import ProviderFailure
from providers.heavy import off_loop
from providers.splitting import split_by_caps
from tenants.snapshots import KeyGrant

_PARALLEL_CALLS = 8  # of one request to one provider
_LEAST_TIME_S = 0.002  # below it a call cannot succeed, so it is not paid for
_LATENCIES_KEPT = 64


class LedgerPort(Protocol):
    async def ready(self, *, within_s: float) -> None: ...
    async def commit(self, usage: UsageRecord, calls: tuple[CallRecord, ...]) -> None: ...
    def note(self, usage: UsageRecord, calls: tuple[CallRecord, ...]) -> None: ...


class ProvidersPort(Protocol):
    def get(self, endpoint: Endpoint) -> Provider: ...


class Observer(Protocol):
    """Is told of every finished request, once, after its answer is certain."""

    def finished(self, tenant: str, usage: UsageRecord, calls: Sequence[CallRecord]) -> None: ...


@dataclass(frozen=True, slots=True)
class Call:
    """Who asks, when, and until when."""

    request_id: str
    created_ms: int  # the time in `request_id`
    key: KeyGrant
    snapshot: TenantSnapshot
    started: float  # monotonic seconds
    deadline: float


@dataclass(frozen=True, slots=True)
class Attempt:
    """One candidate that was tried."""

    model: str
    provider: str
    outcome: str
    ms: float


@dataclass(frozen=True, slots=True)
class Answer:
    deployment: Deployment
    dimensions: int
    vectors: Vectors
    usage: UsageRecord
    attempts: Sequence[Attempt]


@dataclass(slots=True)
class _Trace:
    """What has been tried for one request so far."""

    attempts: list[Attempt]
    calls: list[CallRecord]


class Gateway:
    def __init__(
        self,
        *,
        providers: ProvidersPort,
        ledger: LedgerPort,
        observer: Observer,
        now: Callable[[], datetime],
        most_tokens: int,
    ) -> None:
        self._providers = providers
        self._ledger = ledger
        self._observer = observer
        self._now = now
        self._most_tokens = most_tokens
        self._turn = 0
        self._latencies: dict[UUID, deque[float]] = {}

    async def embed(self, request: EmbeddingRequest, call: Call) -> Answer:
        """Raises one of `core.errors`; whatever it raises, nothing was charged."""
        trace = _Trace([], [])
        try:
            inputs = Inputs(request)
            chain = await self._plan(request, inputs, call)
            await self._ledger.ready(within_s=call.deadline - time.monotonic())
            return await self._serve(request, inputs, chain, call, trace)
        except QuiverError as error:
            self._note_failure(request, call, trace, error.code)
            raise
        except asyncio.CancelledError:
            self._note_failure(request, call, trace, "cancelled")
            raise
        except Exception:
            self._note_failure(request, call, trace, InternalError.code)
            raise

    async def _plan(self, request: EmbeddingRequest, inputs: Inputs, call: Call) -> Chain:
        """The candidate chain. Raises why there is none."""
        now = self._now()
        latency = {m: median(seen) for m, seen in self._latencies.items()} if request.strategy == "latency" else {}
        found = selection.eligible(request.model, call.snapshot, strategy=request.strategy, latency_ms=latency, now=now)
        tokenizers = {entry.choice.deployment.tokenizer for entry in found}
        sizes = await off_loop(inputs.sizes, tokenizers) if inputs.is_heavy else inputs.sizes(tokenizers)
        chain = selection.rank(request, call.snapshot, found, sizes, allowed_models=call.key.models, now=now)
        if not chain.candidates:
            raise selection.refusal(chain)
        least = sum(chain.candidates[0].size.least)
        if least > self._most_tokens:
            raise InvalidRequest(
                f"`input` has {least} tokens in all; at most {self._most_tokens} go into one request.", param="input"
            )
        return chain

    async def _serve(
        self, request: EmbeddingRequest, inputs: Inputs, chain: Chain, call: Call, trace: _Trace
    ) -> Answer:
        """Tries the candidates in order. Raises the error of the last one that was tried."""
        last: QuiverError = NoModelAvailable("No provider could be called.")
        for candidate in chain.candidates:
            for endpoint in self._rotated(candidate.choice.deployment.endpoints):
                if call.deadline - time.monotonic() < _LEAST_TIME_S:
                    raise self._public(ProviderTimeout("The deadline passed before a provider answered."), trace)
                started = time.monotonic()
                try:
                    provider = self._providers.get(endpoint)
                    vectors, tokens = await self._ask(provider, request, inputs, candidate, call, trace)
                except EndpointRefused as refused:
                    last = NoModelAvailable(str(refused))
                    self._tried(trace, candidate, "not_callable", started)
                    continue
                except ProviderFailure as failure:
                    self._tried(trace, candidate, failure.kind.value, started)
                    last = _translated(failure, candidate, request)
                    if not failure.meaning.other_route:
                        raise self._public(last, trace) from None
                    continue
                self._tried(trace, candidate, "ok", started)
                return await self._charge(request, inputs, candidate, vectors, tokens, call, trace)
        raise self._public(last, trace)

    async def _ask(
        self,
        provider: Provider,
        request: EmbeddingRequest,
        inputs: Inputs,
        candidate: Candidate,
        call: Call,
        trace: _Trace,
    ) -> tuple[Vectors, int | None]:
        """All vectors from one provider, in as many calls as its caps demand, and its token count if it gave one."""
        deployment = candidate.choice.deployment
        is_heavy = inputs.is_heavy
        items, counts = await off_loop(inputs.for_candidate, candidate) if is_heavy else inputs.for_candidate(candidate)
        slices = split_by_caps(counts, max_items=deployment.max_items, max_tokens=deployment.max_tokens_per_call)
        if len(slices) == 1:
            return await self._call(provider, request, items, candidate, call, trace)
        parts: list[tuple[Vectors, int | None]] = [(np.empty((0, 0), np.float32), None)] * len(slices)
        failures: list[ProviderFailure] = []
        remaining = iter(enumerate(slices))

        async def work() -> None:
            for number, part in remaining:
                if failures:
                    return
                try:
                    parts[number] = await self._call(provider, request, items[part], candidate, call, trace)
                except ProviderFailure as failure:
                    failure.index = part.start if part.stop - part.start == 1 else None
                    failures.append(failure)

        await asyncio.gather(*(work() for _ in range(min(_PARALLEL_CALLS, len(slices)))))
        if failures:
            raise failures[0]
        tokens = [count for _, count in parts]
        return np.concatenate([v for v, _ in parts]), None if None in tokens else sum(filter(None, tokens))

    async def _call(
        self,
        provider: Provider,
        request: EmbeddingRequest,
        items: Sequence[str] | Sequence[list[int]],
        candidate: Candidate,
        call: Call,
        trace: _Trace,
    ) -> tuple[Vectors, int | None]:
        """One upstream call, checked and recorded."""
        deployment, width = candidate.choice.deployment, candidate.dimensions
        is_cut = width != deployment.dimensions
        started = time.monotonic()
        timeout_s = min(call.deadline - started, provider.endpoint.timeout_s)
        upstream = EmbedCall(
            identifier=deployment.identifier,
            inputs=items,
            width=width,
            dimensions=width if is_cut and deployment.takes_dimensions else None,
            input_type=request.input_type,
        )
        try:
            answer = await provider.embed(upstream, timeout_s=timeout_s)
            vectors = check_vectors(
                answer.vectors, count=len(items), width=width, cut=is_cut and deployment.is_matryoshka
            )
        except ProviderFailure as failure:
            trace.calls.append(_record(call, candidate, provider.endpoint, len(items), started, failure=failure))
            raise
        trace.calls.append(
            _record(
                call,
                candidate,
                provider.endpoint,
                len(items),
                started,
                tokens=answer.tokens,
                upstream_id=answer.upstream_id,
            )
        )
        return vectors, answer.tokens

    async def _charge(
        self,
        request: EmbeddingRequest,
        inputs: Inputs,
        candidate: Candidate,
        vectors: Vectors,
        tokens: int | None,
        call: Call,
        trace: _Trace,
    ) -> Answer:
        """Books what the request cost; returns when that is committed."""
        counted = tokens
        if counted is None:
            is_exact = candidate.choice.deployment.tokenizer == CL100K
            counted = candidate.held_tokens if is_exact else likely(inputs.byte_count())
        charged = min(counted, candidate.held_tokens)
        usage = self._usage(request, call, trace, "ok", candidate=candidate, charged=charged, counted=tokens)
        calls = tuple(trace.calls)
        await self._ledger.commit(usage, calls)
        self._observer.finished(call.snapshot.config.slug, usage, calls)
        return Answer(candidate.choice.deployment, candidate.dimensions, vectors, usage, trace.attempts)

    def _note_failure(self, request: EmbeddingRequest, call: Call, trace: _Trace, code: str) -> None:
        usage = self._usage(request, call, trace, code)
        if trace.calls:  # a request that no provider saw leaves a metric and a log line, not a row
            self._ledger.note(usage, tuple(trace.calls))
        self._observer.finished(call.snapshot.config.slug, usage, trace.calls)

    def _usage(
        self,
        request: EmbeddingRequest,
        call: Call,
        trace: _Trace,
        status: str,
        *,
        candidate: Candidate | None = None,
        charged: int = 0,
        counted: int | None = None,
    ) -> UsageRecord:
        deployment = candidate.choice.deployment if candidate else None
        return UsageRecord(
            id=call.request_id,
            created_ms=call.created_ms,
            tenant_id=call.snapshot.config.tenant_id,
            key_id=call.key.key_id,
            agent_id=call.key.agent_id,
            model_id=deployment.model_id if deployment else None,
            model=deployment.name if deployment else (trace.attempts[-1].model if trace.attempts else ""),
            provider=deployment.provider if deployment else (trace.attempts[-1].provider if trace.attempts else ""),
            space=deployment.space if deployment else "",
            dimensions=candidate.dimensions if candidate else 0,
            items=request.items,
            cached=0,
            tokens=charged,
            held_tokens=candidate.held_tokens if candidate else 0,
            provider_tokens=counted,
            estimated=candidate is not None and counted is None,
            cost_nano=cost_nano(charged, candidate.nano_per_million) if candidate else 0,
            source="api",
            status=status,
            task_type=request.task_type,
            latency_ms=_ms_since(call.started),
            provider_latency_ms=sum(a.ms for a in trace.attempts),
            attempts=len(trace.attempts),
        )

    def _rotated(self, endpoints: tuple[Endpoint, ...]) -> Sequence[Endpoint]:
        """All credentials of a provider, beginning with another one each time."""
        if len(endpoints) == 1:
            return endpoints
        self._turn += 1
        start = self._turn % len(endpoints)
        return endpoints[start:] + endpoints[:start]

    def _tried(self, trace: _Trace, candidate: Candidate, outcome: str, started: float) -> None:
        deployment = candidate.choice.deployment
        ms = _ms_since(started)
        trace.attempts.append(Attempt(deployment.name, deployment.provider, outcome, ms))
        if outcome == "ok":
            self._latencies.setdefault(deployment.model_id, deque(maxlen=_LATENCIES_KEPT)).append(ms)

    def _public(self, error: QuiverError, trace: _Trace) -> QuiverError:
        """The error with what was tried."""
        attempts: list[Mapping[str, object]] = [
            {"model": a.model, "provider": a.provider, "outcome": a.outcome, "ms": a.ms} for a in trace.attempts
        ]
        error.extra = {**error.extra, "attempts": attempts}
        return error


def _translated(failure: ProviderFailure, candidate: Candidate, request: EmbeddingRequest) -> QuiverError:
    """A provider's failure in our own words: its kind, never its text."""
    deployment, public = candidate.choice.deployment, failure.meaning.public
    if failure.meaning.callers_fault:
        found = 0 if request.items == 1 else failure.index
        index = {} if found is None else {"index": found}
        return public(f"{deployment.name} refused this input ({failure.kind.value}).", param="input", extra=index)
    return public(
        f"{deployment.name} at {deployment.provider} failed ({failure.kind.value}).",
        retry_after=max(1, round(failure.retry_after or 1)),
    )


def _record(
    call: Call,
    candidate: Candidate,
    endpoint: Endpoint,
    items: int,
    started: float,
    *,
    tokens: int | None = None,
    upstream_id: str = "",
    failure: ProviderFailure | None = None,
) -> CallRecord:
    deployment = candidate.choice.deployment
    created_ms = unix_ms()
    return CallRecord(
        id=uuid7_text(created_ms),
        created_ms=created_ms,
        tenant_id=call.snapshot.config.tenant_id,
        request_id=call.request_id,
        model_id=deployment.model_id,
        model=deployment.name,
        provider=deployment.provider,
        credential_id=endpoint.credential_id,
        items=items,
        tokens=tokens,
        outcome=failure.kind.value if failure else "ok",
        status=failure.status if failure else None,
        detail=failure.detail if failure else "",
        upstream_id=(failure.upstream_id if failure else upstream_id)[:200],
        latency_ms=_ms_since(started),
    )


def _ms_since(started: float) -> float:
    return round((time.monotonic() - started) * 1000, 3)
