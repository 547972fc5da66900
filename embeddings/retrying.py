"""Whether a call that failed is tried again on the same route, and after which pause. Pure; time and chance come in.

One retry per candidate, and over all requests of a process a tenth of them at most: an outage must not be answered
with twice the load. Going on to another candidate is no retry and costs nothing here. What kind of failure another try
may help is told by `providers.failures`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from providers.failures import ProviderFailure

SHARE = 10  # requests that pay for one retry
WINDOW_S = 60.0
PAUSE_S = 0.25  # full jitter: anything between nothing and this
MOST_WAIT_S = 2.0  # a provider that wants a longer pause is left for the next candidate
LEAST_TIME_S = 0.05  # what must be left of the deadline after the pause


@dataclass(slots=True)
class _Second:
    number: int
    requests: int = 0
    retries: int = 0


class Retries:
    """The budget of one process: retries stay at or below a tenth of the requests of the last minute, and of all."""

    def __init__(self, *, share: int = SHARE, window_s: float = WINDOW_S) -> None:
        self._share = share
        self._window_s = window_s
        self._seconds: deque[_Second] = deque()
        self._recent = _Second(0)
        self._all = _Second(0)

    def request(self, now: float) -> None:
        """Counts a request; `now` in seconds that never go back."""
        self._second(now).requests += 1
        self._recent.requests += 1
        self._all.requests += 1

    def allow(self, now: float) -> bool:
        """Takes one retry from the budget, if there is one."""
        second = self._second(now)
        if any((each.retries + 1) * self._share > each.requests for each in (self._recent, self._all)):
            return False
        second.retries += 1
        self._recent.retries += 1
        self._all.retries += 1
        return True

    def statistics(self) -> dict[str, int]:
        return {"requests": self._all.requests, "retries": self._all.retries}

    def _second(self, now: float) -> _Second:
        """The one that runs; what is too old is forgotten."""
        number = int(now)
        if not self._seconds or self._seconds[-1].number != number:
            self._seconds.append(_Second(number))
        while self._seconds[0].number <= now - self._window_s:
            gone = self._seconds.popleft()
            self._recent.requests -= gone.requests
            self._recent.retries -= gone.retries
        return self._seconds[-1]


def pause(
    failure: ProviderFailure, budget: Retries, *, earlier_retries: int, now: float, deadline: float, chance: float
) -> float | None:
    """Seconds to wait before the same route is tried again; None: it is not. `chance` is from [0, 1).

    Takes from the budget only when everything else allows the retry.
    """
    if earlier_retries or not failure.meaning.retry_same:
        return None
    wait = chance * PAUSE_S + (failure.retry_after or 0.0)
    if wait > MOST_WAIT_S or now + wait + LEAST_TIME_S > deadline:
        return None
    return wait if budget.allow(now) else None
