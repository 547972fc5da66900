"""How long somebody who keeps trying has to wait. Pure.

The first tries are free, then each one is followed by a wait that doubles up to a longest. A try during a wait is
refused and does not count, so hammering never makes a wait longer.
"""

from __future__ import annotations

import msgspec


class Tries(msgspec.Struct, frozen=True):
    """What is remembered of one who tries: how often, when last, and from when on again (Unix seconds)."""

    count: int = 0
    last: float = 0.0
    until: float = 0.0


class Rule(msgspec.Struct, frozen=True):
    free: int
    longest_s: float
    forget_s: float = 3600.0  # after this long without a try, all is forgotten


def attempt(seen: Tries, rule: Rule, now: float) -> tuple[Tries, float]:
    """What to remember, and how long to wait (0: go ahead). A try counts before its outcome is known, so that many at
    once are not all free."""
    if now < seen.until:
        return seen, seen.until - now
    count = 1 if now - seen.last > rule.forget_s else seen.count + 1
    return Tries(count, now, now + _wait(count, rule)), 0.0


def take_back(seen: Tries, rule: Rule, now: float) -> Tries:
    """As if the last try had not been: it was right."""
    count = max(seen.count - 1, 0)
    return Tries(count, seen.last, now + _wait(count, rule))


def _wait(count: int, rule: Rule) -> float:
    over = count - rule.free
    # The exponent is bounded: 2 ** 5000 is no float.
    return 0.0 if over < 0 else min(2.0 ** min(over, 32), rule.longest_s)
