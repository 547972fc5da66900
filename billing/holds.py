"""What one request has reserved, and what is left beside it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from billing.limit_plans import Plan
from billing.limit_terms import LimitTerms, Refused

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

    __slots__ = ("epoch", "head", "held_ms", "is_direct", "is_open", "left", "nano", "plan", "pool", "tokens")

    def __init__(self, plan: Plan, *, tokens: int, nano: int, left: tuple[float, ...] = ()) -> None:
        self.plan = plan
        self.tokens = tokens
        self.nano = nano
        self.left = left  # of each limit, this request taken off; empty: nothing is known
        self.pool: int | None = None
        self.epoch = ""
        self.head = ""  # empty: it is not in Redis
        self.held_ms: float = 0
        self.is_direct = False
        self.is_open = True

    @property
    def would_refuse(self) -> tuple[LimitTerms, ...]:
        """The soft and shadow limits that this request passes."""
        if not self.left or not self.plan.soft:
            return ()
        return tuple(self.plan.limits[index] for index in self.plan.soft if self.left[index] < 0)

    def tightest(self, measure: str) -> Tightest | None:
        """Of `requests` or `tokens`; None where nothing limits it, or nothing is known (Redis away)."""
        best: Tightest | None = None
        for terms, left, end in zip(self.plan.limits, self.left, self.plan.ends, strict=bool(self.left)):
            if terms.measure == measure and terms.is_hard and (best is None or left < best.remaining):
                resets_s = RATE_RESETS_S if terms.is_rate else end.timestamp() - self.held_ms / 1000
                best = Tightest(terms.amount, max(0, int(left)), max(0.0, resets_s))
        return best


def refused_by_rate(plan: Plan, reply: list[Any], now_ms: float) -> Refused:
    """Of the script's `rate` answer."""
    index, wait_ms, used = int(reply[1]), int(reply[2]), int(reply[3])
    wait_s = None if wait_ms < 0 else wait_ms / 1000
    until = datetime.fromtimestamp(now_ms / 1000 + (wait_s if wait_s is not None else RATE_RESETS_S), UTC)
    return Refused(plan.limits[index], used=used, resets_at=until, retry_after_s=wait_s)


def refused_by_period(plan: Plan, index: int, used: int) -> Refused:
    """Of a day or month that is used up."""
    return Refused(plan.limits[index], used=used, resets_at=plan.ends[index], retry_after_s=None)
