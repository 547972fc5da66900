"""Calls shared by requests: who gets which row, who waits for whom, and what one bad text or one leaver does."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.sharing import split_exactly
from embeddings import bisecting
from embeddings.dispatch import Dispatcher, Items, Part, Sent, Upstream
from providers.failures import FailureKind, ProviderFailure
from tests.embeddings.building import deployment, endpoint
from tests.embeddings.fakes import vectors_for

WIDTH = 4
SOON = 10.0  # seconds; nothing here takes that long


class Vendor:
    """Stands for the provider: each call waits until it is let through, then does what it was told."""

    def __init__(self, *, open_: bool = True, bad: Callable[[Any], bool] = lambda item: False) -> None:
        self.calls: list[list[Any]] = []
        self.bad = bad
        self.failure: Exception | None = None
        self.tokens: Callable[[Sequence[Any]], int | None] = lambda items: 3 * len(items)
        self.timeouts: list[float] = []
        self._allowed = math.inf if open_ else 0
        self._moved = asyncio.Event()

    def let(self, calls: float = math.inf) -> None:
        """Lets so many calls more through, in the order in which they came."""
        self._allowed += calls
        self._moved.set()
        self._moved = asyncio.Event()

    async def __call__(self, lane: Upstream, items: Items, *, timeout_s: float) -> Sent:
        self.calls.append(list(items))
        self.timeouts.append(timeout_s)
        number = len(self.calls)
        async with asyncio.timeout(20):
            while number > self._allowed:
                await self._moved.wait()
        if self.failure is not None:
            raise self.failure
        if any(self.bad(item) for item in items):
            raise ProviderFailure(FailureKind.TEXT_REFUSED, "HTTP 400", status=400)
        return Sent(vectors_for(items, WIDTH), self.tokens(items), f"up-{number}")

    async def asked(self, calls: int) -> None:
        """Until so many calls have come."""
        async with asyncio.timeout(SOON):
            while len(self.calls) < calls:
                await asyncio.sleep(0)


class House:
    """A dispatcher, one lane of it, and requests of tenants."""

    def __init__(self, vendor: Vendor, *, slots: int = 1, credential: str = "c1", **facts: Any) -> None:
        self.dispatcher = Dispatcher(vendor)
        self.lane = self.dispatcher.lane(
            endpoint(credential=credential, max_concurrency=slots),
            deployment(**facts),
            width=WIDTH,
            input_type=None,
            takes_tokens=False,
        )

    def ask(self, *texts: Any, tenant: str = "acme", counts: Sequence[int] = (), **words: Any) -> asyncio.Task[Part]:
        words.setdefault("deadline", self.dispatcher._clock() + SOON)
        return asyncio.get_running_loop().create_task(
            self.dispatcher.submit(self.lane, list(texts), counts or [2] * len(texts), tenant=tenant, **words)
        )

    @property
    def statistics(self) -> dict[str, float]:
        return self.dispatcher.statistics()["openai"]


async def settled() -> None:
    """Lets everything happen that can happen now."""
    for _ in range(20):
        await asyncio.sleep(0)


def right(part: Part, *texts: Any) -> bool:
    return part.failure is None and np.array_equal(part.vectors, vectors_for(texts, WIDTH))


# --- who gets what


async def test_a_request_alone_gets_its_vectors_tokens_and_call():
    vendor = Vendor()
    part = await House(vendor).ask("a", "b")
    assert right(part, "a", "b")
    assert (part.tokens, part.answered, part.failed, part.is_running) == (6, [True, True], {}, False)
    (call,) = part.calls
    assert (call.items, call.items_in_call, call.tokens, call.upstream_id, call.failure) == (2, 2, 6, "up-1", None)


async def test_requests_that_wait_share_a_call_and_each_gets_its_own_rows():
    vendor = Vendor(open_=False)
    house = House(vendor)
    tasks = [house.ask("first")]
    await vendor.asked(1)
    tasks += [house.ask(f"a{number}", f"b{number}") for number in range(10)]
    await settled()
    assert (house.statistics["calls"], house.statistics["queued"]) == (1, 10)
    vendor.let()
    parts = await asyncio.gather(*tasks)
    assert len(vendor.calls) == 2
    assert all(right(part, f"a{number}", f"b{number}") for number, part in enumerate(parts[1:]))
    assert [(call.items, call.items_in_call) for part in parts[1:] for call in part.calls] == [(2, 20)] * 10


async def test_the_providers_count_is_shared_out_exactly():
    vendor = Vendor(open_=False)
    vendor.tokens = lambda items: 101
    house = House(vendor)
    first = house.ask("first")
    await vendor.asked(1)
    tasks = [house.ask("short", counts=[1]), house.ask("long", counts=[9]), house.ask("middle", counts=[5])]
    await settled()
    vendor.let()
    parts = await asyncio.gather(*tasks)
    assert (await first).tokens == 101
    assert [part.tokens for part in parts] == split_exactly(101, [1, 9, 5])


async def test_a_provider_without_a_count_leaves_it_open():
    vendor = Vendor()
    vendor.tokens = lambda items: None
    part = await House(vendor).ask("a")
    assert (part.tokens, part.calls[0].tokens) == (None, None)


async def test_a_large_request_is_cut_and_put_together_in_order():
    vendor = Vendor()
    texts = [f"text {number}" for number in range(25)]
    part = await House(vendor, slots=2, max_items=10).ask(*texts)
    assert right(part, *texts)
    assert [len(call) for call in vendor.calls] == [10, 10, 5]
    assert part.tokens == 75


@pytest.mark.parametrize(("cap", "tokens_each"), [(2048, 2), (96, 2), (1, 2), (100, 200)])
async def test_no_call_passes_its_vendors_caps(cap: int, tokens_each: int):
    vendor = Vendor(open_=False)
    house = House(vendor, slots=3, max_items=cap, max_tokens_per_call=2_000)
    tasks = [house.ask(*(f"{n}-{i}" for i in range(1 + n * 7)), counts=[tokens_each] * (1 + n * 7)) for n in range(12)]
    await settled()
    vendor.let()
    parts = await asyncio.gather(*tasks)
    assert all(right(part, *(f"{n}-{i}" for i in range(1 + n * 7))) for n, part in enumerate(parts))
    assert max(map(len, vendor.calls)) <= min(cap, 2_000 // tokens_each)


async def test_texts_and_token_arrays_never_share_a_call():
    vendor = Vendor(open_=False)
    house = House(vendor)
    arrays = house.dispatcher.lane(
        house.lane.endpoint, house.lane.deployment, width=WIDTH, input_type=None, takes_tokens=True
    )
    assert arrays is not house.lane
    tasks = [house.ask("a"), house.ask("b")]
    tasks.append(
        asyncio.create_task(
            house.dispatcher.submit(arrays, [[1, 2]], [2], tenant="acme", deadline=house.dispatcher._clock() + SOON)
        )
    )
    await settled()
    vendor.let()
    await asyncio.gather(*tasks)
    assert sorted(vendor.calls, key=repr) == [["a"], ["b"], [[1, 2]]]


async def test_a_lane_is_the_same_until_the_catalogue_changes():
    house = House(Vendor())
    words: dict[str, Any] = {"width": WIDTH, "input_type": None, "takes_tokens": False}
    of = house.lane.deployment
    assert house.dispatcher.lane(endpoint(), of, **words) is not house.lane  # other slots: another endpoint
    one = house.dispatcher.lane(endpoint(), of, **words)
    assert house.dispatcher.lane(endpoint(), of, **words) is one
    assert house.dispatcher.lane(endpoint(), deployment(max_items=7, model_id=of.model_id), **words).max_items == 7


# --- whose turn


async def test_tenants_share_no_call_unless_the_provider_mixes_them():
    for mixes, calls in ((False, 4), (True, 2)):
        vendor = Vendor(open_=False)
        house = House(vendor, mixes_tenants=mixes)
        tasks = [house.ask("first")]
        await vendor.asked(1)
        tasks += [house.ask(f"of {tenant}", tenant=tenant) for tenant in ("acme", "globex", "mallory")]
        await settled()
        vendor.let()
        parts = await asyncio.gather(*tasks)
        assert len(vendor.calls) == calls
        assert right(parts[3], "of mallory")


async def test_the_slots_of_a_provider_are_shared_by_all_its_lanes():
    vendor = Vendor(open_=False)
    house = House(vendor, slots=2)
    tasks = []
    for width in (1, 2, 3, 4):
        lane = house.dispatcher.lane(
            house.lane.endpoint, house.lane.deployment, width=width, input_type=None, takes_tokens=False
        )
        deadline = house.dispatcher._clock() + SOON
        tasks.append(
            asyncio.create_task(house.dispatcher.submit(lane, ["x"], [1], tenant=f"t{width}", deadline=deadline))
        )
    await settled()
    assert (len(vendor.calls), house.statistics["calls"], house.statistics["queued"]) == (2, 2, 2)
    vendor.let()
    await asyncio.gather(*tasks)
    assert (house.statistics["calls"], house.statistics["queued"]) == (0, 0)


async def test_a_noisy_neighbour_costs_one_call_more_than_being_alone():
    """8 slots; acme has 800 calls' worth waiting, globex sends one text after the other. Counted in calls, not in
    seconds: how many are begun between a text's coming and its own."""
    begun = came_at = 0
    ahead = []

    async def slow(lane: Upstream, items: Items, *, timeout_s: float) -> Sent:
        nonlocal begun
        if items[0] == "globex":
            ahead.append(begun - came_at)
        begun += 1
        await asyncio.sleep(0.01)
        return Sent(np.ones((len(items), WIDTH), np.float32), 1)

    house = House(Vendor(), slots=8, max_items=10)
    house.dispatcher._send = slow
    noise = [house.ask(*["acme"] * 100) for _ in range(80)]
    await settled()
    for _ in range(30):
        came_at = begun
        await house.ask("globex", tenant="globex")
    assert house.statistics["queued"] > 0  # the neighbour was at it all the time
    assert max(ahead) <= 1  # so of the eight under way, the second that ends makes room at the latest
    await house.dispatcher.close()
    await asyncio.gather(*noise)


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


# --- the window


async def test_requests_of_one_tenant_gather_while_it_has_a_call_under_way():
    vendor = Vendor(open_=False)
    house = House(vendor, slots=8, batch_window_s=0.05)
    tasks = [house.ask("first")]
    await vendor.asked(1)
    tasks += [house.ask(f"t{n}") for n in range(5)]
    await settled()
    assert len(vendor.calls) == 1  # slots are free, but the window has not passed
    await vendor.asked(2)  # now it has, though nothing else happened
    vendor.let()
    await asyncio.gather(*tasks)
    assert [len(call) for call in vendor.calls] == [1, 5]


# --- anything


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["acme", "globex", "mallory"]),
            st.lists(st.sampled_from(["good", "bad"] + ["good"] * 8), min_size=1, max_size=12),
            st.booleans(),
        ),
        min_size=1,
        max_size=25,
    ),
    st.integers(1, 4),
    st.integers(1, 12),
    st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_every_request_gets_its_own_vectors_or_its_own_failure(story, slots, cap, mixes) -> None:
    async def run() -> None:
        vendor = Vendor(bad=lambda text: text.startswith("bad"))
        house = House(vendor, slots=slots, max_items=cap, max_tokens_per_call=20, mixes_tenants=mixes)
        asked = [[f"{word}-{n}-{i}" for i, word in enumerate(words)] for n, (_, words, _) in enumerate(story)]
        parts = await asyncio.gather(
            *(
                house.ask(*texts, tenant=tenant, partial=partial)
                for texts, (tenant, _, partial) in zip(asked, story, strict=True)
            )
        )
        for texts, (_, words, partial), part in zip(asked, story, parts, strict=True):
            for row, text in enumerate(texts):
                if part.answered[row]:
                    assert np.array_equal(part.vectors[row], vectors_for([text], WIDTH)[0])
            assert ("bad" in words and not partial) <= (part.failure is not None)
            assert part.failure is None or "bad" in words
            if part.failure is None:
                assert all(part.answered[row] or row in part.failed for row in range(len(texts)))
                assert part.tokens == sum(call.tokens or 0 for call in part.calls) == 3 * sum(part.answered)
        assert house.statistics == {"slots": slots, "calls": 0, "queued": 0, "oldest_wait_ms": 0.0}

    asyncio.run(run())
