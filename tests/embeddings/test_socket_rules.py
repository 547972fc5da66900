"""The rules of one socket and of many: pace, what waits for a slow reader, whose turn it is."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embeddings.outbox import Outbox
from embeddings.pacing import Pace, SocketBounds, Verdict
from embeddings.turns import Turns

ACME, GLOBEX = UUID(int=1), UUID(int=2)


# Pace


def test_a_burst_passes_and_the_rest_is_refused():
    pace = Pace(SocketBounds(messages_per_minute=60, burst=5), 0.0)
    assert [pace.judge(0.0) for _ in range(6)] == [Verdict.PASS] * 5 + [Verdict.REFUSE]
    assert pace.retry_after_s == pytest.approx(1.0)
    assert pace.judge(1.0) is Verdict.PASS


def test_who_goes_on_in_spite_of_refusals_is_closed():
    pace = Pace(SocketBounds(messages_per_minute=60, burst=5), 0.0)
    assert [pace.judge(0.0) for _ in range(11)][-6:] == [Verdict.REFUSE] * 5 + [Verdict.CLOSE]


def test_a_little_too_fast_is_refused_now_and_then_and_never_closed():
    pace = Pace(SocketBounds(messages_per_minute=60, burst=5), 0.0)
    found = Counter(pace.judge(second * 0.7) for second in range(1000))
    assert found[Verdict.CLOSE] == 0
    assert 0 < found[Verdict.REFUSE] < 400


@given(gaps=st.lists(st.floats(0, 5), max_size=200), burst=st.integers(1, 20), per_minute=st.integers(1, 600))
def test_no_window_passes_more_than_the_rate_and_a_burst(gaps, burst, per_minute):
    pace, now, passed = Pace(SocketBounds(messages_per_minute=per_minute, burst=burst), 0.0), 0.0, []
    for gap in gaps:
        now += gap
        if pace.judge(now) is Verdict.PASS:
            passed.append(now)
    for first, began in enumerate(passed):
        within = len(passed) - first
        assert within <= burst + (now - began) * per_minute / 60 + 1e-6


# What waits


@given(puts=st.lists(st.integers()), most=st.integers(1, 10))
def test_the_newest_stay_in_order_and_the_drop_is_known(puts, most):
    outbox: Outbox[int] = Outbox(most)
    for each in puts:
        outbox.put(each)
    kept = list(iter(outbox.take, None))
    assert kept == puts[-most:]
    assert outbox.take_dropped() == max(0, len(puts) - most)
    assert outbox.take_dropped() == 0


def test_of_what_has_a_name_only_the_newest_form_waits():
    outbox: Outbox[str] = Outbox(2)
    outbox.put("one of ten", name="batch")
    outbox.put("news")
    outbox.put("two of ten", name="batch")
    assert (outbox.take(), outbox.take(), outbox.take(), outbox.dropped) == ("two of ten", "news", None, 0)
    outbox.put("three of ten", name="batch")
    outbox.forget("batch")
    assert outbox.take() is None


# Turns


async def started(turns, who, log):
    assert await turns.wait(who, within_s=60)
    log.append(who)


async def settle():
    for _ in range(5):
        await asyncio.sleep(0)


async def test_tenants_take_turns_and_their_agents_within_them():
    turns, log = Turns(most=1, most_per_agent=1), []
    assert turns.try_now((ACME, "busy"))
    waiting = [(ACME, "busy")] * 4 + [(ACME, "calm"), (GLOBEX, "only"), (GLOBEX, "only")]
    tasks = [asyncio.create_task(started(turns, who, log)) for who in waiting]
    await settle()
    assert turns.statistics()["waiting"] == 7
    last = (ACME, "busy")
    for _ in range(7):
        turns.done(last)
        await settle()
        last = log[-1]
    turns.done(last)
    assert log == [
        (ACME, "busy"),
        (GLOBEX, "only"),
        (ACME, "calm"),
        (GLOBEX, "only"),
        (ACME, "busy"),
        (ACME, "busy"),
        (ACME, "busy"),
    ]
    await asyncio.gather(*tasks)
    assert turns.statistics() == {
        "running": 0,
        "agents": 0,
        "waiting": 0,
        "waiting_tenants": 0,
        "longest_wait_ms": 0,
    }


async def test_an_agent_has_no_more_than_its_own_and_leaves_the_rest_to_others():
    turns, log = Turns(most=4, most_per_agent=2), []
    tasks = [asyncio.create_task(started(turns, (ACME, "greedy"), log)) for _ in range(10)]
    await settle()
    assert len(log) == 2
    tasks.append(asyncio.create_task(started(turns, (ACME, "other"), log)))
    await settle()
    assert log[-1] == (ACME, "other")
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_who_gives_up_or_is_cancelled_holds_up_nobody():
    turns, log = Turns(most=1, most_per_agent=1), []
    assert turns.try_now((ACME, "a"))
    assert not await turns.wait((ACME, "b"), within_s=0.0)
    cancelled = asyncio.create_task(turns.wait((ACME, "c"), within_s=60))
    waits = asyncio.create_task(started(turns, (ACME, "d"), log))
    await settle()
    cancelled.cancel()
    await settle()
    turns.done((ACME, "a"))
    await settle()
    assert log == [(ACME, "d")]
    turns.done((ACME, "d"))
    await waits
    assert turns.statistics()["waiting_tenants"] == 0


STEP = st.tuples(st.sampled_from(["come", "done", "leave"]), st.integers(0, 2), st.integers(0, 2))


@given(steps=st.lists(STEP, max_size=60), most=st.integers(1, 4), per_agent=st.integers(1, 3))
def test_bounds_hold_and_room_is_never_left_while_somebody_may_use_it(steps, most, per_agent):
    async def story():
        turns = Turns(most=most, most_per_agent=per_agent)
        running: deque = deque()
        waiting: list = []
        for step, tenant, agent in steps:
            who = (UUID(int=tenant), str(agent))
            if step == "come":
                log: list = []
                waiting.append((who, asyncio.create_task(started(turns, who, log))))
            elif step == "done" and running:
                turns.done(running.popleft())
            elif step == "leave" and waiting:
                waiting.pop(0)[1].cancel()
            await settle()
            for entry in [each for each in waiting if each[1].done()]:
                waiting.remove(entry)
                if not entry[1].cancelled():
                    running.append(entry[0])
            by_agent = Counter(running)
            assert len(running) <= most
            assert max(by_agent.values(), default=0) <= per_agent
            assert len(running) == most or all(by_agent[who] == per_agent for who, _ in waiting)
            assert turns.statistics()["running"] == len(running)
        for _, task in waiting:
            task.cancel()
        await asyncio.gather(*(task for _, task in waiting), return_exceptions=True)

    asyncio.run(story())
