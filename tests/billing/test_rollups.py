"""Usage added up by the hour: whatever is asked, the hours and the ledger together say what the ledger alone says."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import connection, transaction
from hypothesis import given
from hypothesis import strategies as st

from billing.models import HourlyUsage, LateHour, RolledUp, UsageRow
from billing.partitions import make_partitions
from billing.reconciling import _CLAIM
from billing.rollups import mark_late, roll_up, rolled_until
from billing.usage import Narrowed, sum_usage
from billing.usage_parts import HOUR, floor_hour, parts
from core.ids import uuid7, uuid7_time
from tests.conftest import Party

NOW = datetime(2030, 3, 4, 12, 20, tzinfo=UTC)
moments = st.integers(0, 3 * 86_400).map(lambda second: datetime(2030, 1, 1, tzinfo=UTC) + timedelta(seconds=second))


@pytest.fixture
def month(db: None) -> None:
    make_partitions(today=NOW.date(), ahead=0)


def use(tenant_id: UUID, at: datetime, **facts: Any) -> UsageRow:
    row_id = uuid7(int(at.timestamp() * 1000))
    plain = {"model": "small", "provider": "vendor", "tokens": 8, "held_tokens": 8, "items": 1}
    return UsageRow.objects.create(id=row_id, created_at=uuid7_time(row_id), tenant_id=tenant_id, **(plain | facts))


def total(tenant_id: UUID, since: datetime, until: datetime, **words: Any) -> tuple[int, int, Decimal]:
    found = sum_usage(tenant_id, since=since, until=until, **words)
    return (
        sum(each.requests for each in found),
        sum(each.tokens for each in found),
        sum((each.cost_usd for each in found), Decimal(0)),
    )


@given(moments, moments, st.none() | moments.map(floor_hour), st.lists(moments, min_size=1, max_size=20))
def test_the_parts_of_a_time_hold_each_moment_of_it_once(
    since: datetime, until: datetime, rolled: datetime | None, at: list[datetime]
) -> None:
    found = parts(since, until, rolled_until=rolled)
    spans = [*([found.hours] if found.hours else []), *found.rows]
    for moment in [*at, since, until]:
        holding = [each for each in spans if each[0] <= moment < each[1]]
        assert len(holding) == (since <= moment < until)
    hours = [found.hours] if found.hours else []
    assert all(each == floor_hour(each) and each <= (rolled or each) for span in hours for each in span)


def test_an_hour_is_added_up_once_it_is_an_hour_over(month: None, acme: Party) -> None:
    use(acme.id, NOW - timedelta(hours=3))
    use(acme.id, NOW - timedelta(minutes=40))
    assert roll_up(now=NOW) == 2
    assert rolled_until() == datetime(2030, 3, 4, 11, tzinfo=UTC)
    assert [each.hour.hour for each in HourlyUsage.objects.all()] == [9]
    assert roll_up(now=NOW) == 0
    assert total(acme.id, NOW - timedelta(days=1), NOW) == (2, 16, Decimal(0))


def test_an_empty_ledger_has_no_hours(month: None) -> None:
    assert (roll_up(now=NOW), rolled_until()) == (0, None)


def test_hours_and_ledger_together_say_what_the_ledger_says(month: None, acme: Party, globex: Party) -> None:
    model, other = uuid4(), uuid4()
    for minutes in range(0, 60 * 60, 17):
        row = {"model_id": model if minutes % 3 else other, "agent_id": "a" if minutes % 2 else ""}
        use(acme.id, NOW - timedelta(minutes=minutes), cost_usd=Decimal(minutes) / 10**9, **row)
        use(globex.id, NOW - timedelta(minutes=minutes), tokens=1)
    spans = [(NOW - timedelta(minutes=a), NOW - timedelta(minutes=b)) for a, b in ((3000, 7), (65, 0), (1800, 1750))]
    questions: list[dict[str, Any]] = [
        {},
        {"by": "model"},
        {"by": "agent", "step": "day"},
        {"by": "key", "step": "hour"},
        {"by": "task", "narrowed": Narrowed(model_id=model)},
        {"by": "provider", "narrowed": Narrowed(agent_id="a")},
    ]
    asked = [(since, until, words) for since, until in spans for words in questions]
    before = [sum_usage(acme.id, since=since, until=until, **words) for since, until, words in asked]
    assert roll_up(now=NOW) == 59
    assert [sum_usage(acme.id, since=since, until=until, **words) for since, until, words in asked] == before
    assert all(before)


def test_steps_begin_where_the_calendar_says(month: None, acme: Party) -> None:
    use(acme.id, NOW - timedelta(days=1))
    use(acme.id, NOW)
    since, until = NOW - timedelta(days=2), NOW + HOUR

    def starts(step: str) -> list[str]:
        return [f"{each.start:%d %H:%M}" for each in sum_usage(acme.id, since=since, until=until, step=step)]

    assert (starts("day"), starts("hour"), starts("minute")) == (
        ["03 00:00", "04 00:00"],
        ["03 12:00", "04 12:00"],
        ["03 12:20", "04 12:20"],
    )


def test_money_counts_adjustments_and_requests_do_not(month: None, acme: Party) -> None:
    late = {"source": "adjustment", "corrects_day": NOW.date(), "tokens": 0, "held_tokens": 0}
    use(acme.id, NOW - timedelta(hours=5), cost_usd=Decimal(2))
    use(acme.id, NOW - timedelta(hours=5), cost_usd=Decimal("-0.5"), **late)
    use(acme.id, NOW - timedelta(hours=5), tokens=0, status="quota_exceeded")
    roll_up(now=NOW)
    (found,) = sum_usage(acme.id, since=NOW - timedelta(hours=6), until=NOW)
    assert (found.requests, found.failed, found.tokens, found.cost_usd) == (2, 1, 8, Decimal("1.5"))


def test_a_late_row_is_counted_once_it_is_told(month: None, acme: Party, globex: Party) -> None:
    at = NOW - timedelta(hours=5)
    use(globex.id, at)
    use(acme.id, at)
    roll_up(now=NOW)
    with transaction.atomic():
        late = use(acme.id, at + timedelta(seconds=1), agent_id="late")
        mark_late([(acme.id, late.created_at)])
    assert roll_up(now=NOW) == 1
    assert total(acme.id, NOW - timedelta(days=1), NOW) == (2, 16, Decimal(0))
    assert total(globex.id, NOW - timedelta(days=1), NOW) == (1, 8, Decimal(0))
    assert (LateHour.objects.count(), roll_up(now=NOW)) == (0, 0)


def test_what_a_dead_worker_left_is_told_with_its_row(month: None, acme: Party) -> None:
    at = NOW - timedelta(hours=5)
    use(acme.id, at)
    roll_up(now=NOW)
    lost = uuid7(int(at.timestamp() * 1000))
    words = {
        "tenant": acme.id,
        "status": "unresolved",
        "ids": [lost],
        "ms": [lost.int >> 80],
        "models": [uuid4()],
        "names": ["small"],
        "tokens": [5],
        "pools": [None],
    }
    for _ in range(2):  # the second finds the row there
        with connection.cursor() as cursor:
            cursor.execute(_CLAIM, words)
    assert [(each.tenant_id, each.hour) for each in LateHour.objects.all()] == [(acme.id, floor_hour(at))]
    roll_up(now=NOW)
    (found,) = sum_usage(acme.id, since=NOW - timedelta(days=1), until=NOW)
    assert (found.requests, found.failed) == (2, 1)


def test_a_mark_of_an_hour_that_is_still_to_come_is_forgotten(month: None, acme: Party) -> None:
    use(acme.id, NOW - timedelta(hours=5))
    roll_up(now=NOW)
    mark_late([(acme.id, NOW)])
    roll_up(now=NOW)
    assert LateHour.objects.count() == 0
    assert set(HourlyUsage.objects.values_list("hour", flat=True)) == {floor_hour(NOW - timedelta(hours=5))}


def test_weeks_without_the_task_are_caught_up_with(month: None, acme: Party) -> None:
    use(acme.id, NOW - timedelta(days=3, hours=7))
    use(acme.id, NOW - timedelta(days=1))
    assert roll_up(now=NOW) == 3 * 24 + 6
    assert HourlyUsage.objects.count() == 2


@pytest.mark.django_db(transaction=True)
def test_of_many_at_once_one_adds_up(at_once: Callable[..., list[Any]]) -> None:
    make_partitions(today=NOW.date(), ahead=0)
    tenant_id = uuid4()
    for hours in range(2, 40):
        use(tenant_id, NOW - timedelta(hours=hours))
    assert all(isinstance(each, int) for each in at_once(*[lambda: roll_up(now=NOW)] * 4))
    roll_up(now=NOW)
    assert RolledUp.objects.count() == 1
    assert total(tenant_id, NOW - timedelta(days=2), NOW) == (38, 38 * 8, Decimal(0))
