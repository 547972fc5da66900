"""What one request has reserved, and what is left beside it."""

from __future__ import annotations

import struct
from datetime import UTC, datetime
from typing import Any

import msgspec

from billing.limit_plans import Plan
from billing.limit_terms import LimitTerms, Refused

_MOMENT = struct.Struct("<d")
RATE_RESETS_S = 61.0  # when everything that counts now has left the window


class Tightest(msgspec.Struct, frozen=True, gc=False):
    """What is left of the tightest hard limit of a measure, for the `x-ratelimit-*` headers."""

    limit: int
    remaining: int
    resets_s: float  # from the moment of the hold


class Hold(msgspec.Struct, eq=False, gc=False):
    """Settled or released once, or it expires. `pool` goes into the usage row (`UsageRecord.pool`)."""

    plan: Plan
    tokens: int
    nano: int
    pool: int | None = None
    head: bytes = b""  # empty: it is not in Redis
    told: bytes = b""  # when it was held and what is left, as the script writes it; read as far as somebody asks
    is_direct: bool = False
    is_open: bool = True
    tokens_back: int = 0  # of those that were held, once it is settled

    @property
    def held_ms(self) -> float:
        moment: float = _MOMENT.unpack_from(self.told)[0] if self.told else 0.0
        return moment

    @property
    def left(self) -> tuple[float, ...]:
        """Of each limit, this request taken off; empty: nothing is known."""
        return self.plan.told.unpack(self.told)[1:] if self.told else ()

    @property
    def would_refuse(self) -> tuple[LimitTerms, ...]:
        """The soft and shadow limits that this request passes."""
        left = self.left if self.plan.soft else ()
        return tuple(self.plan.limits[index] for index in self.plan.soft if left[index] < 0) if left else ()

    def tightest(self, measure: str) -> Tightest | None:
        """Of `requests` or `tokens`; None where nothing limits it, or nothing is known (Redis away)."""
        hard = self.plan.hard.get(measure)
        if not hard or not self.told:
            return None
        held_ms, *left = self.plan.told.unpack(self.told)
        index, amount, end_s = hard[0] if len(hard) == 1 else min(hard, key=lambda each: left[each[0]])
        resets_s = RATE_RESETS_S if end_s is None else end_s - held_ms / 1000
        back = self.tokens_back if measure == "tokens" else 0
        return Tightest(amount, max(0, int(left[index]) + back), max(0.0, resets_s))


def refused_by_rate(plan: Plan, reply: list[Any], now_ms: float) -> Refused:
    """Of the script's `rate` answer."""
    index, wait_ms, used = int(reply[1]), int(reply[2]), int(reply[3])
    wait_s = None if wait_ms < 0 else wait_ms / 1000
    until = datetime.fromtimestamp(now_ms / 1000 + (wait_s if wait_s is not None else RATE_RESETS_S), UTC)
    return Refused(plan.limits[index], used=used, resets_at=until, retry_after_s=wait_s)


def refused_by_period(plan: Plan, index: int, used: int) -> Refused:
    """Of a day or month that is used up."""
    return Refused(plan.limits[index], used=used, resets_at=plan.ends[index], retry_after_s=None)
