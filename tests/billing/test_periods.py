"""Periods of limits: every moment lies in exactly one of each kind."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.periods import end_of, start_of

ZONES = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
MOMENTS = st.datetimes(datetime(1990, 1, 1), datetime(2199, 12, 30), timezones=ZONES)  # noqa: DTZ001
PERIODS = st.sampled_from(["minute", "day", "month"])
SMALLEST = timedelta(microseconds=1)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@given(PERIODS, MOMENTS)
def test_a_moment_lies_in_its_period(period: str, moment: datetime) -> None:
    assert start_of(period, moment) <= moment < end_of(period, moment)


@given(PERIODS, MOMENTS)
def test_periods_follow_one_another_without_a_gap(period: str, moment: datetime) -> None:
    start, end = start_of(period, moment), end_of(period, moment)
    assert start_of(period, end) == end
    assert start_of(period, end - SMALLEST) == start_of(period, start) == start
    assert end_of(period, start - SMALLEST) == start
    assert end_of(period, start) == end_of(period, end - SMALLEST) == end


@given(MOMENTS)
def test_they_are_calendar_periods_in_utc(moment: datetime) -> None:
    there = moment.astimezone(UTC)
    day, month = start_of("day", moment), start_of("month", moment)
    assert (day.date(), day.timetz()) == (there.date(), datetime.min.replace(tzinfo=UTC).timetz())
    assert (month.year, month.month, month.day) == (there.year, there.month, 1)
    assert end_of("day", moment) - day == timedelta(days=1)
    assert end_of("minute", moment) - start_of("minute", moment) == timedelta(minutes=1)


@pytest.mark.parametrize(
    ("moment", "ends"),
    [
        ("2028-02-29T23:59:59.999999", "2028-03-01"),
        ("2028-02-01T00:00:00", "2028-03-01"),
        ("2027-02-28T12:00:00", "2027-03-01"),
        ("2026-12-31T23:59:59.999999", "2027-01-01"),
        ("2026-01-31T00:00:00", "2026-02-01"),
        ("2100-02-28T23:00:00", "2100-03-01"),
    ],
)
def test_months_end_where_the_calendar_says(moment: str, ends: str) -> None:
    assert end_of("month", at(moment)) == at(ends)


def test_the_day_is_not_the_callers_day() -> None:
    late_in_california = datetime(2026, 11, 30, 17, 0, tzinfo=timezone(timedelta(hours=-8)))
    assert start_of("day", late_in_california) == start_of("month", late_in_california) == at("2026-12-01")
