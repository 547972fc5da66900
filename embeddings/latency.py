"""How long calls take, live: the p50 and p95 of the last minutes of each deployment or route. Pure.

Counts in bins that grow by a fifth each, so that a percentile is right to about 10 %, whatever the traffic; two
generations of bins are kept, so that what is told is between one and two periods old. Bins of several processes add up.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

PERIOD_S = 60.0
MEDIANS_S = 1.0  # working out every median takes longer than a request may
BINS = 64
_GROWTH = math.log(1.2)
MOST_KEYS = 5_000  # beyond it the idle ones are forgotten, then new ones are not counted


@dataclass(slots=True)
class _Seen:
    older: list[int] = field(default_factory=lambda: [0] * BINS)
    newer: list[int] = field(default_factory=lambda: [0] * BINS)
    turned_at: float = 0.0
    last_at: float = 0.0


class Latencies(Generic[K]):
    """`now` is in seconds that never go back."""

    def __init__(self, *, period_s: float = PERIOD_S) -> None:
        self._period_s = period_s
        self._seen: dict[K, _Seen] = {}
        self._medians: dict[K, float] = {}
        self._medians_until = 0.0

    def add(self, key: K, ms: float, now: float) -> None:
        seen = self._seen.get(key)
        if seen is None:
            if len(self._seen) >= MOST_KEYS:
                self._forget_idle(now)
                if len(self._seen) >= MOST_KEYS:
                    return
            seen = self._seen[key] = _Seen(turned_at=now)
        if now - seen.turned_at >= self._period_s:
            self._turn(seen, now)
        seen.newer[bin_of(ms)] += 1
        seen.last_at = now

    def p50(self, now: float) -> Mapping[K, float]:
        """The median of every key called lately, at most a second old: what the strategy `latency` sorts by."""
        if now >= self._medians_until or now < self._medians_until - MEDIANS_S:
            self._medians = {key: percentile(counts, 0.5) for key, counts in self.counts(now).items()}
            self._medians_until = now + MEDIANS_S
        return self._medians

    def percentile(self, key: K, share: float, now: float) -> float | None:
        """None for what was not called lately."""
        counts = self._counts(self._seen[key], now) if key in self._seen else None
        return percentile(counts, share) if counts else None

    def counts(self, now: float) -> dict[K, dict[int, int]]:
        """Bins that hold something, by key; to be added to those of other processes."""
        found = ((key, self._counts(seen, now)) for key, seen in self._seen.items())
        return {key: counts for key, counts in found if counts}

    def _counts(self, seen: _Seen, now: float) -> dict[int, int]:
        if now - seen.turned_at >= self._period_s:
            self._turn(seen, now)
        return {n: a + b for n, (a, b) in enumerate(zip(seen.older, seen.newer, strict=True)) if a + b}

    def _turn(self, seen: _Seen, now: float) -> None:
        is_stale = now - seen.turned_at >= 2 * self._period_s
        seen.older = [0] * BINS if is_stale else seen.newer
        seen.newer = [0] * BINS
        seen.turned_at = now

    def _forget_idle(self, now: float) -> None:
        for key in [key for key, seen in self._seen.items() if now - seen.last_at > 2 * self._period_s]:
            del self._seen[key]


def bin_of(ms: float) -> int:
    return min(int(math.log(ms) / _GROWTH), BINS - 1) if ms > 1 else 0


def percentile(counts: Mapping[int, int], share: float) -> float:
    """The middle of the bin that holds it, in milliseconds. `counts` is not empty."""
    left = math.ceil(sum(counts.values()) * share)
    for number in sorted(counts):
        left -= counts[number]
        if left <= 0:
            break
    return math.exp((number + 0.5) * _GROWTH)


def added(parts: Iterable[Mapping[int, int]]) -> dict[int, int]:
    """The bins of several processes as one."""
    total: dict[int, int] = {}
    for part in parts:
        for number, count in part.items():
            total[number] = total.get(number, 0) + count
    return total
