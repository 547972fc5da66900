"""Splitting by caps: nothing lost, nothing reordered, no cap passed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from providers.splitting import split_by_caps

counts = st.lists(st.integers(0, 50), max_size=60)
caps = st.integers(1, 40)


@given(counts, caps, caps)
def test_the_slices_joined_are_the_whole_in_order(tokens: list[int], max_items: int, max_tokens: int) -> None:
    slices = split_by_caps(tokens, max_items=max_items, max_tokens=max_tokens)

    assert [index for each in slices for index in range(each.start, each.stop)] == list(range(len(tokens)))


@given(counts, caps, caps)
def test_no_slice_passes_a_cap_but_a_single_text(tokens: list[int], max_items: int, max_tokens: int) -> None:
    slices = split_by_caps(tokens, max_items=max_items, max_tokens=max_tokens)

    sizes = [(each.stop - each.start, sum(tokens[each])) for each in slices]
    assert all(1 <= items <= max_items and (total <= max_tokens or items == 1) for items, total in sizes)


@given(counts, caps, caps)
def test_no_slice_could_have_taken_the_next_text(tokens: list[int], max_items: int, max_tokens: int) -> None:
    slices = split_by_caps(tokens, max_items=max_items, max_tokens=max_tokens)

    followed = slices[:-1]
    assert all(
        each.stop - each.start == max_items or sum(tokens[each]) + tokens[each.stop] > max_tokens for each in followed
    )


def test_a_single_large_text_goes_alone() -> None:
    assert split_by_caps([1, 99, 1], max_items=10, max_tokens=10) == [slice(0, 1), slice(1, 2), slice(2, 3)]
