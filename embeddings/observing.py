"""Metrics and one log line for every finished request.

Gathers on a request's way and writes once a second: looking up Prometheus labels and writing a line each cost more
than everything else here. Neither texts nor secrets come this far: only the records that the ledger keeps.

Failure: the log's reader is gone → lines are dropped; it is slow → a thread waits for it, not the loop. Beyond
`MOST_WAITING` requests are neither logged nor counted; the ledger has them.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import pairwise
from uuid import UUID

import msgspec

from billing.ledger import CallRecord, Ledger, UsageRecord
from core import metrics
from core.clock import unix_ms
from core.metrics import BoundedLabel, observe_all
from core.money import NANO
from embeddings.records import Attempt
from embeddings.snapshot import PLATFORM

PERIOD_S = 1.0
MOST_WAITING = 50_000


_Finished = tuple[str, UsageRecord, Sequence[CallRecord], Sequence[Attempt]]


class _Line(msgspec.Struct, tag_field="level", tag="info", gc=False):
    """A request's line; `event` tells it from other log lines, which carry a `level` as well."""

    at_ms: int
    request_id: str
    tenant: str
    status: str
    ms: float
    key_id: UUID | None = None
    model: str = ""
    provider: str = ""
    items: int = 0
    tokens: int = 0
    cost_nano_usd: int = 0
    attempts: int = 0
    provider_ms: float = 0.0
    event: str = "embedding_request"


class Observer:
    def __init__(
        self, ledger: Ledger, *, most_tenants: int, counted: Sequence[Callable[[], None]] = (), log_fd: int = 1
    ) -> None:
        """`counted` are called once a period, to write down what they counted themselves."""
        self._ledger = ledger
        self._tenant = BoundedLabel(most_tenants)
        self._counted = counted
        self._log_fd = log_fd
        self._finished: list[_Finished] = []
        self._encode = msgspec.json.Encoder().encode
        self._writer: asyncio.Task[None] | None = None
        self._seen_rows = 0
        self._refused: list[_Line] = []

    def start(self) -> None:
        self._writer = asyncio.get_running_loop().create_task(self._write(), name="observer")

    async def close(self) -> None:
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.gather(self._writer, return_exceptions=True)
        self.flush()

    def finished(
        self, tenant: str, usage: UsageRecord, calls: Sequence[CallRecord], attempts: Sequence[Attempt] = ()
    ) -> None:
        if len(self._finished) < MOST_WAITING:
            self._finished.append((tenant, usage, calls, attempts))

    def refused(self, tenant: str, request_id: str, code: str, ms: float) -> None:
        """A request that never reached the gateway: no key, bad body, unknown path."""
        if len(self._refused) < MOST_WAITING:
            self._refused.append(_Line(unix_ms(), request_id, tenant, code, ms))

    async def _write(self) -> None:
        while True:
            await asyncio.sleep(PERIOD_S)
            lines = self._gather()
            if lines:
                await asyncio.get_running_loop().run_in_executor(None, self._log, lines)

    def flush(self) -> None:
        """Writes what gathered, at once."""
        self._log(self._gather())

    def _log(self, lines: list[_Line]) -> None:
        with suppress(OSError):
            os.write(self._log_fd, b"".join(self._encode(line) + b"\n" for line in lines))

    def _gather(self) -> list[_Line]:
        finished, self._finished = self._finished, []
        refused, self._refused = self._refused, []
        self._count_ledger()
        self._count(finished)
        for write_down in self._counted:
            write_down()
        for line in refused:
            metrics.requests.labels(self._tenant(line.tenant) if line.tenant else "", "", "", line.status).inc()
        return refused + [
            _Line(
                at_ms=usage.created_ms,
                request_id=usage.id,
                tenant=tenant,
                status=usage.status,
                ms=usage.latency_ms,
                key_id=usage.key_id,
                model=usage.model,
                provider=usage.provider,
                items=usage.items,
                tokens=usage.tokens,
                cost_nano_usd=usage.cost_nano,
                attempts=usage.attempts,
                provider_ms=usage.provider_latency_ms,
            )
            for tenant, usage, _, _ in finished
        ]

    def _count(self, finished: list[_Finished]) -> None:
        request_seconds = defaultdict[tuple[str, str], list[float]](list)
        calls_made = defaultdict[tuple[str, str], list[CallRecord]](list)
        sums: defaultdict[tuple[str, str, str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
        switches = Counter[tuple[str, str, str]]()
        excess = Counter[tuple[str, str]]()
        for tenant, usage, calls, attempts in finished:
            total = sums[self._tenant(tenant), usage.model, usage.provider, usage.status]
            total[0] += 1
            total[1] += usage.tokens
            total[2] += usage.cost_nano
            if usage.status == "ok":
                request_seconds[usage.model, usage.provider].append(usage.latency_ms / 1000)
                if usage.paid_by == PLATFORM and (usage.provider_tokens or 0) > usage.held_tokens:
                    excess[usage.model, usage.provider] += (usage.provider_tokens or 0) - usage.held_tokens
            for call in calls:
                calls_made[call.model, call.provider].append(call)
            for old, new in pairwise(attempts):
                if (old.model, old.provider) != (new.model, new.provider):
                    switches[old.model, new.model, old.outcome] += 1
        for (tenant, model, provider, status), (count, tokens, nano) in sums.items():
            metrics.requests.labels(tenant, model, provider, status).inc(count)
            if tokens:
                metrics.tokens.labels(tenant, model, provider).inc(tokens)
                metrics.cost.labels(tenant, model, provider).inc(nano / NANO)
        for whose, tokens in excess.items():
            metrics.excess_tokens.labels(*whose).inc(tokens)
        for switch, count in switches.items():
            metrics.model_switches.labels(*switch).inc(count)
        for labels, seconds in request_seconds.items():
            observe_all(metrics.request_seconds.labels(*labels), seconds)
        for labels, made in calls_made.items():
            _count_calls(*labels, made)

    def _count_ledger(self) -> None:
        rows = int(self._ledger.statistics()["rows"])
        if rows > self._seen_rows:
            metrics.ledger_rows.inc(rows - self._seen_rows)
            self._seen_rows = rows
            metrics.ledger_commit_seconds.observe(self._ledger.commit_seconds)


def _count_calls(model: str, provider: str, calls: list[CallRecord]) -> None:
    observe_all(metrics.provider_seconds.labels(model, provider), [call.latency_ms / 1000 for call in calls])
    for call in calls:
        if call.outcome != "ok":
            metrics.errors.labels(model, provider, call.outcome).inc()
