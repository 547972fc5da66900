"""Sends the texts of requests to providers: in the calls that `batching.py` decides on, within each provider's slots
(a tenant's own credential has slots of its own).

Owns the slots, the timers and the tasks of calls under way. What one call brings to whom is `calls.py`; what a call is
(adapter, check, breaker), and what a part costs, is the gateway's.

A call that was sent is never cancelled. A request that goes away takes back what was not sent; once its calls have
ended `when_gone` gets its part, to be settled and cached.

Failure: no slot before a request's deadline → BUSY, nothing more of it is sent; a deadline that passes while a shared
call runs → TIMEOUT, and the rest goes to `when_gone`; calls that fail: see `calls.py`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

import msgspec

from catalog.deployments import Deployment
from core import metrics
from core.metrics import observe_all
from embeddings.batching import Batch, Queue
from embeddings.calls import LEAST_TIME_S, NOTHING, CallShare, Items, Part, Send, Sent, SharedCall, Ticket, Upstream
from providers.base import Endpoint, InputType
from providers.failures import FailureKind, ProviderFailure

__all__ = ["CallShare", "Dispatcher", "Items", "Part", "Send", "Sent", "Upstream"]

_MOST_LANES = 4096
_MOST_POOLS = 4096


@dataclass(slots=True, eq=False)
class _Pool:
    """The slots of one provider, or of one tenant's own credential there."""

    slug: str
    queue: Queue[Ticket]
    items: list[float] = field(default_factory=list)  # of calls since the figures were written down
    waits: list[float] = field(default_factory=list)
    timer: asyncio.TimerHandle | None = None
    wakes_at: float = 0.0


class Dispatcher:
    """Use inside one event loop."""

    def __init__(self, send: Send, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._send = send
        self._clock = clock
        self._pools: dict[str, _Pool] = {}
        self._lanes: dict[Hashable, Upstream] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closed = False

    def lane(
        self,
        endpoint: Endpoint,
        deployment: Deployment,
        *,
        width: int,
        input_type: InputType | None,
        takes_tokens: bool,
    ) -> Upstream:
        """The lane of all calls that are alike in this."""
        key = (endpoint.identity, deployment.model_id.int, width, input_type, takes_tokens)
        lane = self._lanes.get(key)
        if lane is None or lane.deployment is not deployment:  # a new catalogue has new caps
            if len(self._lanes) >= _MOST_LANES:  # who waits in a forgotten lane is served all the same
                self._lanes.clear()
            lane = self._lanes[key] = Upstream(
                max_items=deployment.max_items,
                max_tokens=deployment.max_tokens_per_call,
                window_s=deployment.batch_window_s,
                mixes_tenants=deployment.mixes_tenants,
                endpoint=endpoint,
                deployment=deployment,
                width=width,
                input_type=input_type,
                takes_tokens=takes_tokens,
            )
            self._pool(endpoint).queue.slots = endpoint.max_concurrency
        return lane

    async def submit(
        self,
        lane: Upstream,
        items: Items,
        counts: Sequence[int],
        *,
        tenant: Hashable,
        deadline: float,
        partial: bool = False,
        when_gone: Callable[[Part], None] | None = None,
    ) -> Part:
        """Embeds the items of one request; `counts` are their tokens, `deadline` is in seconds of the clock.

        With `partial` a text that the provider refuses fails alone; without it, its request fails. If this is
        cancelled, raises (a defect in `send`), or returns a part that `is_running`, `when_gone` is called with the
        final part, once, as soon as no call with a text of this request is under way.
        """
        now = self._clock()
        if self._is_closed or deadline - now < LEAST_TIME_S:
            return Part.unsent(len(items), lane.width, ProviderFailure(FailureKind.BUSY, "no time was left to send it"))
        pool = self._pool(lane.endpoint)
        ticket = Ticket(
            lane=lane,
            tenant=tenant,
            counts=counts,
            arrived_at=now,
            queue=pool.queue,
            items=items,
            deadline=deadline,
            partial=partial,
            when_gone=when_gone,
            part=Part(NOTHING, []),
            waiter=asyncio.get_running_loop().create_future(),
        )
        if (batch := pool.queue.start_alone(ticket)) is not None:
            self._start(pool, batch, now)
        else:
            pool.queue.add(ticket)
            self._pump(pool, now)
            if ticket.waiting:
                self._watch(ticket, now)
        try:
            return await ticket.waiter
        except asyncio.CancelledError:
            pool.queue.withdraw(ticket)
            if not ticket.under_way:  # else the call that ends last does it
                ticket.make_room()
                ticket.hand_over()
            raise
        finally:
            if ticket.timer is not None:
                ticket.timer.cancel()

    async def close(self, *, within_s: float = 0.0) -> None:
        """Fails what waits, lets the calls under way end for so long, then breaks them off."""
        self._is_closed = True
        for pool in self._pools.values():
            if pool.timer is not None:
                pool.timer.cancel()
            for ticket in pool.queue.waiting():
                ticket.fail(ProviderFailure(FailureKind.BUSY, "this process is stopping"))
                ticket.advance()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=within_s)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def statistics(self) -> dict[str, dict[str, float]]:
        """For each provider: `slots`, `calls` under way, jobs `queued`, and for how long (`oldest_wait_ms`); tenants'
        own credentials there are counted in."""
        now = self._clock()
        found: dict[str, dict[str, float]] = {}
        for pool in self._pools.values():
            queue, oldest = pool.queue, pool.queue.oldest()
            waited_ms = 0.0 if oldest is None else round((now - oldest) * 1000, 1)
            figures = found.setdefault(pool.slug, {"slots": 0, "calls": 0, "queued": 0, "oldest_wait_ms": 0.0})
            figures["slots"] += queue.slots
            figures["calls"] += queue.calls
            figures["queued"] += queue.jobs
            figures["oldest_wait_ms"] = max(figures["oldest_wait_ms"], waited_ms)
        return found

    def count(self) -> None:
        """Writes down how large calls were and how long their texts waited."""
        for pool in self._pools.values():
            items, waits, pool.items[:], pool.waits[:] = list(pool.items), list(pool.waits), [], []
            if items:
                observe_all(metrics.batch_items.labels(pool.slug), items)
            if waits:
                observe_all(metrics.batch_wait_seconds.labels(pool.slug), waits)

    def _pool(self, endpoint: Endpoint) -> _Pool:
        name = endpoint.slots
        pool = self._pools.get(name)
        if pool is None:
            if len(self._pools) >= _MOST_POOLS:
                self._forget_idle_pools()
            pool = self._pools[name] = _Pool(endpoint.slug, Queue(slots=endpoint.max_concurrency))
        return pool

    def _forget_idle_pools(self) -> None:
        """Tenants' own credentials come and go."""
        self.count()
        for name in [n for n, p in self._pools.items() if n != p.slug and not (p.queue.calls or p.queue.has_waiting)]:
            del self._pools[name]

    def _pump(self, pool: _Pool, now: float) -> None:
        """Starts every call that can be made now, and sees to it that somebody looks again."""
        if self._is_closed:
            return
        while isinstance(decision := pool.queue.next_batch(now), Batch):
            self._start(pool, decision, now)
        if decision is None or (pool.timer is not None and pool.wakes_at <= decision):
            return
        if pool.timer is not None:
            pool.timer.cancel()
        pool.wakes_at = decision
        pool.timer = asyncio.get_running_loop().call_later(max(0.0, decision - now), self._wake, pool)

    def _wake(self, pool: _Pool) -> None:
        pool.timer = None
        self._pump(pool, max(self._clock(), pool.wakes_at))  # a loop's timers may be early by its resolution

    def _start(self, pool: _Pool, batch: Batch[Ticket], now: float) -> None:
        pieces = batch.pieces
        first = pieces[0].job.arrived_at
        if len(pieces) > 1:  # one alone: the call ends with its deadline
            first = min(piece.job.arrived_at for piece in pieces)
            last = max(piece.job.deadline for piece in pieces)
            for piece in pieces:
                if piece.job.deadline < last and piece.job.timer is None:
                    self._watch(piece.job, now)
        pool.waits.append(now - first)
        call = SharedCall(batch, self._send, clock=self._clock, observe_items=pool.items.append)
        task = asyncio.get_running_loop().create_task(self._carry(pool, batch, call))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(self, pool: _Pool, batch: Batch[Ticket], call: SharedCall) -> None:
        try:
            await call.run()
        finally:
            pool.queue.finished(batch)
            if pool.queue.has_waiting:
                self._pump(pool, self._clock())

    def _watch(self, ticket: Ticket, now: float) -> None:
        ticket.timer = asyncio.get_running_loop().call_later(ticket.deadline - now, self._overdue, ticket)

    def _overdue(self, ticket: Ticket) -> None:
        """Its deadline has come, and it is not through: it waits for a slot, or others in its call have more time."""
        if ticket.waiter.done():
            return
        if not ticket.under_way:
            ticket.fail(ProviderFailure(FailureKind.BUSY, "no slot became free in time"))
            ticket.advance()
            return
        ticket.queue.withdraw(ticket)
        ticket.make_room()
        failure = ProviderFailure(FailureKind.TIMEOUT, "no answer in time to a call shared with others")
        so_far = msgspec.structs.replace(ticket.part, calls=list(ticket.part.calls), failure=failure, is_running=True)
        ticket.waiter.set_result(so_far)
