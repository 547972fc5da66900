"""In-memory stand-ins for the gateway's ports."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from uuid import UUID

import numpy as np

from billing.ledger import CallRecord, UsageRecord
from core.errors import LedgerUnavailable
from embeddings import breaker as rules
from embeddings.breaker import Admission, Breaker, Force, Outcome, Permit, Report, Settings
from embeddings.cache import Vector
from embeddings.latency import Latencies
from embeddings.records import Attempt
from providers.answers import check_vectors
from providers.base import EmbedAnswer, EmbedCall, Endpoint, EndpointRefused, Vectors
from providers.failures import FailureKind, ProviderFailure

Behaviour = Callable[[EmbedCall], EmbedAnswer]


class FakeLedger:
    """Rows in a dictionary by id: a row that is there stays, as in the real one."""

    def __init__(self) -> None:
        self.rows: dict[object, UsageRecord] = {}
        self.calls: dict[object, CallRecord] = {}
        self.is_up = True
        self.fails_at_commit = False

    async def ready(self, *, within_s: float) -> None:
        if not self.is_up:
            raise LedgerUnavailable("down")

    async def commit(self, usage: UsageRecord, calls: tuple[CallRecord, ...], claim_id: UUID | None = None) -> None:
        if self.fails_at_commit:
            raise LedgerUnavailable("went down")
        self.note(usage, calls)

    def note(self, usage: UsageRecord, calls: tuple[CallRecord, ...]) -> None:
        self.rows.setdefault(usage.id, usage)
        for each in calls:
            self.calls.setdefault(each.id, each)


class FakeProvider:
    """Answers as it was told, and remembers what it was asked."""

    def __init__(self, endpoint: Endpoint, behaviour: Behaviour) -> None:
        self.endpoint = endpoint
        self.behaviour = behaviour
        self.asked: list[EmbedCall] = []
        self.timeouts: list[float] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def embed(self, call: EmbedCall, *, timeout_s: float) -> EmbedAnswer:
        self.asked.append(call)
        self.timeouts.append(timeout_s)
        await self.gate.wait()
        return self.behaviour(call)


class FakeProviders:
    """One provider for each slug and credential; all answer rightly until told otherwise."""

    def __init__(self) -> None:
        self.made: dict[tuple[str, str], FakeProvider] = {}
        self.behaviours: dict[str, Behaviour] = {}
        self.refused: set[str] = set()

    def get(self, endpoint: Endpoint) -> FakeProvider:
        if endpoint.slug in self.refused:
            raise EndpointRefused(f"{endpoint.slug}: no api_key")
        key = (endpoint.slug, endpoint.credential_id)
        if key not in self.made:
            self.made[key] = FakeProvider(endpoint, lambda call: self.behaviours.get(endpoint.slug, right())(call))
        return self.made[key]

    def asked(self, slug: str = "openai") -> list[EmbedCall]:
        return [call for (name, _), provider in self.made.items() for call in provider.asked if name == slug]


class FakeObserver:
    def __init__(self) -> None:
        self.told: list[tuple[str, UsageRecord, Sequence[CallRecord]]] = []

    def finished(
        self, tenant: str, usage: UsageRecord, calls: Sequence[CallRecord], attempts: Sequence[Attempt] = ()
    ) -> None:
        self.told.append((tenant, usage, list(calls)))


class FakeCache:
    """Vectors in a dictionary, for ever."""

    def __init__(self) -> None:
        self.kept: dict[bytes, Vector] = {}
        self.lives: dict[bytes, int] = {}

    async def get(
        self,
        keys: Sequence[bytes],
        dimensions: int,
        *,
        full_keys: Sequence[bytes] = (),
        full_dimensions: int = 0,
        model: str = "",
    ) -> list[Vector | None]:
        found = [self._of(key, dimensions) for key in keys]
        for index, key in enumerate(full_keys):
            full = self._of(key, full_dimensions)
            if found[index] is None and full is not None:
                found[index] = check_vectors(full[None], count=1, width=dimensions, cut=True)[0]
        return found

    def put(self, keys: Sequence[bytes], vectors: Vectors, ttl_s: int) -> None:
        for key, vector in zip(keys, vectors, strict=True):
            self.kept[key], self.lives[key] = vector.copy(), ttl_s

    def _of(self, key: bytes, dimensions: int) -> Vector | None:
        vector = self.kept.get(key)
        return vector if vector is not None and len(vector) == dimensions else None


def vectors_for(inputs: Sequence[str] | Sequence[Sequence[int]], width: int) -> Vectors:
    """A vector that depends on its text alone, and is not of unit length."""
    rows = [np.random.default_rng(abs(hash(repr(each))) % 2**32).standard_normal(width) for each in inputs]
    return np.array(rows, dtype=np.float32)


def right(*, tokens: int | None = 2, native: int | None = None) -> Behaviour:
    """Right vectors: of the width asked for, or of `native` by a provider that knows no other."""
    return lambda call: EmbedAnswer(vectors_for(call.inputs, native or call.width), tokens, "up-1")


def answering(vectors: Vectors, tokens: int | None = 2) -> Behaviour:
    return lambda call: EmbedAnswer(vectors, tokens)


def failing(kind: FailureKind, **words: object) -> Behaviour:
    def fail(call: EmbedCall) -> EmbedAnswer:
        raise ProviderFailure(kind, "as told", **words)  # type: ignore[arg-type]

    return fail


def broken(call: EmbedCall) -> EmbedAnswer:
    """A defect in an adapter."""
    raise IndexError("a defect of an adapter")


class FakeBoard:
    """The breakers of one process alone, by the real rules, at once, on a clock that the test owns."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self.now = 1_800_000_000_000
        self.breakers: dict[str, Breaker] = {}
        self.forces: dict[str, Force] = {}
        self.reports: list[tuple[str, Outcome]] = []
        self.latencies: Latencies[str] = Latencies()
        self._permits = 0

    def admit(self, route: str) -> Admission:
        return rules.admission(self.breaker(route), rules.force_on(route, self.forces), self.now, self.settings)

    async def probe(self, route: str) -> Permit | None:
        self._permits += 1
        force = rules.force_on(route, self.forces)
        permit = Permit(route, str(self._permits))
        value = None if force else rules.leased(self.breaker(route), permit.id, self.now, self.settings)
        if value is None:
            return Permit(route) if self.admit(route) is rules.GO else None
        self.breakers[route] = value
        return permit

    def report(
        self,
        route: str,
        outcome: Outcome,
        ms: float,
        *,
        retry_after_s: float | None = None,
        permit: Permit | None = None,
    ) -> None:
        self.reports.append((route, outcome))
        if outcome is Outcome.OK:
            self.latencies.add(route, ms, self.now / 1000)
        wait_ms = None if retry_after_s is None else retry_after_s * 1000
        report = Report(self.now, ms, outcome, wait_ms, permit.id if permit is not None else "")
        self.breakers[route] = rules.after(self.breaker(route), report, self.settings)

    def release(self, permit: Permit) -> None:
        self.report(permit.route, Outcome.CALLER, 0.0, permit=permit)

    async def force(self, pattern: str, state: Force | None) -> None:
        self.forces.pop(pattern, None)
        if state is not None:
            self.forces[pattern] = state

    def breaker(self, route: str) -> Breaker:
        return self.breakers.get(route, Breaker())
