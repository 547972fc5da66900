"""Calls shared by requests: who gets which row, whose turn it is, how long texts gather."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.sharing import split_exactly
from tests.embeddings.building import deployment, endpoint
from tests.embeddings.fakes import vectors_for
from tests.embeddings.houses import SOON, WIDTH, House, Vendor, right, settled

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
    vendor = Vendor(open_=False)
    house = House(vendor, slots=8, max_items=10)
    noise = [house.ask(*["acme"] * 100) for _ in range(80)]
    await settled()
    ahead = []
    for _ in range(30):
        came_at = len(vendor.calls)
        quiet = house.ask("globex", tenant="globex")
        while not quiet.done():
            await settled()
            vendor.let(1)  # the call that has run longest ends
            await settled()
        ahead.append(vendor.calls[came_at:].index(["globex"]))
    assert house.statistics["queued"] > 0  # the neighbour was at it all the time
    assert max(ahead) <= 1  # so of the eight under way, the second that ends makes room at the latest
    vendor.let()
    await house.dispatcher.close(within_s=SOON)
    await asyncio.gather(*noise)


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
