"""The breakers as an operator sees them, and what an operator may do."""

from __future__ import annotations

import asyncio
import os

import pytest
from django_redis import get_redis_connection

from config.up.ports import free_port
from embeddings import breaker_control as control
from embeddings import breaker_wire as wire
from embeddings.breaker import Force, Outcome, Settings
from tests.embeddings.boards import NOW, Clock, processes

SMALL, LARGE = "openai|c1|small|eu", "openai|c2|large|"


def day(clock: Clock) -> list[control.RouteHealth]:
    """Two processes call two routes; one of these is dead and one has no capacity left."""

    async def calls() -> None:
        async with processes(os.environ["REDIS_URL"], 2, clock) as (here, there):
            for process, ms in ((here, 100), (there, 100), (there, 1_000)):
                process.board.report(LARGE, Outcome.OK, ms)
                await process.board.flush()
            there.board.report(LARGE, Outcome.FAILED, 5)
            there.board.report(LARGE, Outcome.CAPACITY, 5, retry_after_s=4)
            await here.fails(10, SMALL)
            await here.board.poll()
            await there.board.poll()
            await there.board.flush()

    asyncio.run(calls())
    return control.route_health(now=clock.now)


def test_every_route_is_listed_with_how_it_is():
    small, large = day(Clock())
    assert (small.route, small.provider, small.credential_id, small.model, small.region) == (
        SMALL,
        "openai",
        "c1",
        "small",
        "eu",
    )
    assert (small.state, small.reason) == ("open", "10 of the last 10 calls failed")
    assert (small.changed_at_ms, small.next_probe_at_ms) == (NOW, NOW + Settings().open_ms)
    assert (small.p50_ms, small.error_rate) == (None, None)  # its window began anew; nothing succeeded
    assert (large.state, large.calls, large.error_rate, large.slow_rate) == ("closed", 4, 0.25, 0.0)
    assert large.no_capacity_until_ms == NOW + 4_000
    assert large.p50_ms == pytest.approx(100, rel=0.1)  # over both processes
    assert large.p95_ms == pytest.approx(1_000, rel=0.1)


def test_figures_of_processes_that_are_gone_are_left_out_and_cleared_away():
    clock = Clock()
    day(clock)
    late = control.route_health(now=clock.now + 61_000)
    assert [each.p50_ms for each in late] == [None, None]
    assert get_redis_connection("default").hlen(wire.FIGURES_KEY) == 0


def test_nothing_was_called_yet():
    get_redis_connection("default").delete(wire.KEY, wire.FIGURES_KEY)
    assert control.route_health() == []
    assert control.forces() == {}


def test_a_force_names_what_it_holds_and_shows():
    day(Clock())
    assert control.force(pattern="openai|*|large|*", state=Force.OPEN) == [LARGE]
    small, large = control.route_health(now=NOW)
    assert (large.state, large.forced, small.forced) == ("open", "open", None)
    assert control.forces() == {"openai|*|large|*": Force.OPEN}
    assert control.force(pattern="openai|*|large|*", state=None) == [LARGE]
    assert control.forces() == {}


def test_a_force_reaches_the_boards():
    async def story() -> list[str]:
        async with processes(os.environ["REDIS_URL"], 2, Clock()) as both:
            boards = [process.board for process in both]
            await asyncio.to_thread(control.force, pattern="openai|*|*|*", state=Force.OPEN)
            for board in boards:
                await board.poll()
            return [board.admit(SMALL).reason for board in boards]

    assert asyncio.run(story()) == ["held open by an operator"] * 2


@pytest.mark.parametrize("pattern", ["", "*", "openai", "|*|*|*", "a|b|c", "a|b|c|d|e", "x" * 600 + "|*|*|*"])
def test_a_pattern_that_names_no_routes_is_refused(pattern):
    with pytest.raises(control.BadPattern):
        control.force(pattern=pattern, state=Force.OPEN)


def test_without_redis_it_says_so(settings):
    settings.CACHES = {
        "default": settings.CACHES["default"] | {"LOCATION": f"redis://127.0.0.1:{free_port()}/0"},
    }
    with pytest.raises(control.BreakersAway):
        control.route_health()
    with pytest.raises(control.BreakersAway):
        control.force(pattern="openai|*|*|*", state=None)
