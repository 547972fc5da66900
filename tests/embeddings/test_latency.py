"""Live percentiles: near the exact ones, fresh, bounded, and added up over processes."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embeddings.latency import BINS, MOST_KEYS, PERIOD_S, Latencies, added, bin_of, percentile

CALLS = st.lists(st.floats(1, 60_000), min_size=1, max_size=200)


def exact(values: list[float], share: float) -> float:
    return sorted(values)[math.ceil(len(values) * share) - 1]


@given(CALLS, st.sampled_from([0.5, 0.95, 1.0]))
def test_a_percentile_is_right_to_a_tenth(values, share):
    seen: Latencies[str] = Latencies()
    for ms in values:
        seen.add("k", ms, 0.0)
    assert seen.percentile("k", share, 0.0) == pytest.approx(exact(values, share), rel=0.1)


@given(CALLS, CALLS)
def test_bins_of_processes_add_up(ours, theirs):
    here, there, both = Latencies[str](), Latencies[str](), Latencies[str]()
    for ms in ours:
        here.add("k", ms, 0.0)
        both.add("k", ms, 0.0)
    for ms in theirs:
        there.add("k", ms, 0.0)
        both.add("k", ms, 0.0)
    assert added([here.counts(0.0)["k"], there.counts(0.0)["k"]]) == both.counts(0.0)["k"]


@given(st.floats(allow_nan=False, min_value=-1e9))
def test_every_duration_has_a_bin(ms):
    assert 0 <= bin_of(min(ms, 1e300)) < BINS


def test_what_was_long_ago_is_forgotten():
    seen: Latencies[str] = Latencies()
    seen.add("k", 10, 0.0)
    assert seen.percentile("k", 0.5, PERIOD_S) is not None
    assert seen.percentile("k", 0.5, 2.5 * PERIOD_S) is None
    assert seen.counts(2.5 * PERIOD_S) == {}


def test_medians_are_a_second_old_at_most():
    seen: Latencies[str] = Latencies()
    seen.add("fast", 10, 0.0)
    assert set(seen.p50(0.0)) == {"fast"}
    seen.add("slow", 1_000, 0.1)
    assert set(seen.p50(1.0)) == {"fast", "slow"}


def test_keys_are_bounded_and_idle_ones_make_room():
    seen: Latencies[int] = Latencies()
    for key in range(MOST_KEYS + 10):
        seen.add(key, 10, 0.0)
    assert len(seen.counts(0.0)) == MOST_KEYS
    seen.add(-1, 10, 3 * PERIOD_S)
    assert set(seen.counts(3 * PERIOD_S)) == {-1}


def test_a_percentile_of_one_call_is_that_call():
    assert percentile({bin_of(100.0): 1}, 0.95) == pytest.approx(100, rel=0.1)
