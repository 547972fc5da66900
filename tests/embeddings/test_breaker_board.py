"""Breakers that several processes share through a real Valkey, and each goes on alone without it."""

from __future__ import annotations

import asyncio
import os

import pytest
import redis.asyncio as redis
from prometheus_client import REGISTRY

from config.up.ports import free_port
from config.up.valkey import EmbeddedValkey
from embeddings import breaker_wire as wire
from embeddings.breaker import GO, Force, Outcome, Settings, State, Verdict
from embeddings.breaker_board import Board
from tests.embeddings.boards import ROUTE, Clock, connected, open_pipe, polled, process_of, processes

SETTINGS = Settings()
OPEN_MS = SETTINGS.open_ms
HOUR_MS = 3_600_000


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
async def four(clock):
    async with processes(os.environ["REDIS_URL"], 4, clock) as found:
        yield found


@pytest.fixture
async def messages():
    """Hears what is published, and passes it on."""
    client = redis.from_url(os.environ["REDIS_URL"])
    async with client.pubsub(ignore_subscribe_messages=True) as heard:
        await heard.subscribe(wire.CHANNEL)
        await heard.get_message(timeout=5)

        async def pass_on(*boards: Board) -> int:
            count = 0
            while (message := await heard.get_message(timeout=0.2)) is not None:
                count += 1
                for board in boards:
                    board.apply(message["data"])
            return count

        yield pass_on
    await client.aclose()


async def test_failures_of_all_processes_add_up_and_all_hear_that_it_opened(four, messages):
    for process in four[:2]:
        await process.fails(5)
    await messages(*(process.board for process in four))
    for process in four:
        assert process.board.admit(ROUTE).verdict is Verdict.NOT_NOW
        assert [(change.old, change.new) for change in process.told] == [(State.CLOSED, State.OPEN)]
        assert process.told[0].reason == "10 of the last 10 calls failed"
    assert [process.told[0].is_decided_here for process in four] == [False, True, False, False]


async def test_a_poll_finds_what_no_message_told(four):
    await four[0].fails(10)
    assert four[3].board.admit(ROUTE) is GO
    await four[3].board.poll()
    assert four[3].board.admit(ROUTE).verdict is Verdict.NOT_NOW


async def test_a_fresh_process_knows_from_its_first_poll(four, clock):
    await four[0].fails(10)
    async with open_pipe(os.environ["REDIS_URL"]) as pipe:
        fresh = process_of(pipe, clock)
        await fresh.board.poll()
        assert fresh.board.states() == {ROUTE: State.OPEN}


async def test_good_calls_of_others_weigh_against_failures(four):
    for _ in range(30):
        four[0].board.report(ROUTE, Outcome.OK, 20)
    await four[0].board.flush()
    await four[1].fails(9)
    assert four[1].board.breaker(ROUTE).state is State.CLOSED
    assert len(four[1].board.breaker(ROUTE).window) == 39


async def test_good_calls_go_out_together_and_bad_ones_at_once(four):
    board = four[0].board
    for _ in range(200):
        board.report(ROUTE, Outcome.OK, 20)
    await board.flush()
    assert board.statistics()["pushes"] == 1
    board.report(ROUTE, Outcome.FAILED, 20)
    async with asyncio.timeout(5):
        while board.statistics()["pushes"] < 2:
            await asyncio.sleep(0)
    assert len(board.breaker(ROUTE).window) == SETTINGS.window_calls


async def test_probes_are_bounded_over_all_processes(four, clock, messages):
    await four[0].fails(10)
    clock.now += OPEN_MS + 10
    await polled(*four)
    assert {process.board.admit(ROUTE).verdict for process in four} == {Verdict.ASK}
    permits = await asyncio.gather(*(process.board.probe(ROUTE) for process in four for _ in range(25)))
    granted = [permit for permit in permits if permit is not None]
    assert len(granted) == SETTINGS.probes
    await messages(*(process.board for process in four))
    assert {process.board.admit(ROUTE).verdict for process in four} == {Verdict.NOT_NOW}


async def test_it_closes_after_enough_successes_wherever_they_were(four, clock):
    await four[0].fails(10)
    clock.now += OPEN_MS + 10
    await polled(*four)
    for process in four[:3]:
        permit = await process.board.probe(ROUTE)
        process.board.report(ROUTE, Outcome.OK, 20, permit=permit)
        await process.board.flush()
    await polled(*four)
    assert [process.board.admit(ROUTE) for process in four] == [GO] * 4
    assert four[2].told[-1].reason == "3 probes succeeded"


async def test_one_failed_probe_opens_it_for_all(four, clock):
    await four[0].fails(10)
    clock.now += OPEN_MS + 10
    await polled(*four)
    permit = await four[1].board.probe(ROUTE)
    four[1].board.report(ROUTE, Outcome.FAILED, 20, permit=permit)
    await four[1].board.flush()
    await polled(*four)
    assert [process.board.admit(ROUTE).retry_after_s for process in four] == [2 * OPEN_MS / 1000] * 4


async def test_probes_that_never_came_back_block_nothing_after_their_lease(four, clock):
    await four[0].fails(10)
    clock.now += OPEN_MS + 10
    await polled(*four)
    assert await four[0].board.probe(ROUTE)
    assert await four[1].board.probe(ROUTE)
    assert await four[2].board.probe(ROUTE) is None
    clock.now += SETTINGS.lease_ms
    assert await four[2].board.probe(ROUTE)


async def test_a_caller_that_went_away_gives_its_permit_back(four, clock):
    await four[0].fails(10)
    clock.now += OPEN_MS + 10
    await polled(*four)
    board = four[0].board
    asking = asyncio.ensure_future(board.probe(ROUTE))
    await asyncio.sleep(0)  # it is sent, and not answered yet
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await board.flush()
    await polled(*four)
    assert four[1].board.breaker(ROUTE).probes == ()
    board.release(await board.probe(ROUTE))
    await board.flush()
    assert board.breaker(ROUTE).probes == ()


async def test_asking_for_a_closed_route_is_plain_leave(four):
    permit = await four[0].board.probe(ROUTE)
    assert permit is not None
    assert permit.id == ""


async def test_no_capacity_holds_at_once_here_and_soon_everywhere(four, clock, messages):
    four[0].board.report(ROUTE, Outcome.CAPACITY, 5, retry_after_s=7)
    here = four[0].board.admit(ROUTE)
    assert (here.verdict, here.retry_after_s) == (Verdict.NOT_NOW, 7.0)
    await four[0].board.flush()
    await messages(*(process.board for process in four))
    assert {process.board.admit(ROUTE).verdict for process in four} == {Verdict.NOT_NOW}
    assert {process.board.states()[ROUTE] for process in four} == {State.CLOSED}
    assert [process.told for process in four] == [[], [], [], []]
    clock.now += 7_000
    assert [process.board.admit(ROUTE) for process in four] == [GO] * 4


async def test_a_hundred_refusals_for_capacity_do_not_open_it(four):
    for _ in range(100):
        four[0].board.report(ROUTE, Outcome.CAPACITY, 5, retry_after_s=0)
        four[0].board.report(ROUTE, Outcome.CALLER, 5)
    await four[0].board.flush()
    assert four[0].board.breaker(ROUTE).state is State.CLOSED
    assert four[0].board.breaker(ROUTE).window == ()


async def test_an_operators_force_is_heard_by_all_and_taken_back(four, messages):
    boards = [process.board for process in four]
    await boards[0].force("openai|*", Force.OPEN)
    await messages(*boards)
    assert {board.admit(ROUTE).verdict for board in boards} == {Verdict.NOT_NOW}
    assert {board.admit("cohere|c1|x|") for board in boards} == {GO}
    await boards[1].force("openai|*", None)
    await messages(*boards)
    assert {board.admit(ROUTE) for board in boards} == {GO}


async def test_a_force_is_found_by_a_poll_and_opens_what_is_closed_and_closes_what_is_open(four):
    await four[0].fails(10)
    await four[0].board.force("openai|*|small|*", Force.CLOSED)
    await polled(*four)
    assert {process.board.admit(ROUTE) for process in four} == {GO}
    assert (await four[1].board.probe(ROUTE)).id == ""
    await four[0].board.force(ROUTE, Force.OPEN)
    assert await four[0].board.probe(ROUTE) is None
    await four[0].board.force(ROUTE, None)
    await four[0].board.force("openai|*|small|*", None)
    assert four[0].board.admit(ROUTE).verdict is Verdict.NOT_NOW  # as it was before


async def test_states_and_transitions_are_metrics(four):
    def value(name: str, **labels: str) -> float:
        where = {"provider": "metered", "model": "small", "region": "eu"}
        return REGISTRY.get_sample_value(name, where | labels) or 0.0

    before = value("circuit_breaker_transitions_total", to="open")
    await four[0].fails(10, "metered|c1|small|eu")
    await polled(*four)
    assert value("circuit_breaker_state") == 2
    assert value("circuit_breaker_transitions_total", to="open") - before == 1  # once, though four processes heard it


async def test_messages_that_are_none_of_ours_are_left_alone(four):
    for said in (b"", b"\xff", b"[]", wire.encode(wire.Message(ROUTE, b"nonsense"))):
        four[0].board.apply(said)
    assert four[0].board.admit(ROUTE) is GO


async def test_an_older_message_changes_nothing(four):
    await four[0].fails(9)
    old = four[0].board.breaker(ROUTE)
    await four[0].fails(1)
    four[0].board.apply(wire.encode(wire.Message(ROUTE, wire.encode(old))))
    assert four[0].board.breaker(ROUTE).state is State.OPEN


async def test_routes_nobody_calls_any_more_are_forgotten(four, clock):
    await four[0].fails(3, "openai|gone|small|")
    clock.now += 25 * HOUR_MS
    four[0].board.report(ROUTE, Outcome.OK, 20)
    await four[0].board.flush()
    await four[0].board.tidy()
    assert list(four[0].board.states()) == [ROUTE]
    assert set(await four[0].pipe.call("HKEYS", wire.KEY)) - {b"@"} == {ROUTE.encode()}


async def test_data_lost_by_redis_are_put_back(four):
    await four[0].fails(10)
    await polled(*four)
    await four[0].board.force("cohere|*", Force.OPEN)
    await four[0].pipe.call("DEL", wire.KEY)
    await polled(*four)
    held = wire.held(wire.pairs(await four[0].pipe.call("HGETALL", wire.KEY)))
    assert wire.breaker(held.routes[ROUTE]).state is State.OPEN
    assert {process.board.admit(ROUTE).verdict for process in four} == {Verdict.NOT_NOW}


async def test_it_pushes_and_polls_by_itself(clock):
    async with processes(os.environ["REDIS_URL"], 2, clock) as (here, there):
        here.board.start()
        there.board.start()
        for _ in range(3):
            here.board.report(ROUTE, Outcome.OK, 20)
        async with asyncio.timeout(10):
            while not await there.pipe.call("HLEN", wire.KEY):
                await asyncio.sleep(0.01)
        await here.fails(10)
        async with asyncio.timeout(10):
            while there.board.admit(ROUTE) is GO:
                await asyncio.sleep(0.01)
        await here.board.close()
        await there.board.close()
        assert here.board.statistics()["pushing"] == there.board.statistics()["pushing"] == 0


@pytest.fixture
def valkey(tmp_path):
    server = EmbeddedValkey(tmp_path / "valkey", free_port(), "secret", durable=False)
    server.start()
    server.wait_until_ready()
    yield server
    server.stop()


async def cut_off(*pipes):
    async with asyncio.timeout(20):
        while any(pipe.is_up for pipe in pipes):
            await asyncio.sleep(0.005)


async def test_without_redis_each_goes_on_alone_and_they_merge_when_it_is_back(valkey, clock):
    async with processes(valkey.url(0), 2, clock) as (here, there):
        there.board.report(ROUTE, Outcome.OK, 20)
        await there.board.flush()
        valkey.stop()
        await cut_off(here.pipe, there.pipe)

        await here.fails(10)
        assert here.board.admit(ROUTE).verdict is Verdict.NOT_NOW  # by its own calls
        assert there.board.admit(ROUTE) is GO  # it has none, and hears of none
        clock.now += OPEN_MS + 10
        granted = [await here.board.probe(ROUTE) for _ in range(5)]
        assert sum(permit is not None for permit in granted) == SETTINGS.probes
        here.board.report(ROUTE, Outcome.FAILED, 20, permit=granted[0])
        assert here.board.breaker(ROUTE).repeats == 2
        assert here.board.statistics()["alone"] == 1

        valkey.start()
        valkey.wait_until_ready()
        await connected(here.pipe)
        await connected(there.pipe)
        await polled(here, there)
        assert there.board.admit(ROUTE).verdict is Verdict.NOT_NOW
        assert there.board.breaker(ROUTE) == here.board.breaker(ROUTE)
        assert here.board.statistics()["alone"] == here.board.statistics()["waiting"] == 0


async def test_the_later_state_is_kept_when_two_went_different_ways(valkey, clock):
    async with processes(valkey.url(0), 2, clock) as (here, there):
        await here.fails(10)
        await polled(here, there)
        valkey.stop()
        await cut_off(here.pipe, there.pipe)
        clock.now += OPEN_MS + 10
        for _ in range(SETTINGS.successes):
            there.board.report(ROUTE, Outcome.OK, 20, permit=await there.board.probe(ROUTE))
        assert (here.board.states()[ROUTE], there.board.states()[ROUTE]) == (State.OPEN, State.CLOSED)
        valkey.start()
        valkey.wait_until_ready()
        await connected(here.pipe)
        await connected(there.pipe)
        await polled(here, there, here)
        assert [each.board.admit(ROUTE) for each in (here, there)] == [GO, GO]


async def test_what_was_reported_alone_counts_afterwards(valkey, clock):
    async with processes(valkey.url(0), 2, clock) as (here, there):
        await here.fails(4)
        valkey.stop()
        await cut_off(here.pipe, there.pipe)
        await here.fails(3)
        await there.fails(3)
        valkey.start()
        valkey.wait_until_ready()
        await connected(here.pipe)
        await connected(there.pipe)
        await polled(here, there)
        await here.fails(1)
        # Redis came back empty: what each had reported alone is there, the four of before are lost.
        assert len(here.board.breaker(ROUTE).window) == 3 + 3 + 1
