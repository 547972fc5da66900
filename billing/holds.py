"""What one request has reserved, and what is left beside it."""

from __future__ import annotations

import struct
from datetime import UTC, datetime
from typing import Any

from billing.limit_plans import Plan
from billing.limit_terms import LimitTerms, Refused

_MOMENT = struct.Struct("<d")
RATE_RESETS_S = 61.0  # when everything that counts now has left the window


class Tightest:
    """What is left of the tightest hard limit of a measure, for the `x-ratelimit-*` headers."""

    __slots__ = ("limit", "remaining", "resets_s")

    def __init__(self, limit: int, remaining: int, resets_s: float) -> None:
        self.limit = limit
        self.remaining = remaining
        self.resets_s = resets_s  # from the moment of the hold


class Hold:
    """Settled or released once, or it expires. `pool` goes into the usage row (`UsageRecord.pool`)."""

    __slots__ = ("_left", "_told", "epoch", "head", "held_ms", "is_direct", "is_open", "nano", "plan", "pool", "tokens")

    def __init__(
        self, plan: Plan, *, tokens: int, nano: int, left: tuple[float, ...] = (), told: bytes | None = None
    ) -> None:
        """`told` is the script's answer, read as far as somebody asks."""
        self.plan = plan
        self.tokens = tokens
        self.nano = nano
        self.pool: int | None = None
        self.epoch = ""
        self.head = ""  # empty: it is not in Redis
        self.held_ms: float = 0.0 if told is None else _MOMENT.unpack_from(told)[0]
        self.is_direct = False
        self.is_open = True
        self._left = left
        self._told = told

    @property
    def left(self) -> tuple[float, ...]:
        """Of each limit, this request taken off; empty: nothing is known."""
        if self._told is not None:
            self._left, self._told = self.plan.unpack(self._told)[1:], None
        return self._left

    @left.setter
    def left(self, left: tuple[float, ...]) -> None:
        self._left, self._told = left, None

    @property
    def would_refuse(self) -> tuple[LimitTerms, ...]:
        """The soft and shadow limits that this request passes."""
        if not self.plan.soft or not self.left:
            return ()
        return tuple(self.plan.limits[index] for index in self.plan.soft if self.left[index] < 0)

    def tightest(self, measure: str) -> Tightest | None:
        """Of `requests` or `tokens`; None where nothing limits it, or nothing is known (Redis away)."""
        hard, left = self.plan.hard.get(measure), self.left
        if not hard or not left:
            return None
        index, amount, end_s = min(hard, key=lambda each: left[each[0]])
        resets_s = RATE_RESETS_S if end_s is None else end_s - self.held_ms / 1000
        return Tightest(amount, max(0, int(left[index])), max(0.0, resets_s))


def refused_by_rate(plan: Plan, reply: list[Any], now_ms: float) -> Refused:
    """Of the script's `rate` answer."""
    index, wait_ms, used = int(reply[1]), int(reply[2]), int(reply[3])
    wait_s = None if wait_ms < 0 else wait_ms / 1000
    until = datetime.fromtimestamp(now_ms / 1000 + (wait_s if wait_s is not None else RATE_RESETS_S), UTC)
    return Refused(plan.limits[index], used=used, resets_at=until, retry_after_s=wait_s)


def refused_by_period(plan: Plan, index: int, used: int) -> Refused:
    """Of a day or month that is used up."""
    return Refused(plan.limits[index], used=used, resets_at=plan.ends[index], retry_after_s=None)
