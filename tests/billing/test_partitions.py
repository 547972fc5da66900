"""Months are made ahead, once, by whoever comes first; rows land in theirs."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection

from billing.models import UsageRow
from billing.partitions import TABLES, make_partitions, months
from billing.tasks import make_usage_partitions
from core.clock import utc_now
from core.ids import uuid7, uuid7_time
from tests.conftest import owners_cursor


def home_of(request_id: Any) -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT tableoid::regclass::text FROM billing_usagerow WHERE id = %s", [request_id])
        return str(cursor.fetchone()[0])


def use(at: datetime) -> Any:
    request_id = uuid7(int(at.timestamp() * 1000))
    UsageRow.objects.create(id=request_id, created_at=uuid7_time(request_id), tenant_id=uuid4())
    return request_id


def test_months_go_over_the_turn_of_the_year() -> None:
    assert list(months(date(2031, 11, 30), 3)) == [
        (date(2031, 11, 1), date(2031, 12, 1)),
        (date(2031, 12, 1), date(2032, 1, 1)),
        (date(2032, 1, 1), date(2032, 2, 1)),
    ]


@pytest.mark.parametrize(
    ("at", "home"),
    [
        (datetime(2031, 1, 1, tzinfo=UTC), "billing_usagerow_2031_01"),
        (datetime(2031, 1, 31, 23, 59, 59, 999000, tzinfo=UTC), "billing_usagerow_2031_01"),
        (datetime(2031, 2, 1, tzinfo=UTC), "billing_usagerow_2031_02"),
        (datetime(2031, 3, 1, tzinfo=UTC), "billing_usagerow_default"),
    ],
)
def test_a_row_lands_in_its_month(at: datetime, home: str, db: None) -> None:
    make_partitions(today=date(2031, 1, 15), ahead=1)
    assert home_of(use(at)) == home


def test_making_them_twice_makes_nothing(db: None) -> None:
    made = make_partitions(today=date(2031, 1, 15), ahead=2)
    assert made == [f"{table}_2031_{month}" for month in ("01", "02", "03") for table in TABLES]
    assert make_partitions(today=date(2031, 1, 15), ahead=2) == []
    assert make_partitions(today=date(2031, 2, 1), ahead=2) == [f"{table}_2031_04" for table in TABLES]


def test_after_the_task_todays_rows_stay_out_of_the_default(db: None) -> None:
    make_usage_partitions()
    assert home_of(use(utc_now())) == f"billing_usagerow_{utc_now():%Y_%m}"
    with owners_cursor() as cursor:
        cursor.execute("SELECT count(*) FROM billing_usagerow_default")
        assert cursor.fetchone()[0] == 0


@pytest.mark.django_db(transaction=True)
def test_of_four_at_once_one_makes_them(at_once: Callable[..., list[Any]]) -> None:
    outcomes = at_once(*[lambda: make_partitions(today=date(2032, 1, 15), ahead=1)] * 4)
    with owners_cursor() as cursor:
        for table in TABLES:
            cursor.execute(f"DROP TABLE {table}_2032_01, {table}_2032_02")  # outlives the test otherwise
    assert sorted(map(len, outcomes)) == [0, 0, 0, 4]
