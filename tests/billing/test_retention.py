"""From when on single requests are kept: never later than what money and limits need."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from billing.periods import start_of
from billing.retention import kept_from
from tenants.settings import LEAST_RETENTION_DAYS, MOST_RETENTION_DAYS

DAY = timedelta(days=1)
BEGINNING = datetime(2020, 1, 1, tzinfo=UTC)
moments = st.integers(0, 20 * 366 * 86_400).map(lambda second: BEGINNING + timedelta(seconds=second))
ages = st.timedeltas(timedelta(0), timedelta(days=400))
days = st.integers(LEAST_RETENTION_DAYS, MOST_RETENTION_DAYS)


@given(moments, st.integers(1, 4000), ages, st.none() | ages)
def test_nothing_goes_that_is_young_in_two_months_or_not_added_up(
    now: datetime, keep: int, added_up: timedelta, late: timedelta | None
) -> None:
    first_late = None if late is None else now - late
    found = kept_from(days=keep, now=now, added_up_until=now - added_up, late=first_late)
    assert found is not None
    assert found == start_of("day", found)
    assert found <= now - keep * DAY
    assert start_of("month", found) < start_of("month", now)
    assert found <= start_of("month", start_of("month", now) - DAY)
    assert found <= now - added_up
    assert first_late is None or found <= first_late


@given(moments, days)
def test_what_a_tenant_may_set_is_what_it_gets(now: datetime, keep: int) -> None:
    assert kept_from(days=keep, now=now, added_up_until=now) == start_of("day", now - keep * DAY)


def test_all_is_kept_while_nothing_is_added_up() -> None:
    assert kept_from(days=LEAST_RETENTION_DAYS, now=BEGINNING, added_up_until=None) is None
