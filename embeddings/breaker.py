"""When a route may be called: the rules of its breaker. Pure; time is an argument, in Unix milliseconds.

A route is one model of one provider, with one credential, in one region. What is known of it is one frozen `Breaker`
that all processes share (`breaker_board.py`); every function here takes one and returns the next, or says what it
means now. There is no twin of these rules anywhere else.

| state | what may go | leaves it when |
|---|---|---|
| closed | everything | of the last `window_calls` calls within `window_ms`, `minimum_calls` at least, the share `failure_rate` failed or `slow_rate` was slow; or the newest `minimum_calls` all failed → open |
| open | nothing, for `open_ms`, doubled for every opening without `healthy_ms` of being closed in between, up to `open_most_ms` | that time is over and somebody wants to call → half-open |
| half-open | `probes` calls at a time, each with a lease of `lease_ms` | a probe fails or is slow → open; `successes` probes succeeded → closed |

| a call ends as | without a permit | with a permit |
|---|---|---|
| OK | one mark; slow if it took longer than `slow_ms` | a success; a slow one is a failure |
| FAILED | one mark | opens again |
| CAPACITY (their 429) | no mark: "not now" until `Retry-After`, `capacity_most_ms` at most | the same, and the permit is given back |
| CALLER (our caller's own fault) | nothing | the permit is given back |

The second way to open (the newest calls all failed) is there because a dead provider must cost `minimum_calls` calls,
not as many as it takes to outweigh fifty good ones. What began before the last change of state tells nothing about
the state since, and is not counted. An operator's force lies over all this and changes none of it.
"""  # noqa: E501  rows of a table

from __future__ import annotations

from bisect import insort
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from fnmatch import fnmatchcase

import msgspec


class State(IntEnum):
    """The numbers are those of the metric."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class Force(StrEnum):
    """What an operator may hold a route at."""

    OPEN = "open"
    CLOSED = "closed"


class Outcome(StrEnum):
    OK = "ok"
    FAILED = "failed"
    CAPACITY = "capacity"
    CALLER = "caller"


class Verdict(StrEnum):
    GO = "go"
    NOT_NOW = "not_now"
    ASK = "ask"  # a permit is needed


class _Kind(IntEnum):
    OK = 0
    SLOW = 1
    FAILED = 2


@dataclass(frozen=True, slots=True)
class Settings:
    window_calls: int = 50
    window_ms: int = 30_000
    minimum_calls: int = 10
    failure_rate: float = 0.5
    slow_rate: float = 0.8
    slow_ms: float = 10_000
    open_ms: int = 5_000
    open_most_ms: int = 120_000
    healthy_ms: int = 60_000
    probes: int = 2
    successes: int = 3
    lease_ms: int = 40_000  # longer than any call may take
    capacity_ms: int = 1_000  # where the provider does not say
    capacity_most_ms: int = 300_000  # a longer `Retry-After` costs one refused call every five minutes

    def __post_init__(self) -> None:
        counts = (self.minimum_calls, self.probes, self.successes, self.window_ms, self.open_ms, self.lease_ms)
        if min(counts) < 1 or self.minimum_calls > self.window_calls or self.open_ms > self.open_most_ms:
            raise ValueError(f"these settings contradict each other: {self}")
        if not (0 < self.failure_rate <= 1 and 0 < self.slow_rate <= 1):
            raise ValueError("rates are above 0 and at most 1")


class Mark(msgspec.Struct, frozen=True, array_like=True):
    """One call that counts."""

    at: int
    kind: int


class Lease(msgspec.Struct, frozen=True, array_like=True):
    """One probe under way."""

    permit: str
    expires_at: int


class Breaker(msgspec.Struct, frozen=True, array_like=True):
    """What is known of one route. `version` grows with every write, so that the newer of two is known."""

    version: int = 0
    state: State = State.CLOSED
    changed_at: int = 0
    reason: str = ""  # of the last change, for people
    until: int = 0  # open: when the first probe may go
    repeats: int = 0  # openings in a row
    successes: int = 0
    probes: tuple[Lease, ...] = ()
    window: tuple[Mark, ...] = ()  # the oldest first
    capacity_until: int = 0


class Report(msgspec.Struct, frozen=True):
    """How one call ended. A struct: one is made for every call, and a frozen dataclass takes five times as long."""

    at: int
    ms: float
    outcome: Outcome
    retry_after_ms: float | None = None
    permit: str = ""


@dataclass(frozen=True, slots=True)
class Admission:
    verdict: Verdict
    retry_after_s: float = 0.0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Permit:
    """Leave to send one probe. Without an id it is plain leave: the route turned out to be closed."""

    route: str
    id: str = ""


GO = Admission(Verdict.GO)
ASK = Admission(Verdict.ASK)
_FORCED_FOR_S = 60.0  # when to ask again about what only a person ends


def admission(breaker: Breaker, force: Force | None, now: int, settings: Settings) -> Admission:
    """Whether a call may go, may not, or has to ask for a permit."""
    if force is Force.OPEN:
        return Admission(Verdict.NOT_NOW, _FORCED_FOR_S, "held open by an operator")
    if now < breaker.capacity_until:
        return _not_now(breaker.capacity_until - now, "the provider has no capacity for us")
    if force is Force.CLOSED or breaker.state is State.CLOSED:
        return GO
    if breaker.state is State.OPEN:
        return ASK if now >= breaker.until else _not_now(breaker.until - now, breaker.reason)
    live = _live(breaker, now)
    if len(live) < settings.probes:
        return ASK
    return _not_now(min(settings.open_ms, min(lease.expires_at for lease in live) - now), "it is being probed")


def is_plain(breaker: Breaker, force: Force | None) -> bool:
    """Whether it is GO at any time, until something is reported."""
    return breaker.state is State.CLOSED and force is None and not breaker.capacity_until


def leased(breaker: Breaker, permit: str, now: int, settings: Settings) -> Breaker | None:
    """With one probe more, or None where none may go now, or none is needed."""
    if breaker.state is State.CLOSED or now < breaker.capacity_until:
        return None
    mine = Lease(permit, now + settings.lease_ms)
    if breaker.state is State.OPEN:
        if now < breaker.until:
            return None
        return _changed(breaker, State.HALF_OPEN, now, "its time is over; real calls probe it", probes=(mine,))
    live = _live(breaker, now)
    return msgspec.structs.replace(breaker, probes=(*live, mine)) if len(live) < settings.probes else None


def after(breaker: Breaker, report: Report, settings: Settings) -> Breaker:
    """What one finished call makes of it; the very same value where it changes nothing."""
    if report.outcome is Outcome.CAPACITY:
        return _without(_no_capacity(breaker, report, settings), report.permit)
    if report.outcome is Outcome.CALLER:
        return _without(breaker, report.permit)
    if report.permit:
        return _after_probe(breaker, report, settings)
    if breaker.state is not State.CLOSED or report.at - report.ms < breaker.changed_at:
        return breaker
    return _judged(breaker, report, settings)


def force_on(route: str, forces: Mapping[str, Force]) -> Force | None:
    """What an operator holds the route at: by its whole name, else by the longest pattern (`*`, `?`) that fits."""
    if route in forces:
        return forces[route]
    fitting = [pattern for pattern in forces if fnmatchcase(route, pattern)]
    return forces[max(fitting, key=lambda pattern: (len(pattern), pattern))] if fitting else None


def effective(breaker: Breaker, force: Force | None) -> State:
    """The state as the world sees it."""
    if force is None:
        return breaker.state
    return State.OPEN if force is Force.OPEN else State.CLOSED


def is_news(old: Breaker, new: Breaker) -> bool:
    """Whether other processes must hear of it at once: everything but one mark more or less."""
    return msgspec.structs.replace(old, version=0, window=()) != msgspec.structs.replace(new, version=0, window=())


def joined(shared: Breaker, alone: Breaker) -> Breaker:
    """The shared one and what a process made of it on its own: whichever changed its state last knows better.

    The window stays the shared one's: what was reported meanwhile is reported again, on top of this.
    """
    version = max(shared.version, alone.version)
    capacity_until = max(shared.capacity_until, alone.capacity_until)
    later = alone if alone.changed_at > shared.changed_at else shared
    window = shared.window if later is shared else ()
    return msgspec.structs.replace(later, version=version, capacity_until=capacity_until, window=window)


def open_time(repeats: int, settings: Settings) -> int:
    """How long the nth opening in a row lasts."""
    doublings = min(repeats - 1, settings.open_most_ms.bit_length())
    return min(settings.open_ms << doublings, settings.open_most_ms)


def figures(breaker: Breaker, now: int, settings: Settings) -> tuple[int, int, int]:
    """Calls, failed ones and slow ones in the window as it stands now."""
    kinds = [mark.kind for mark in breaker.window if mark.at > now - settings.window_ms]
    return len(kinds), kinds.count(_Kind.FAILED), kinds.count(_Kind.SLOW)


def _not_now(ms: int, reason: str) -> Admission:
    return Admission(Verdict.NOT_NOW, max(ms, 1) / 1000, reason)


def _live(breaker: Breaker, now: int) -> tuple[Lease, ...]:
    return tuple(lease for lease in breaker.probes if lease.expires_at > now)


def _without(breaker: Breaker, permit: str) -> Breaker:
    left = tuple(lease for lease in breaker.probes if lease.permit != permit)
    return breaker if len(left) == len(breaker.probes) else msgspec.structs.replace(breaker, probes=left)


def _changed(
    breaker: Breaker,
    state: State,
    at: int,
    reason: str,
    *,
    until: int = 0,
    repeats: int | None = None,
    probes: tuple[Lease, ...] = (),
) -> Breaker:
    """In another state, with nothing carried over. Of two changes the later one has the later time, whatever clocks
    say: `joined` goes by it."""
    return Breaker(
        version=breaker.version,
        state=state,
        changed_at=max(at, breaker.changed_at + 1),
        reason=reason,
        until=until,
        repeats=breaker.repeats if repeats is None else repeats,
        probes=probes,
        capacity_until=breaker.capacity_until,
    )


def _opened(breaker: Breaker, at: int, reason: str, settings: Settings) -> Breaker:
    was_healthy = breaker.state is State.CLOSED and at - breaker.changed_at >= settings.healthy_ms
    repeats = 1 if was_healthy else breaker.repeats + 1
    return _changed(breaker, State.OPEN, at, reason, until=at + open_time(repeats, settings), repeats=repeats)


def _no_capacity(breaker: Breaker, report: Report, settings: Settings) -> Breaker:
    asked = settings.capacity_ms if report.retry_after_ms is None else report.retry_after_ms
    until = report.at + round(min(max(asked, 0), settings.capacity_most_ms))
    return msgspec.structs.replace(breaker, capacity_until=until) if until > breaker.capacity_until else breaker


def _after_probe(breaker: Breaker, report: Report, settings: Settings) -> Breaker:
    if breaker.state is not State.HALF_OPEN or all(p.permit != report.permit for p in _live(breaker, report.at)):
        return breaker  # decided without it, or its lease ran out
    if report.outcome is Outcome.FAILED:
        return _opened(breaker, report.at, "a probe failed", settings)
    if report.ms > settings.slow_ms:
        return _opened(breaker, report.at, "a probe was slow", settings)
    successes = breaker.successes + 1
    if successes >= settings.successes:
        return _changed(breaker, State.CLOSED, report.at, f"{successes} probes succeeded")
    return msgspec.structs.replace(_without(breaker, report.permit), successes=successes)


def _judged(breaker: Breaker, report: Report, settings: Settings) -> Breaker:
    """With one mark more; open, if that is one bad mark too many."""
    kind = _Kind.OK if report.ms <= settings.slow_ms else _Kind.SLOW
    if report.outcome is Outcome.FAILED:
        kind = _Kind.FAILED
    window = _with_mark(breaker.window, Mark(report.at, int(kind)), settings)
    reason = _too_bad([mark.kind for mark in window], settings) if kind is not _Kind.OK else ""
    if reason:
        return _opened(breaker, report.at, reason, settings)
    return msgspec.structs.replace(breaker, window=window)


def _with_mark(window: tuple[Mark, ...], mark: Mark, settings: Settings) -> tuple[Mark, ...]:
    """By time, since processes tell of good calls later than of bad ones; of one moment, in the order told."""
    if not window or mark.at >= window[-1].at:
        window = (*window, mark)
    else:
        sorted_in = list(window)
        insort(sorted_in, mark, key=_time)
        window = tuple(sorted_in)
    window = window[-settings.window_calls :]
    oldest = window[-1].at - settings.window_ms
    return window if window[0].at > oldest else tuple(mark for mark in window if mark.at > oldest)


def _time(mark: Mark) -> int:
    return mark.at


def _too_bad(kinds: list[int], settings: Settings) -> str:
    """Why it opens; empty where it does not."""
    total, least = len(kinds), settings.minimum_calls
    if total < least:
        return ""
    failed, slow = kinds.count(_Kind.FAILED), kinds.count(_Kind.SLOW)
    if failed >= settings.failure_rate * total:
        return f"{failed} of the last {total} calls failed"
    if kinds[-least:].count(_Kind.FAILED) == least:
        return f"the last {least} calls failed"
    if slow >= settings.slow_rate * total:
        return f"{slow} of the last {total} calls were slow"
    return ""
