"""One process's copies of all breakers, what operators hold, and who hears of a change.

Owns the dictionary that every call looks into, and that a change is told once: to the metrics, the log and listeners.
What is put into it, and when, is `breaker_board.py`'s.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from embeddings import breaker as rules
from embeddings.breaker import Breaker, Force, Report, State
from embeddings.breaker_metrics import BreakerMetrics

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Change:
    """A route is in another state now. Every process hears it; in one of them it was decided."""

    route: str
    old: State
    new: State
    reason: str
    is_decided_here: bool


@dataclass(slots=True)
class Copy:
    """One route here."""

    name: str
    value: Breaker = field(default_factory=Breaker)
    seen: bytes = b""  # what Redis held when last heard of: `value`, unless that is ahead
    force: Force | None = None
    is_plain: bool = True
    pending: list[Report] = field(default_factory=list)  # neither in Redis nor in `value`
    alone: list[Report] = field(default_factory=list)  # in `value`, not in Redis
    is_ahead: bool = False  # `value` holds what Redis does not
    push: asyncio.Task[None] | None = None
    used_at: int = 0


class Copies:
    def __init__(self, clock: Callable[[], int]) -> None:
        self.by_route: dict[str, Copy] = {}
        self.forces: dict[str, Force] = {}
        self.listeners: list[Callable[[Change], None]] = []
        self._clock = clock
        self._metrics = BreakerMetrics()

    def __iter__(self) -> Iterator[Copy]:
        """A route may be met while one goes through them."""
        return iter(tuple(self.by_route.values()))

    def __len__(self) -> int:
        return len(self.by_route)

    def find(self, route: str) -> Copy:
        """One that is met for the first time is closed, as far as anybody knows here."""
        copy = self.by_route.get(route)
        if copy is None:
            copy = self.by_route[route] = Copy(route, used_at=self._clock())
            copy.force = rules.force_on(route, self.forces)
            copy.is_plain = copy.force is None
            self._metrics.show(route, rules.effective(copy.value, copy.force))
        return copy

    def set(self, copy: Copy, value: Breaker, *, decided_here: bool) -> None:
        before, copy.value = rules.effective(copy.value, copy.force), value
        copy.is_plain = rules.is_plain(value, copy.force)
        now = rules.effective(value, copy.force)
        if before is not now:
            self._tell(Change(copy.name, before, now, value.reason, decided_here))

    def adopt(self, copy: Copy, blob: bytes, value: Breaker, *, decided_here: bool) -> None:
        """Takes over what Redis holds, unless something newer is here."""
        if copy.is_ahead or value.version <= copy.value.version:
            return
        copy.seen = blob
        self.set(copy, value, decided_here=decided_here)

    def hold(self, forces: dict[str, Force]) -> None:
        """What operators hold from now on, all of it."""
        self.forces = forces
        for copy in self:
            before = rules.effective(copy.value, copy.force)
            copy.force = rules.force_on(copy.name, forces)
            copy.is_plain = rules.is_plain(copy.value, copy.force)
            now = rules.effective(copy.value, copy.force)
            if before is not now:
                reason = "let go by an operator" if copy.force is None else f"held {copy.force} by an operator"
                self._tell(Change(copy.name, before, now, reason, False))

    def forget(self, copy: Copy) -> None:
        del self.by_route[copy.name]
        self._metrics.forget(copy.name)

    def _tell(self, change: Change) -> None:
        self._metrics.show(change.route, change.new)
        if change.is_decided_here:
            self._metrics.count(change.route, change.new)
            log.warning("breaker: %s is %s: %s", change.route, change.new.name.lower(), change.reason)
        for listener in self.listeners:
            listener(change)
