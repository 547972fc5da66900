"""The figures of the first page, against rows written by hand: the right days, the right tenant, and cheap."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.core.cache import cache
from django.db import connection

from billing import dashboard
from billing.dashboard import DAYS, Total, platform_failures, platform_figures, tenant_failures, tenant_figures
from billing.models import HourlyUsage, ProviderCall, UsageRow
from billing.rollups import roll_up
from core.ids import uuid7, uuid7_time

ACME, GLOBEX = UUID(int=101), UUID(int=102)
NOW = datetime(2026, 11, 24, 13, 30, tzinfo=UTC)


def id_at(at: datetime) -> UUID:
    return uuid7(round(at.timestamp() * 1000))


def used(at: datetime, tenant_id: UUID = ACME, *, tokens: int = 10, usd: str = "0.5", **facts: Any) -> UsageRow:
    """A usage row of that moment."""
    row_id = id_at(at)
    return UsageRow.objects.create(
        id=row_id,
        created_at=uuid7_time(row_id),
        tenant_id=tenant_id,
        tokens=tokens,
        held_tokens=tokens,
        cost_usd=Decimal(usd),
        **facts,
    )


def called(at: datetime, tenant_id: UUID = ACME, *, outcome: str = "timeout", **facts: Any) -> ProviderCall:
    """A provider call of that moment."""
    words = {"request_id": id_at(at), "model_id": uuid4(), "model": "small", "provider": "openai", "items": 1}
    return ProviderCall.objects.create(
        created_at=at, tenant_id=tenant_id, outcome=outcome, latency_ms=1.0, **words | facts
    )


@pytest.fixture(autouse=True)
def nothing_kept(db: None) -> None:
    cache.delete(f"dashboard:platform:{NOW:%Y-%m-%d}")


@pytest.fixture
def ledger() -> None:
    """Two tenants, on both sides of every boundary."""
    used(NOW, tokens=1, usd="0.000000001")
    used(datetime(2026, 11, 24, tzinfo=UTC), tokens=2)
    used(datetime(2026, 11, 23, 23, 59, 59, 999000, tzinfo=UTC), tokens=4)
    used(datetime(2026, 11, 1, tzinfo=UTC), tokens=8)
    used(datetime(2026, 10, 31, 23, 59, 59, 999000, tzinfo=UTC), tokens=16)  # last month, within 30 days
    used(datetime(2026, 10, 26, tzinfo=UTC), tokens=32)
    used(datetime(2026, 10, 25, 23, 59, 59, 999000, tzinfo=UTC), tokens=64)  # the 31st day
    used(NOW, GLOBEX, tokens=1000, usd="70")


def test_a_tenants_figures(ledger: None) -> None:
    found = tenant_figures(ACME, now=NOW)
    assert found is not None
    assert found.today == Total(2, 3, Decimal("0.500000001"))
    assert found.month == Total(4, 15, Decimal("1.500000001"))
    assert [day for day, _ in found.days] == [date(2026, 10, 26) + timedelta(days=n) for n in range(DAYS)]
    by_day = dict(found.days)
    assert by_day[date(2026, 11, 23)] == Total(1, 4, Decimal("0.5"))
    assert by_day[date(2026, 10, 31)].tokens == 16
    assert by_day[date(2026, 10, 26)].tokens == 32
    assert sum(total.tokens for total in by_day.values()) == 63


def test_a_month_of_31_days_is_whole() -> None:
    used(datetime(2026, 10, 1, tzinfo=UTC), tokens=5)
    found = tenant_figures(ACME, now=datetime(2026, 10, 31, 12, tzinfo=UTC))
    assert found is not None
    assert (found.month.tokens, sum(total.tokens for _, total in found.days)) == (5, 0)


def test_days_are_utcs_whatever_the_clocks_zone() -> None:
    used(datetime(2026, 11, 24, 0, 30, tzinfo=UTC), tokens=5)
    local = datetime.fromisoformat("2026-11-23T20:00:00-05:00")  # 01:00 on the 24th in UTC
    found = tenant_figures(ACME, now=local)
    assert found is not None
    assert found.today.tokens == 5


def test_the_platforms_figures_and_its_dearest_tenants(ledger: None) -> None:
    found = platform_figures(now=NOW)
    assert found is not None
    figures, top = found
    assert figures.today == Total(3, 1003, Decimal("70.500000001"))
    assert figures.month.tokens == 1015
    assert [(each.tenant_id, each.total.tokens) for each in top] == [(GLOBEX, 1000), (ACME, 15)]


def test_the_platforms_figures_are_kept_and_a_tenants_are_not(ledger: None, django_assert_num_queries: Any) -> None:
    platform_figures(now=NOW)
    with django_assert_num_queries(0):
        platform_figures(now=NOW)
    used(NOW, tokens=7)
    assert tenant_figures(ACME, now=NOW).today.requests == 3  # type: ignore[union-attr]


def test_nothing_is_counted_for_an_empty_tenant(ledger: None) -> None:
    found = tenant_figures(UUID(int=999), now=NOW)
    assert found is not None
    assert (found.today, found.month) == (Total(), Total())
    assert {total for _, total in found.days} == {Total()}
    assert tenant_failures(UUID(int=999), now=NOW) == []


def test_failures_of_requests_and_calls_the_newest_first() -> None:
    used(NOW - timedelta(hours=3), status="quota_exceeded", model="small", provider="openai")
    request = used(NOW - timedelta(hours=1), status="ok")
    called(NOW - timedelta(hours=1), request_id=request.id, outcome="timeout", detail="no answer")
    called(NOW - timedelta(hours=2), outcome="ok")
    used(NOW - timedelta(hours=25), status="provider_error")
    called(NOW - timedelta(hours=25), outcome="timeout")
    used(NOW, GLOBEX, status="provider_error")
    called(NOW, GLOBEX, outcome="refused")
    found = tenant_failures(ACME, now=NOW) or []
    assert [(each.is_call, each.reason, each.detail) for each in found] == [
        (True, "timeout", "no answer"),
        (False, "quota_exceeded", ""),
    ]
    assert found[0].request_id == request.id
    everybodys = platform_failures(now=NOW) or []
    assert [each.tenant_id for each in everybodys] == [GLOBEX, GLOBEX, ACME, ACME]


def test_ten_failures_are_enough() -> None:
    for minute in range(12):
        used(NOW - timedelta(minutes=minute), status="provider_error")
        called(NOW - timedelta(minutes=minute, seconds=30))
    found = tenant_failures(ACME, now=NOW) or []
    assert len(found) == 10
    assert [each.is_call for each in found] == [False, True] * 5


def test_what_takes_too_long_is_given_up(ledger: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboard, "_PATIENCE_MS", 50)

    def slow(*_: Any) -> Any:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(20)")

    monkeypatch.setattr(dashboard, "_figures", slow)
    assert tenant_figures(ACME, now=NOW) is None
    assert platform_figures(now=NOW) is None
    # The limit is over with the question, for the rest of the request's transaction.
    with connection.cursor() as cursor:
        cursor.execute("SHOW statement_timeout")
        assert cursor.fetchone() == ("0",)


def test_what_was_added_up_is_read_from_there_and_the_rest_from_the_ledger(ledger: None) -> None:
    before = tenant_figures(ACME, now=NOW), platform_figures(now=NOW)
    roll_up(now=NOW)
    cache.clear()
    assert (tenant_figures(ACME, now=NOW), platform_figures(now=NOW)) == before
    HourlyUsage.objects.filter(tenant_id=ACME).update(tokens=0)
    cache.clear()
    acme, everybody = tenant_figures(ACME, now=NOW), platform_figures(now=NOW)
    assert acme is not None
    assert everybody is not None
    # Of the last hour alone, which is not over for good.
    assert (acme.month.tokens, everybody[0].month.tokens) == (1, 1001)
    assert [(each.tenant_id, each.total.tokens) for each in everybody[1]] == [(GLOBEX, 1000), (ACME, 1)]
