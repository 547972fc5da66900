"""The breakers for people: how every route is, and an operator's force. Synchronous, for the REST door and the admin.

Reads and writes what the boards of all processes share, through Django's own Redis connection. A force is honoured by
every process within a second, and is written down in the audit log; who may set one is the door's business.

Failure: Redis away → `BreakersAway`; the processes go on with what they know.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from django.db import transaction
from django_redis import get_redis_connection
from redis.exceptions import RedisError

from audit.services import record
from core.clock import unix_ms
from embeddings import breaker as rules
from embeddings import breaker_wire as wire
from embeddings.breaker import Force, Settings, State
from embeddings.latency import added, percentile
from embeddings.routes import parts, pattern_of

_FIGURES_FOR_MS = 60_000  # a process that has written nothing for longer is gone, or has nothing to do
_MOST_PATTERN = 500


class BreakersAway(Exception):
    """Redis cannot be asked."""


class BadPattern(ValueError):
    """The pattern names no routes; the message is for the operator."""


@dataclass(frozen=True, slots=True)
class RouteHealth:
    """One route, from real traffic alone."""

    route: str
    provider: str
    credential_id: str
    model: str  # the vendor's identifier
    region: str
    state: str  # closed, half_open, open: as the world sees it
    forced: str | None  # open, closed
    reason: str  # of the last change; empty where there was none
    changed_at_ms: int | None
    next_probe_at_ms: int | None  # where it is open by itself
    no_capacity_until_ms: int | None
    calls: int  # in the rolling window
    error_rate: float | None
    slow_rate: float | None
    p50_ms: float | None
    p95_ms: float | None


def route_health(*, settings: Settings | None = None, now: int | None = None) -> list[RouteHealth]:
    """Every route that was called in the last day, by name."""
    settings, now = settings or Settings(), unix_ms() if now is None else now
    with _redis() as redis:
        held = wire.held(redis.hgetall(wire.KEY).items())
        told: dict[bytes, bytes] = redis.hgetall(wire.FIGURES_KEY)
        figures = {process: wire.figures(blob) for process, blob in told.items()}
        dead = [process for process, each in figures.items() if each is None or each.at < now - _FIGURES_FOR_MS]
        if dead:
            redis.hdel(wire.FIGURES_KEY, *dead)
    live = [each for process, each in figures.items() if each is not None and process not in dead]
    names = sorted({*held.routes, *(route for each in live for route in each.bins)})
    bins = {name: added(each.bins.get(name, {}) for each in live) for name in names}
    return [_health(name, held, bins[name], settings, now) for name in names]


def forces() -> dict[str, Force]:
    """What operators hold, by pattern."""
    with _redis() as redis:
        return dict(wire.held(redis.hgetall(wire.KEY).items()).forces)


def force(*, pattern: str, state: Force | None) -> list[str]:
    """Holds the routes of a pattern (`provider|credential|model|region`, with `*` and `?`) open or closed, or lets go
    of them (None). Returns the routes known today that fit; later ones are held as well. Raises `BadPattern`."""
    if pattern.count("|") != 3 or len(pattern) > _MOST_PATTERN or not all(pattern.split("|")[:1]):
        raise BadPattern("A pattern is `provider|credential|model|region`, each of them a word, `*`, or both mixed.")
    with _redis() as redis:
        redis.eval(wire.PUT.source, 1, wire.KEY, *wire.put_force(pattern, state, secrets.token_hex(8)))
        held = wire.held(redis.hgetall(wire.KEY).items())
    return sorted(name for name in held.routes if rules.force_on(name, {pattern: Force.OPEN}) is not None)


def hold(*, provider: str, identifier: str | None, state: Force | None) -> None:
    """Holds what a provider has (or one model of it, by the vendor's identifier) open or closed; None lets go, of a
    whole provider also of what is held for single models of it."""
    pattern = pattern_of(provider, identifier)
    with transaction.atomic():  # nothing is recorded that Redis did not take
        after = {"held": None if state is None else state.value, "model": identifier}
        record("breaker.held", tenant_id=None, subject="provider", subject_id=provider, after=after)
        force(pattern=pattern, state=state)
        if state is None and identifier is None:
            own = pattern.partition("|")[0]
            for each in [each for each in forces() if each.partition("|")[0] == own]:
                force(pattern=each, state=None)


def _health(name: str, held: wire.Held, bins: dict[int, int], settings: Settings, now: int) -> RouteHealth:
    value, forced = wire.breaker(held.routes.get(name, b"")), rules.force_on(name, held.forces)
    calls, failed, slow = rules.figures(value, now, settings)
    provider, credential_id, model, region = parts(name)
    return RouteHealth(
        route=name,
        provider=provider,
        credential_id=credential_id,
        model=model,
        region=region,
        state=rules.effective(value, forced).name.lower(),
        forced=forced.value if forced is not None else None,
        reason=value.reason,
        changed_at_ms=value.changed_at or None,
        next_probe_at_ms=value.until if value.state is State.OPEN else None,
        no_capacity_until_ms=value.capacity_until if value.capacity_until > now else None,
        calls=calls,
        error_rate=round(failed / calls, 4) if calls else None,
        slow_rate=round(slow / calls, 4) if calls else None,
        p50_ms=round(percentile(bins, 0.5), 1) if bins else None,
        p95_ms=round(percentile(bins, 0.95), 1) if bins else None,
    )


@contextmanager
def _redis() -> Iterator[Any]:
    try:
        yield get_redis_connection("default")
    except RedisError as error:
        raise BreakersAway(type(error).__name__) from error
