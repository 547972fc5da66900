"""One text at a time: leaders, those who join them, and what happens when either goes away."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import metrics
from embeddings.inflight import InFlight, LeaderFailed

A, B, C = b"a", b"b", b"c"


def vector(number: float) -> np.ndarray:
    return np.full(4, number, np.float32)


async def test_the_first_leads_and_the_next_joins():
    inflight = InFlight()
    first, second = inflight.claim([A, B, A]), inflight.claim([B, C])
    assert (list(first.mine), list(first.others)) == ([A, B], [])
    assert (list(second.mine), list(second.others)) == ([C], [B])
    first.resolve([A, B], [vector(1), vector(2)])
    found = await inflight.joined(second.others, within_s=1)
    assert np.array_equal(found[B], vector(2))
    second.close()
    assert inflight.statistics() == {"led": 0, "waiting": 0}


async def test_when_it_is_done_the_next_one_leads_again():
    inflight = InFlight()
    with inflight.claim([A]) as claim:
        claim.resolve([A], [vector(1)])
    assert list(inflight.claim([A]).mine) == [A]


async def test_a_leader_that_raises_leaves_the_text_to_those_who_joined():
    inflight = InFlight()
    leader, joined = inflight.claim([A, B]), inflight.claim([A, B])

    def lead() -> None:
        with leader:
            leader.resolve([A], [vector(1)])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        lead()
    with pytest.raises(LeaderFailed):
        await joined.others[B]
    assert list(await inflight.joined(joined.others, within_s=1)) == [A]
    assert list(inflight.claim([B]).mine) == [B]  # one of them leads now


async def test_a_leader_that_is_cancelled_does_the_same():
    inflight = InFlight()

    async def lead() -> None:
        with inflight.claim([A]):
            await asyncio.Event().wait()

    leader = asyncio.create_task(lead())
    await asyncio.sleep(0)
    joined = inflight.claim([A])
    leader.cancel()
    assert await inflight.joined(joined.others, within_s=5) == {}
    assert inflight.statistics() == {"led": 0, "waiting": 0}


async def test_one_who_joined_and_leaves_harms_nobody():
    inflight = InFlight()
    leader = inflight.claim([A])
    leaver, stayer = inflight.claim([A]), inflight.claim([A])
    task = asyncio.create_task(inflight.joined(leaver.others, within_s=5))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    leader.resolve([A], [vector(1)])
    assert np.array_equal((await inflight.joined(stayer.others, within_s=1))[A], vector(1))


async def test_nobody_waits_longer_than_they_want_to():
    inflight = InFlight()
    leader, joined = inflight.claim([A]), inflight.claim([A])
    assert await inflight.joined(joined.others, within_s=0) == {}
    assert inflight.statistics() == {"led": 1, "waiting": 0}
    leader.close()


async def test_keys_that_are_not_led_are_passed_over():
    inflight = InFlight()
    first = inflight.claim([A])
    second = inflight.claim([A, B])
    second.resolve([A, B], [vector(9), vector(2)])  # A is not its to resolve
    assert inflight.statistics() == {"led": 1, "waiting": 1}
    first.resolve([A], [vector(1)])
    first.resolve([A], [vector(8)])  # nor is it twice
    assert np.array_equal((await inflight.joined(second.others, within_s=1))[A], vector(1))


async def test_who_joins_is_counted():
    inflight, before = InFlight(), metrics.singleflight_joined._value.get()
    inflight.claim([A, B])
    inflight.claim([A, B, C, A])
    assert metrics.singleflight_joined._value.get() - before == 2


moves = st.lists(
    st.tuples(st.sampled_from(["claim", "resolve", "close", "leave"]), st.integers(0, 9), st.sets(st.integers(0, 4))),
    max_size=40,
)


@given(moves)
@settings(max_examples=150, deadline=None)
def test_whatever_happens_each_text_has_one_leader_and_nobody_is_left_waiting(story) -> None:
    async def run() -> None:
        inflight, claims = InFlight(), []
        for move, which, numbers in story:
            keys = [b"%d" % number for number in sorted(numbers)]
            match move:
                case "claim":
                    led = {key for claim in claims for key in claim.mine}
                    claims.append(inflight.claim(keys))
                    assert set(claims[-1].mine) == set(keys) - led
                    assert set(claims[-1].others) == set(keys) & led
                case "resolve" if claims:
                    claims[which % len(claims)].resolve(keys, [vector(int(key)) for key in keys])
                case "close" if claims:
                    claims[which % len(claims)].close()
                case "leave" if claims:
                    for future in claims[which % len(claims)].others.values():
                        future.cancel()
            assert inflight.statistics()["led"] == sum(len(claim.mine) for claim in claims)
        for claim in claims:
            claim.close()
        for claim in claims:
            found = await inflight.joined(claim.others, within_s=0)
            assert all(np.array_equal(got, vector(int(key))) for key, got in found.items())
            assert all(future.done() for future in claim.others.values())
        assert inflight.statistics() == {"led": 0, "waiting": 0}

    asyncio.run(run())
