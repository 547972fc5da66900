"""UUIDv7: the time is in it, the rest is chance."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from uuid import RFC_4122, UUID

from hypothesis import given
from hypothesis import strategies as st

from core.clock import unix_ms
from core.ids import uuid7, uuid7_text, uuid7_time

moments = st.integers(0, 2**47)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@given(st.timedeltas(timedelta(0), timedelta(days=300_000)))
def test_the_time_reads_back_to_the_millisecond(age: timedelta) -> None:
    moment, ms = EPOCH + age, age // timedelta(milliseconds=1)

    read = uuid7_time(uuid7(ms))

    assert timedelta(0) <= moment - read < timedelta(milliseconds=1)


@given(moments)
def test_it_is_a_version_7_of_the_right_variant(ms: int) -> None:
    value = uuid7(ms)

    assert (value.version, value.variant) == (7, RFC_4122)
    assert value.int >> 80 == ms


@given(moments, moments)
def test_later_ids_sort_later(one: int, other: int) -> None:
    earlier, later = sorted({one, other})[0], sorted({one, other})[-1] + 1

    assert uuid7(earlier) < uuid7(later)


def test_without_an_argument_it_is_now() -> None:
    before = unix_ms()

    value = uuid7()

    assert before <= value.int >> 80 <= unix_ms()


def test_a_thousand_in_one_millisecond_differ() -> None:
    assert len({uuid7(1) for _ in range(1000)}) == 1000


@given(moments)
def test_as_text_it_is_the_same_kind_of_id(ms: int) -> None:
    text = uuid7_text(ms)
    value = UUID(text)

    assert str(value) == text
    assert (value.version, value.variant, value.int >> 80) == (7, RFC_4122, ms)


def test_a_thousand_texts_in_one_millisecond_differ_whoever_seeds_chance() -> None:
    random.seed(1)
    first = {uuid7_text(1) for _ in range(1000)}
    random.seed(1)

    assert len(first | {uuid7_text(1) for _ in range(1000)}) == 2000
