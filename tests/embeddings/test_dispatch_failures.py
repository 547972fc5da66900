"""Calls shared by requests: what one bad text, a failure, a deadline or one that leaves does to the others."""

from __future__ import annotations

import asyncio
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embeddings import bisecting
from embeddings.dispatch import Part
from providers.failures import FailureKind, ProviderFailure
from tests.embeddings.building import endpoint
from tests.embeddings.fakes import vectors_for
from tests.embeddings.houses import SOON, WIDTH, House, Vendor, right, settled

# --- bad texts


async def test_one_bad_text_fails_its_request_alone_and_is_named():
    vendor = Vendor(open_=False, bad=lambda text: text == "bad")
    house = House(vendor)
    first = house.ask("first")
    await vendor.asked(1)
    good = [house.ask(f"a{n}", f"b{n}") for n in range(8)]
    wrong = house.ask("fine", "also fine", "bad")
    more = [house.ask(f"c{n}") for n in range(8)]
    await settled()
    vendor.let()
    parts = await asyncio.gather(*good, *more)
    part = await wrong
    assert all(right(each, f"a{n}", f"b{n}") for n, each in enumerate(parts[:8]))
    assert all(right(each, f"c{n}") for n, each in enumerate(parts[8:]))
    assert part.failure is not None
    assert (part.failure.kind, list(part.failed)) == (FailureKind.TEXT_REFUSED, [2])
    assert len(vendor.calls) - 1 <= 2 * math.ceil(math.log2(27)) + 1
    assert right(await first, "first")


async def test_a_request_that_takes_partial_answers_gets_the_others():
    vendor = Vendor(bad=lambda text: text in ("bad", "worse"))
    part = await House(vendor).ask("a", "bad", "c", "d", "worse", "f", partial=True)
    assert part.failure is None
    assert list(part.failed) == [1, 4]
    assert part.answered == [True, False, True, True, False, True]
    assert np.array_equal(part.vectors[[0, 2, 3, 5]], vectors_for(["a", "c", "d", "f"], WIDTH))
    assert not part.vectors[[1, 4]].any()
    assert part.tokens == 12
    assert sum(call.tokens or 0 for call in part.calls) == 12


async def test_a_request_with_a_bad_text_sends_no_more_of_its_own():
    vendor = Vendor(bad=lambda text: text == "bad")
    part = await House(vendor, max_items=4).ask("bad", *["fine"] * 400)
    assert part.failure is not None
    assert len(vendor.calls) <= 3  # the call of four, its half, the text


async def test_when_all_is_refused_it_is_not_the_texts():
    vendor = Vendor(bad=lambda text: True)
    part = await House(vendor).ask(*(f"t{n}" for n in range(2048)), partial=True)
    assert part.failure is not None
    assert len(vendor.calls) <= 40


async def test_other_failures_are_not_bisected():
    vendor = Vendor()
    vendor.failure = ProviderFailure(FailureKind.SERVER, "HTTP 500", status=500, upstream_id="up-x")
    part = await House(vendor).ask("a", "b", "c", partial=True)
    assert (part.failure, len(vendor.calls), part.failed) == (vendor.failure, 1, {})
    assert (part.calls[0].failure, part.calls[0].upstream_id) == (vendor.failure, "up-x")


async def test_a_defect_of_ours_is_raised_and_frees_the_slot():
    vendor = Vendor()
    vendor.failure = IndexError("a defect")
    house = House(vendor)
    gone: list[Part] = []
    with pytest.raises(IndexError):
        await house.ask("a", when_gone=gone.append)
    assert [part.failure is not None for part in gone] == [True]  # the caller has no part, so it goes there
    vendor.failure = None
    assert right(await house.ask("b"), "b")


@given(st.integers(2, 300), st.data())
@settings(max_examples=100, deadline=None)
def test_bisection_finds_eight_bad_texts_in_few_calls_and_fails_no_good_one(size: int, data: st.DataObject) -> None:
    bad = data.draw(st.sets(st.integers(0, size - 1), min_size=1, max_size=min(8, size)))
    bisection, calls, passed, failed = bisecting.Bisection(range(size)), 1, list[int](), list[int]()
    while (part := bisection.next_part()) is not None:
        calls += 1
        if bad.isdisjoint(part):
            bisection.accepted()
            passed += part
        elif not bisection.refused(part):
            failed += part
    assert (sorted(failed), sorted(passed + failed)) == (sorted(bad), list(range(size)))
    assert calls <= 1 + len(bad) * 2 * math.ceil(math.log2(size)) <= bisecting.most_calls(size)


@pytest.mark.parametrize(("bad", "calls"), [(lambda n: True, 40), (lambda n: n % 2 == 0, 400)])
def test_bisection_ends_however_much_is_refused(bad, calls) -> None:
    bisection, made, outcomes = bisecting.Bisection(range(2048)), 1, list[int]()
    while (part := bisection.next_part()) is not None:
        made += 1
        again = bisection.refused(part) if any(map(bad, part)) else bisection.accepted()
        outcomes += () if again else part
    assert made <= calls
    assert outcomes == list(range(2048))


# --- leaving


async def test_one_that_leaves_before_it_is_sent_is_not_sent():
    vendor = Vendor(open_=False)
    house = House(vendor)
    first, gone = house.ask("first"), list[Part]()
    await vendor.asked(1)
    leaver, other = house.ask("leaver", when_gone=gone.append), house.ask("other")
    await settled()
    leaver.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaver
    assert [(part.calls, part.answered) for part in gone] == [([], [False])]  # told at once: there is nothing to settle
    vendor.let()
    assert right(await other, "other")
    assert right(await first, "first")
    assert vendor.calls == [["first"], ["other"]]


async def test_one_that_leaves_a_call_under_way_harms_nobody_and_is_settled_when_it_ends():
    vendor = Vendor(open_=False)
    house = House(vendor)
    first, gone = house.ask("first"), list[Part]()
    await vendor.asked(1)
    leaver, other = house.ask("leaver", when_gone=gone.append), house.ask("other")
    await settled()
    vendor.let(1)
    await vendor.asked(2)
    leaver.cancel()
    await settled()
    assert not gone
    vendor.let()
    assert right(await other, "other")
    assert right(await first, "first")
    await settled()
    assert [right(part, "leaver") for part in gone] == [True]
    assert house.statistics["calls"] == 0


async def test_one_that_leaves_half_sent_gives_back_the_rest():
    vendor = Vendor(open_=False)
    house, gone = House(vendor, max_items=2), list[Part]()
    leaver = house.ask("a", "b", "c", "d", when_gone=gone.append)
    await vendor.asked(1)
    leaver.cancel()
    await settled()
    assert not gone
    vendor.let()
    await settled()
    assert [(part.answered, part.tokens) for part in gone] == [([True, True, False, False], 6)]
    assert vendor.calls == [["a", "b"]]


async def test_without_a_slot_by_its_deadline_a_request_is_told_busy_and_nothing_is_sent():
    vendor = Vendor(open_=False)
    house = House(vendor)
    first = house.ask("first")
    await vendor.asked(1)
    part = await house.ask("late", deadline=house.dispatcher._clock() + 0.02)
    assert part.failure is not None
    assert (part.failure.kind, part.calls, part.is_running) == (FailureKind.BUSY, [], False)
    assert house.statistics["queued"] == 0
    vendor.let()
    await first


async def test_a_deadline_that_has_passed_sends_nothing():
    vendor = Vendor()
    house = House(vendor)
    part = await house.ask("late", deadline=house.dispatcher._clock() - 1)
    assert part.failure is not None
    assert (part.failure.kind, vendor.calls) == (FailureKind.BUSY, [])


async def test_in_a_shared_call_each_keeps_its_own_deadline():
    vendor = Vendor(open_=False)
    house, gone = House(vendor), list[Part]()
    first = house.ask("first")
    await vendor.asked(1)
    hurried = house.ask("hurried", deadline=house.dispatcher._clock() + 0.3, when_gone=gone.append)
    patient = house.ask("patient")
    await settled()
    vendor.let(1)
    await first
    part = await hurried
    assert part.failure is not None
    assert (part.failure.kind, part.is_running, gone) == (FailureKind.TIMEOUT, True, [])
    vendor.let()
    assert right(await patient, "patient")
    assert vendor.timeouts[1] > 1  # the call has the time of the one that has most
    assert [(right(late, "hurried"), late.tokens) for late in gone] == [(True, 3)]


async def test_a_call_has_no_more_time_than_its_endpoint_gives():
    vendor = Vendor()
    house = House(vendor)
    lane = house.dispatcher.lane(
        endpoint(timeout_s=2.0), house.lane.deployment, width=WIDTH, input_type=None, takes_tokens=False
    )
    await house.dispatcher.submit(lane, ["a"], [1], tenant="acme", deadline=house.dispatcher._clock() + SOON)
    assert vendor.timeouts == [2.0]


async def test_one_that_leaves_as_its_answer_comes_is_settled_once():
    vendor, gone = Vendor(open_=False), list[Part]()
    house = House(vendor)
    leaver = house.ask("a", when_gone=gone.append)
    await vendor.asked(1)
    vendor.let()
    async with asyncio.timeout(SOON):
        while house.statistics["calls"]:
            await asyncio.sleep(0)
    leaver.cancel()
    await asyncio.gather(leaver, return_exceptions=True)
    assert leaver.cancelled()
    assert [right(part, "a") for part in gone] == [True]


async def test_stopping_fails_what_waits_and_lets_calls_end():
    vendor = Vendor(open_=False)
    house = House(vendor)
    first = house.ask("first")
    await vendor.asked(1)
    waiting = house.ask("waiting")
    await settled()
    closing = asyncio.create_task(house.dispatcher.close(within_s=SOON))
    part = await waiting
    assert part.failure is not None
    assert part.failure.kind is FailureKind.BUSY
    vendor.let()
    await closing
    assert right(await first, "first")


async def test_stopping_breaks_off_what_does_not_end():
    vendor = Vendor(open_=False)
    house = House(vendor)
    first = house.ask("first")
    await vendor.asked(1)
    await house.dispatcher.close()
    part = await first
    assert part.failure is not None
    assert part.failure.kind is FailureKind.DISCONNECTED
