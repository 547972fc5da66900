"""Sharing a number: whole parts that sum exactly to it, each next to its exact share."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.sharing import split_exactly

totals = st.integers(0, 10**12)
weights = st.lists(st.integers(0, 10**9), min_size=1, max_size=50)


@given(totals, weights)
def test_the_parts_sum_exactly_to_the_whole(total: int, given_weights: list[int]) -> None:
    assert sum(split_exactly(total, given_weights)) == total


@given(totals, weights.filter(any))
def test_no_part_is_further_than_one_from_its_exact_share(total: int, given_weights: list[int]) -> None:
    whole = sum(given_weights)
    for part, weight in zip(split_exactly(total, given_weights), given_weights, strict=True):
        assert abs(part - Fraction(total * weight, whole)) < 1


@given(totals, weights.filter(any))
def test_who_weighs_nothing_gets_nothing(total: int, given_weights: list[int]) -> None:
    parts = split_exactly(total, given_weights)
    assert {part for part, weight in zip(parts, given_weights, strict=True) if not weight} <= {0}


@given(totals, weights)
def test_who_weighs_more_never_gets_less(total: int, given_weights: list[int]) -> None:
    pairs = sorted(zip(given_weights, split_exactly(total, given_weights), strict=True))
    assert all(one[1] <= other[1] or one[0] == other[0] for one, other in pairwise(pairs))


@given(weights, st.integers(0, 1000))
def test_a_total_that_is_a_multiple_of_the_weights_is_shared_as_they_are(given_weights: list[int], times: int) -> None:
    assert split_exactly(sum(given_weights) * times, given_weights) == [weight * times for weight in given_weights]


@pytest.mark.parametrize(
    ("total", "given_weights", "parts"),
    [
        (10, [1, 1, 1], [4, 3, 3]),
        (7, [2, 3, 5], [1, 2, 4]),
        (3, [0, 0], [2, 1]),
        (5, [0, 3], [0, 5]),
        (0, [4, 4], [0, 0]),
        (0, [], []),
    ],
)
def test_by_hand(total: int, given_weights: list[int], parts: list[int]) -> None:
    assert split_exactly(total, given_weights) == parts


@pytest.mark.parametrize(("total", "given_weights"), [(-1, [1]), (1, [-1]), (1, [])])
def test_what_cannot_be_shared_is_refused(total: int, given_weights: list[int]) -> None:
    with pytest.raises(ValueError, match=r"share|0 or more"):
        split_exactly(total, given_weights)
