"""Prices corrected after the fact: rows for the difference, once, for whom it concerns, and nothing edited."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing import dashboard, tasks
from billing.adjustments import _adjustments
from billing.forgetting import forget_usage
from billing.models import UsageRow
from billing.partitions import make_partitions
from billing.rollups import roll_up
from catalog.corrections import Correction, find_correction
from catalog.models import Price
from core.clock import utc_now
from core.ids import uuid7, uuid7_time
from core.money import cost_nano
from tenants.services import change_tenant
from tests.conftest import Party

CATALOG = "/api/v1/embedding-models/catalog"
TWO_CENTS = 20_000_000  # nano-dollars per million
NOW = utc_now().replace(microsecond=0)
YESTERDAY = (NOW - timedelta(days=1)).replace(hour=12)


@pytest.fixture(autouse=True)
def partitions(db: None) -> None:
    make_partitions(today=utc_now().date() - timedelta(days=80), ahead=4)


@pytest.fixture
def model(add_model: Any) -> Any:
    """A model that has cost $0.02 for a hundred days."""
    row = add_model("small")
    Price.objects.filter(model=row).update(
        effective_from=NOW - timedelta(days=100), created_at=NOW - timedelta(days=100)
    )
    return row


@pytest.fixture
def correct(operator: Any, model: Any, committed: Any) -> Iterator[Any]:
    """Posts a correction; the tasks that it queues run as soon as it is committed."""
    from config.celery import app

    def posted(usd: str, since: datetime, **words: Any) -> Correction:
        body = {"cost_per_million_tokens": usd, "source": "letter", "effective_from": since.isoformat()}
        with committed():
            answer = operator.post(
                f"{CATALOG}/{model.id}/prices", {**body, "correction": True, "reason": "misread", **words}
            )
        assert answer.status_code == 201, answer.json()
        found = find_correction(answer.json()["id"])
        assert found is not None
        return found

    app.conf.task_always_eager = True
    yield posted
    app.conf.task_always_eager = False


def use(party: Party, model: Any, at: datetime, *, tokens: int = 8, price: int = TWO_CENTS, **facts: Any) -> UUID:
    """An answered request of that moment, charged at `price`; returns its id."""
    row_id = uuid7(int(at.timestamp() * 1000))
    plain = {"model_id": model.id, "model": "small", "provider": "vendor", "key_id": party.key_id}
    UsageRow.objects.create(
        id=row_id,
        created_at=uuid7_time(row_id),
        tenant_id=party.id,
        tokens=tokens,
        held_tokens=tokens,
        cost_usd=Decimal(cost_nano(tokens, price)).scaleb(-9),
        **plain | facts,
    )
    return row_id


def adjustments(party: Party) -> list[tuple[date | None, int]]:
    """Day and nano-dollars of a tenant's adjustments."""
    rows = UsageRow.objects.filter(tenant_id=party.id, source="adjustment").order_by("corrects_day", "cost_usd")
    return [(row.corrects_day, int(row.cost_usd.scaleb(9))) for row in rows]


def total(party: Party) -> int:
    return sum(int(row.cost_usd.scaleb(9)) for row in UsageRow.objects.filter(tenant_id=party.id))


def test_the_difference_is_booked_and_nothing_is_edited(acme: Party, model: Any, correct: Any) -> None:
    request_id = use(acme, model, YESTERDAY)
    use(acme, model, YESTERDAY, tokens=1)
    before = UsageRow.objects.filter(id=request_id).values().get()
    correction = correct("0.03", YESTERDAY - timedelta(hours=1))
    assert UsageRow.objects.filter(id=request_id).values().get() == before
    row = UsageRow.objects.get(source="adjustment")
    assert (row.tokens, row.items, row.status, row.cost_usd) == (0, 0, "ok", Decimal("0.00000009"))
    assert (row.model, row.provider, row.key_id, row.reason) == ("small", "vendor", acme.key_id, "misread")
    assert row.corrects_day == YESTERDAY.date()
    assert abs(row.created_at - correction.posted_at) < timedelta(milliseconds=1)


def test_a_lower_price_gives_back(acme: Party, model: Any, correct: Any) -> None:
    use(acme, model, YESTERDAY)
    correct("0", YESTERDAY)
    assert adjustments(acme) == [(YESTERDAY.date(), -160)]
    assert total(acme) == 0


def test_each_row_is_rounded_as_it_was_when_it_was_charged(acme: Party, model: Any, correct: Any) -> None:
    for tokens in (1, 9, 11):  # 1, 1 and 2 nano-dollars at $0.0001
        use(acme, model, YESTERDAY, tokens=tokens)
    correct("0.0001", YESTERDAY)
    assert total(acme) == 4


def test_there_is_one_row_for_each_tenant_key_agent_and_day(
    acme: Party, globex: Party, model: Any, correct: Any
) -> None:
    before = YESTERDAY - timedelta(days=1)
    for at in (before, before, YESTERDAY):
        use(acme, model, at)
        use(globex, model, at)
    use(acme, model, YESTERDAY, agent_id="helper")
    use(acme, model, YESTERDAY, key_id=None)
    correct("0.03", before)
    assert adjustments(globex) == [(before.date(), 160), (YESTERDAY.date(), 80)]
    assert adjustments(acme) == [(before.date(), 160), *[(YESTERDAY.date(), 80)] * 3]


def test_only_what_was_charged_at_this_price_of_the_catalogues_is_adjusted(
    acme: Party, mallory: Party, model: Any, add_model: Any, correct: Any
) -> None:
    use(acme, model, YESTERDAY - timedelta(milliseconds=1))  # before the moment
    use(acme, model, NOW + timedelta(hours=1))  # after the correction
    use(acme, model, YESTERDAY, own_price=True)
    use(acme, model, YESTERDAY, paid_by="tenant")
    use(acme, model, YESTERDAY, status="provider_error", tokens=0)
    use(acme, model, YESTERDAY, source="replay", tokens=0)
    use(acme, add_model("other"), YESTERDAY)
    use(mallory, add_model("hers"), YESTERDAY)
    correct("0.03", YESTERDAY)
    assert (adjustments(acme), adjustments(mallory)) == ([], [])


def test_a_correction_ends_where_the_next_price_begins(acme: Party, model: Any, correct: Any) -> None:
    Price.objects.create(
        model=model, cost_per_million_tokens=Decimal("0.05"), effective_from=YESTERDAY, source="letter"
    )
    Price.objects.filter(effective_from=YESTERDAY).update(created_at=YESTERDAY)
    use(acme, model, YESTERDAY - timedelta(hours=1))
    use(acme, model, YESTERDAY, price=50_000_000)
    correct("0.03", YESTERDAY - timedelta(hours=2))
    assert total(acme) == 240 + 400


def test_a_correction_of_a_correction_adds_up(acme: Party, model: Any, correct: Any) -> None:
    early, late = YESTERDAY - timedelta(hours=3), YESTERDAY
    use(acme, model, early)
    use(acme, model, late)
    correct("0.03", early - timedelta(hours=1))
    correct("0.05", late)  # a part of the same time
    assert total(acme) == 240 + 400
    correct("0.02", early - timedelta(hours=1))  # up to where the second one begins
    assert total(acme) == 160 + 400
    correct("0.01", late)
    assert total(acme) == 160 + 80


def test_an_unpriced_models_first_price_may_count_from_the_past(acme: Party, model: Any, correct: Any) -> None:
    Price.objects.filter(model=model).delete()
    use(acme, model, YESTERDAY, price=0)
    correct("0.02", YESTERDAY)
    assert adjustments(acme) == [(YESTERDAY.date(), 160)]


def test_doing_it_again_adds_nothing(acme: Party, model: Any, correct: Any) -> None:
    for days in range(3):
        use(acme, model, YESTERDAY - timedelta(days=days))
    correction = correct("0.03", YESTERDAY - timedelta(days=5))
    once = adjustments(acme)
    tasks.adjust_for_correction(correction.price_id)
    tasks.adjust_for_corrections()
    assert adjustments(acme) == once
    assert len(once) == 3


def test_a_request_that_was_under_way_is_adjusted_once_it_is_booked(acme: Party, model: Any, correct: Any) -> None:
    use(acme, model, YESTERDAY)
    correction = correct("0.03", YESTERDAY - timedelta(hours=1))
    use(acme, model, YESTERDAY)
    for _ in range(2):
        tasks.adjust_for_correction(correction.price_id)
    assert adjustments(acme) == [(YESTERDAY.date(), 80)] * 2
    assert len({row.id for row in UsageRow.objects.filter(source="adjustment")}) == 2


def test_of_several_at_once_one_books(acme: Party, model: Any, correct: Any) -> None:
    use(acme, model, YESTERDAY)
    correction = correct("0.03", YESTERDAY)
    UsageRow.objects.filter(source="adjustment").delete()
    both = [list(_adjustments(correction, YESTERDAY.date())) for _ in range(2)]  # neither sees the other's
    for rows in both:
        UsageRow.objects.bulk_create(rows, ignore_conflicts=True)
    assert adjustments(acme) == [(YESTERDAY.date(), 80)]


def test_what_a_tenant_no_longer_keeps_is_not_adjusted_any_more(
    acme: Party, globex: Party, model: Any, correct: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor is what was adjusted of it taken back, however often and in whatever moment somebody looks again."""
    day = (NOW - timedelta(days=70)).replace(hour=12)
    for party in (acme, globex):
        use(party, model, day)
        use(party, model, day + timedelta(seconds=1))
    first = correct("0.03", day - timedelta(days=1))
    change_tenant(tenant_id=acme.id, settings={"retention_days": 62})
    roll_up(now=NOW)
    forget_usage(now=NOW, steps=1, rows_at_once=1)  # one of two
    assert UsageRow.objects.filter(tenant_id=acme.id, source="api").count() == 1
    tasks.adjust_for_correction(first.price_id)
    forget_usage(now=NOW, steps=10)
    tasks.adjust_for_correction(first.price_id)
    assert adjustments(acme) == adjustments(globex) == [(day.date(), 160)]
    correct("0.05", day - timedelta(days=1))
    assert (len(adjustments(acme)), len(adjustments(globex))) == (1, 2)
    assert "1 tenants keep no requests of some days" in caplog.text


def test_a_long_time_is_adjusted_in_several_tasks(
    acme: Party, model: Any, correct: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tasks, "_DAYS_PER_TASK", 2)
    caplog.set_level("INFO", "billing.adjustments")
    days = [YESTERDAY - timedelta(days=number) for number in (9, 4, 0)]
    for at in days:
        use(acme, model, at)
    correct("0.03", YESTERDAY - timedelta(days=20))
    assert [day for day, _ in adjustments(acme)] == [at.date() for at in days]
    assert sum("adjustments" in line for line in caplog.messages) == 3


def test_what_was_not_queued_is_found_in_the_night(
    acme: Party, model: Any, correct: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(acme, model, YESTERDAY)
    with monkeypatch.context() as patched:
        patched.setattr("billing.tasks.adjust_for_correction.apply_async", _broker_away)
        correct("0.03", YESTERDAY)
    assert adjustments(acme) == []
    tasks.adjust_for_corrections()
    assert adjustments(acme) == [(YESTERDAY.date(), 80)]


def _broker_away(*_: Any, **__: Any) -> None:
    from kombu.exceptions import OperationalError

    raise OperationalError("connection refused")


def test_a_price_that_is_no_correction_adjusts_nothing(acme: Party, model: Any, operator: Any) -> None:
    use(acme, model, YESTERDAY)
    price = operator.post(f"{CATALOG}/{model.id}/prices", {"cost_per_million_tokens": "0.05", "source": "s"}).json()
    tasks.adjust_for_correction(price["id"])
    tasks.adjust_for_correction(0)
    assert adjustments(acme) == []


def test_records_show_adjustments_to_whom_they_concern(acme: Party, mallory: Party, model: Any, correct: Any) -> None:
    use(acme, model, YESTERDAY)
    correct("0.01", YESTERDAY)
    (newest, _) = acme.api.get("/api/v1/usage/records").json()["results"]
    assert (newest["source"], newest["cost_usd"], newest["tokens"]) == ("adjustment", "-0.000000080", 0)
    assert (newest["corrects_day"], newest["reason"]) == (YESTERDAY.date().isoformat(), "misread")
    assert mallory.api.get("/api/v1/usage/records").json()["results"] == []


def test_figures_count_an_adjustments_money_and_no_request(acme: Party, model: Any, correct: Any) -> None:
    use(acme, model, NOW - timedelta(days=2))
    correct("0.03", NOW - timedelta(days=3))
    found = dashboard.tenant_figures(acme.id, now=utc_now())
    assert found is not None
    assert (found.today.requests, found.today.cost_usd) == (0, Decimal("0.00000008"))
    days = dict(found.days)
    assert (days[(NOW - timedelta(days=2)).date()].requests, sum(d.requests for d in days.values())) == (1, 1)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    tokens=st.lists(st.integers(1, 10**9), min_size=1, max_size=5),
    wrong=st.integers(0, 10**13),
    right=st.integers(0, 10**13),
)
def test_postgresql_rounds_as_the_gateway_does(
    acme: Party, model: Any, tokens: list[int], wrong: int, right: int
) -> None:
    UsageRow.objects.all().delete()
    for count in tokens:
        use(acme, model, datetime(2026, 11, 20, 12, tzinfo=UTC), tokens=count, price=0)
    day = datetime(2026, 11, 20, tzinfo=UTC)
    correction = Correction(1, model.id, "small", "vendor", day, day + timedelta(days=1), wrong, right, NOW, "r")
    booked = sum(int(row.cost_usd.scaleb(9)) for row in _adjustments(correction, day.date()))
    assert booked == sum(cost_nano(count, right) - cost_nano(count, wrong) for count in tokens)
