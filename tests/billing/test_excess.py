"""What providers count beyond the hold is told to operators, once for each model and day, with the sum."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from alerts.models import Alert
from billing import excess
from tests.admin.people import person
from tests.billing.test_dashboard import used
from tests.conftest import Party

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
DOUBLE = {"provider": "vendor", "model": "small", "provider_tokens": 20}


def test_a_provider_that_counts_double_is_one_alert_a_day_with_the_sum(acme: Party, globex: Party) -> None:
    person("op@quiver.test", is_operator=True)
    used(NOW, acme.id, tokens=10, **DOUBLE)
    excess.check(now=NOW)
    used(NOW, globex.id, tokens=5, **DOUBLE)
    used(NOW, acme.id, tokens=20, **DOUBLE)  # counted as held
    used(NOW, acme.id, tokens=10, provider="vendor", model="small")  # no count given
    used(NOW, acme.id, tokens=10, **(DOUBLE | {"model": "large"}))
    excess.check(now=NOW)
    excess.check(now=NOW)
    found = {row.subject_key: row for row in Alert.objects.all()}
    assert found.keys() == {"vendor/small", "vendor/large"}
    small = found["vendor/small"]
    assert (small.tenant_id, small.kind, small.state) == (None, "provider_excess", "open")
    assert (small.detail["excess_tokens"], small.detail["requests"]) == (25, 2)
    assert small.deliveries.count() == 1


def test_the_next_day_is_another_alert_and_ends_the_first(acme: Party) -> None:
    last_moment = NOW.replace(hour=23, minute=59, second=59)
    used(last_moment, acme.id, tokens=10, **DOUBLE)
    excess.check(now=last_moment + timedelta(minutes=5))  # tomorrow, and still in time
    assert [row.detail["day"] for row in Alert.objects.all()] == ["2026-11-30"]
    tomorrow = last_moment + timedelta(hours=1)
    used(tomorrow, acme.id, tokens=10, **DOUBLE)
    excess.check(now=tomorrow)
    rows = Alert.objects.order_by("period_start")
    assert [(row.detail["day"], row.state) for row in rows] == [("2026-11-30", "resolved"), ("2026-12-01", "open")]


def test_a_provider_that_counts_as_held_is_no_news(acme: Party) -> None:
    used(NOW, acme.id, tokens=20, **DOUBLE)
    used(NOW, acme.id, tokens=10, **DOUBLE, paid_by="tenant")  # its own bill
    excess.check(now=NOW)
    assert Alert.objects.count() == 0
