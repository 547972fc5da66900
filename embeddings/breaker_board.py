"""The breakers of all routes as one process sees them: a local copy of what all processes share through Redis.

Owns the exchange and the reports not pushed yet; `breaker.py` decides, `breaker_copies.py` keeps the copies,
`breaker_wire.py` names what stands in Redis. A call asks (`admit`, a look into a dictionary) and tells how it ended
(`report`); neither waits for Redis. Good calls are pushed four times a second, bad ones at once: the reports are laid
on the shared value by the rules, and that is written back only if nobody wrote in between; else the same again on the
newer one. What changed is published on `breaker_wire.CHANNEL`, which the runtime's listener passes to `apply`; a poll
each second finds what was missed. Only a probe waits for Redis, since its bound holds over all processes.

Times are the processes' own (`clock`, Unix milliseconds), not Redis': they are compared with windows, leases and open
times of seconds, and machines kept to the same time differ by milliseconds; by how much they differ, such a time is
longer or shorter, and nothing else.

Failure: Redis away → the local copies go on by the same rules, probes are bounded per process, and forces stay as last
known. Redis back → what was reported meanwhile is pushed, and of two different states the later one is kept
(`breaker.joined`); so also when Redis came back empty. A push whose answer was lost may count twice, in one window.
A process that dies takes at most 250 ms of good calls with it; its probes' leases run out.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable

import hiredis
import msgspec

from billing.redis_pipe import RedisAway, RedisPipe
from core.clock import unix_ms
from embeddings import breaker as rules
from embeddings import breaker_wire as wire
from embeddings.breaker import GO, Admission, Breaker, Force, Outcome, Permit, Report, Settings, State
from embeddings.breaker_copies import Change, Copies, Copy
from embeddings.latency import Latencies

log = logging.getLogger(__name__)

PUSH_EVERY_S = 0.25
POLL_EVERY_S = 1.0
_TIDY_EVERY_S = 600.0
_MOST_TRIES = 50  # of one push against others; one of all that try gets through each time
_CLOSING_S = 0.5
_AWAY = (RedisAway, hiredis.ReplyError)  # a refusal (loading, read-only, out of memory) is no better than silence


class Board:
    """Lives inside one event loop."""

    def __init__(
        self, pipe: RedisPipe, *, clock: Callable[[], int] = unix_ms, settings: Settings | None = None
    ) -> None:
        self.settings = settings or Settings()
        self.latencies: Latencies[str] = Latencies()  # of good calls, by route
        self._pipe = pipe
        self._clock = clock
        self._process = secrets.token_hex(6)
        self._copies = Copies(clock)
        self._waiting: set[str] = set()  # routes with something to push
        self._revision: bytes | None = None
        self._loops: list[asyncio.Task[None]] = []
        self._counts = Counter[str]()

    def start(self) -> None:
        """Pushes and polls in the background."""
        loop = asyncio.get_running_loop()
        self._loops = [
            loop.create_task(self._every(PUSH_EVERY_S, self.flush), name="breakers-push"),
            loop.create_task(self._every(POLL_EVERY_S, self.poll), name="breakers-poll"),
            loop.create_task(self._every(_TIDY_EVERY_S, self.tidy), name="breakers-tidy"),
        ]

    async def close(self) -> None:
        for task in self._loops:
            task.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        if self._pipe.is_up:
            await asyncio.wait([asyncio.ensure_future(self.flush())], timeout=_CLOSING_S)
            self._pipe.tell("HDEL", wire.FIGURES_KEY, self._process)
        pushes = [copy.push for copy in self._copies if copy.push is not None]
        for push in pushes:
            push.cancel()
        await asyncio.gather(*pushes, return_exceptions=True)

    def on_change(self, listener: Callable[[Change], None]) -> None:
        """Calls it on every change, on the loop: it must not block."""
        self._copies.listeners.append(listener)

    def admit(self, route: str) -> Admission:
        """Whether a call may go now, may not, or needs a permit (`probe`)."""
        copy = self._copies.by_route.get(route) or self._copies.find(route)
        if copy.is_plain:
            return GO
        return rules.admission(copy.value, copy.force, self._clock(), self.settings)

    async def probe(self, route: str) -> Permit | None:
        """Leave for one call where `admit` said ASK, or None. A permit must come back, with `report` or `release`."""
        copy = self._copies.find(route)
        if copy.force is not None:
            return Permit(route) if self.admit(route) is GO else None
        self._counts["asked"] += 1
        permit = Permit(route, f"{self._process}.{self._counts['asked']}")
        if not self._pipe.is_up:
            return self._probe_alone(copy, permit)
        if copy.is_ahead:
            self._push_soon(copy)
            return None  # what was learnt alone must be known to all first
        try:
            return await self._probe_shared(copy, permit)
        except _AWAY:
            return self._probe_alone(copy, permit)

    def report(
        self,
        route: str,
        outcome: Outcome,
        ms: float,
        *,
        retry_after_s: float | None = None,
        permit: Permit | None = None,
    ) -> None:
        """How a call that was admitted ended."""
        copy = self._copies.find(route)
        now = copy.used_at = self._clock()
        is_good = outcome is Outcome.OK
        if is_good:
            self.latencies.add(route, ms, now / 1000)
        permit_id = permit.id if permit is not None else ""
        if outcome is Outcome.CALLER and not permit_id:
            return
        wait_ms = None if retry_after_s is None else retry_after_s * 1000
        copy.pending.append(Report(now, ms, outcome, wait_ms, permit_id))
        self._waiting.add(route)
        if not self._pipe.is_up:
            self._go_alone(copy, self._taken(copy))
        elif not is_good or permit_id or ms > self.settings.slow_ms:
            if outcome is Outcome.CAPACITY:  # not even the next call may go
                self._copies.set(copy, rules.after(copy.value, copy.pending[-1], self.settings), decided_here=True)
            self._push_soon(copy)
        elif len(copy.pending) > 2 * self.settings.window_calls:
            copy.pending = self._trimmed(copy.pending)

    def release(self, permit: Permit) -> None:
        """Gives back a permit whose call told nothing: not sent, or cancelled."""
        self.report(permit.route, Outcome.CALLER, 0.0, permit=permit)

    def apply(self, said: bytes) -> None:
        """A message of the channel `breaker_wire.CHANNEL`."""
        message = wire.message(said)
        if message is None:
            return
        if message.field.startswith(wire.FORCE_MARK):
            pattern, forced = message.field.removeprefix(wire.FORCE_MARK), wire.force(message.value)
            others = {name: state for name, state in self._copies.forces.items() if name != pattern}
            self._copies.hold(others | ({pattern: forced} if forced else {}))
            return
        copy = self._copies.find(message.field)
        self._copies.adopt(copy, message.value, wire.breaker(message.value), decided_here=False)

    async def force(self, pattern: str, state: Force | None) -> None:
        """Holds all routes that fit at a state, in all processes, until it is taken back with None."""
        await self._pipe.run(wire.PUT, wire.KEY, *wire.put_force(pattern, state, secrets.token_hex(8)))
        await self.poll()

    async def flush(self) -> None:
        """Pushes what waits; returns when it has arrived, or Redis is away."""
        if self._pipe.is_up:
            await asyncio.gather(*(self._push_soon(self._copies.find(route)) for route in tuple(self._waiting)))

    async def poll(self) -> None:
        """Reads what changed, if anything did, and writes down this process's latencies."""
        try:
            revision: bytes | None = await self._pipe.call("HGET", wire.KEY, wire.REVISION)
            if self._revision is None or (revision or b"") != self._revision:
                self._take(wire.held(wire.pairs(await self._pipe.call("HGETALL", wire.KEY))))
        except _AWAY:
            return
        now = self._clock()
        bins = self.latencies.counts(now / 1000)
        if bins:
            figures = wire.encode(wire.Figures(now, bins))
            self._pipe.tell("HSET", wire.FIGURES_KEY, self._process, figures)

    async def tidy(self) -> None:
        """Forgets routes that nobody has called for long, here and in Redis."""
        now = self._clock()
        for copy in self._copies:
            is_idle = copy.used_at < now - wire.FORGET_MS and wire.is_forgotten(copy.value, now)
            if is_idle and copy.push is None and not copy.pending and not copy.is_ahead:
                self._copies.forget(copy)
                self._waiting.discard(copy.name)
        try:
            held = wire.held(wire.pairs(await self._pipe.call("HGETALL", wire.KEY)))
            for name, blob in held.routes.items():
                if wire.is_forgotten(wire.breaker(blob), now):
                    await self._pipe.run(wire.SWAP, wire.KEY, name, blob, "", "", "", "")
        except _AWAY:
            return

    def states(self) -> dict[str, State]:
        """Every route met here, as the world sees it."""
        return {copy.name: rules.effective(copy.value, copy.force) for copy in self._copies}

    def breaker(self, route: str) -> Breaker:
        """The local copy, for tests and pages."""
        return self._copies.find(route).value

    def statistics(self) -> dict[str, int]:
        copies = self._copies
        return {
            "routes": len(copies),
            "not_closed": sum(state is not State.CLOSED for state in self.states().values()),
            "alone": sum(copy.is_ahead for copy in copies),
            "waiting": sum(len(copy.pending) + len(copy.alone) for copy in copies),
            "pushing": sum(copy.push is not None for copy in copies),
            "pushes": self._counts["pushes"],
            "conflicts": self._counts["conflicts"],
        }

    async def _every(self, seconds: float, act: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                await act()
            except Exception:
                log.exception("breaker: a beat failed")  # and the next one comes

    # Without Redis

    def _go_alone(self, copy: Copy, reports: list[Report]) -> None:
        copy.alone = [*copy.alone, *reports][-self.settings.window_calls :]  # older ones told `value` what they had to
        copy.is_ahead = True
        self._waiting.add(copy.name)
        self._copies.set(copy, self._after(copy.value, reports), decided_here=True)

    def _probe_alone(self, copy: Copy, permit: Permit) -> Permit | None:
        if copy.value.state is State.CLOSED:
            return Permit(copy.name)
        value = rules.leased(copy.value, permit.id, self._clock(), self.settings)
        if value is None:
            return None
        copy.is_ahead = True
        self._waiting.add(copy.name)
        self._copies.set(copy, value, decided_here=True)
        return permit

    # With Redis

    def _take(self, held: wire.Held) -> None:
        """The whole hash. What is here but not there, or newer here than there, was lost there: it is pushed again."""
        self._revision = held.revision
        self._copies.hold(dict(held.forces))
        for name, blob in held.routes.items():
            copy, value = self._copies.find(name), wire.breaker(blob)
            if value.version <= copy.value.version and blob != copy.seen:
                self._lost(copy, blob)
            self._copies.adopt(copy, blob, value, decided_here=False)
        for copy in self._copies:
            if copy.name not in held.routes and copy.value.version:
                self._lost(copy, b"")

    def _lost(self, copy: Copy, blob: bytes) -> None:
        copy.seen, copy.is_ahead = blob, True
        self._waiting.add(copy.name)

    def _push_soon(self, copy: Copy) -> asyncio.Task[None]:
        """One push of a route at a time; the one that runs takes along what comes meanwhile."""
        if copy.push is None:
            copy.push = asyncio.get_running_loop().create_task(self._push(copy), name="breaker-push")
        return copy.push

    async def _push(self, copy: Copy) -> None:
        reports: list[Report] = []
        try:
            while copy.pending or copy.is_ahead:
                reports = self._taken(copy)
                if not await self._exchange(copy, reports):
                    copy.pending = reports + copy.pending  # others were quicker every time; at the next beat
                    return
            self._waiting.discard(copy.name)
        except _AWAY:
            self._go_alone(copy, reports)
        finally:
            copy.push = None

    async def _exchange(self, copy: Copy, reports: list[Report]) -> bool:
        """Lays reports, and what was learnt alone, on the shared value. False: others were quicker every time."""
        alone, blob = copy.alone, copy.seen
        for _ in range(_MOST_TRIES):
            shared = wire.breaker(blob)
            value = self._after(self._base(copy, shared), [*alone, *reports])
            blob, is_mine = await self._swap(copy.name, blob, shared, value)
            if not is_mine:
                continue
            value = wire.breaker(blob)
            copy.alone = copy.alone[len(alone) :]
            copy.is_ahead = bool(copy.alone)
            if value.version >= copy.value.version and not copy.is_ahead:
                copy.seen = blob
                self._copies.set(copy, value, decided_here=value.state is not shared.state)
            return True
        return False

    async def _probe_shared(self, copy: Copy, permit: Permit) -> Permit | None:
        blob = copy.seen
        try:
            for _ in range(_MOST_TRIES):
                shared = wire.breaker(blob)
                value = self._base(copy, shared)
                leased = rules.leased(value, permit.id, self._clock(), self.settings)
                if leased is None:
                    self._copies.adopt(copy, blob, shared, decided_here=False)
                    return Permit(copy.name) if self.admit(copy.name) is GO else None
                blob, is_mine = await self._swap(copy.name, blob, shared, leased)
                if is_mine:
                    is_change = leased.state is not shared.state
                    self._copies.adopt(copy, blob, wire.breaker(blob), decided_here=is_change)
                    return permit
        except asyncio.CancelledError:
            self.release(permit)  # it may have been leased
            raise
        return None

    async def _swap(self, route: str, blob: bytes, shared: Breaker, value: Breaker) -> tuple[bytes, bool]:
        """Writes a value over the one it was made from. Returns what Redis holds now, and whether that is ours.

        One that is no other is not written; but that it is no other must be true of what Redis holds.
        """
        if value == shared:
            held: bytes | None = await self._pipe.call("HGET", wire.KEY, route)
            return held or b"", (held or b"") == blob
        written = wire.encode(msgspec.structs.replace(value, version=value.version + 1))
        news, revision = b"", ""
        if rules.is_news(shared, value):
            news, revision = wire.encode(wire.Message(route, written)), secrets.token_hex(8)
        self._counts["pushes"] += 1
        answer: bytes | int = await self._pipe.run(
            wire.SWAP, wire.KEY, route, blob, written, wire.CHANNEL, news, revision
        )
        if isinstance(answer, bytes):
            self._counts["conflicts"] += 1
            return answer, False
        return written, True

    def _base(self, copy: Copy, shared: Breaker) -> Breaker:
        """The shared value, with what was learnt alone, or was lost there."""
        is_behind = shared.version < copy.value.version
        return rules.joined(shared, copy.value) if copy.is_ahead or is_behind else shared

    def _after(self, value: Breaker, reports: Iterable[Report]) -> Breaker:
        for report in reports:
            value = rules.after(value, report, self.settings)
        return value

    def _taken(self, copy: Copy) -> list[Report]:
        taken, copy.pending = self._trimmed(copy.pending), []
        return taken

    def _trimmed(self, reports: list[Report]) -> list[Report]:
        """Without marks that a window has no room for."""
        most = self.settings.window_calls
        if len(reports) <= most:
            return reports
        early, late = reports[:-most], reports[-most:]
        return [r for r in early if r.permit or r.outcome is Outcome.CAPACITY] + late
