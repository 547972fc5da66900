"""Single requests that a tenant does not keep are deleted, and whatever was added up of them stays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from audit.models import AuditEvent
from billing import counters, tasks
from billing.forgetting import forget_usage
from billing.models import ProviderCall, UsageRow
from billing.partitions import make_partitions
from billing.rollups import mark_late, roll_up
from billing.services import add_limit
from billing.usage import sum_usage
from billing.usage_parts import floor_hour
from core.clock import utc_now
from core.ids import uuid7, uuid7_time
from tenants.services import change_tenant
from tests.conftest import Party, make_party

NOW = utc_now()
COST = Decimal("0.00000016")
OLD, YOUNG = timedelta(days=64), timedelta(days=60)  # where 62 days are kept


@pytest.fixture(autouse=True)
def months(db: None) -> None:
    make_partitions(today=(NOW - timedelta(days=200)).date(), ahead=8)


@pytest.fixture
def forgetful(acme: Party) -> Party:
    """Keeps its requests for the least time."""
    keep(acme)
    return acme


def keep(party: Party, days: int = 62) -> None:
    change_tenant(tenant_id=party.id, settings={"retention_days": days})


def use(party: Party, ago: timedelta, **facts: Any) -> UsageRow:
    """A request with one call to a provider."""
    row_id = uuid7(int((NOW - ago).timestamp() * 1000))
    plain = {
        "model": "small",
        "provider": "vendor",
        "tokens": 8,
        "held_tokens": 8,
        "items": 1,
        "cost_usd": COST,
    }
    row = UsageRow.objects.create(id=row_id, created_at=uuid7_time(row_id), tenant_id=party.id, **(plain | facts))
    called = {"model_id": UUID(int=1), "model": "small", "provider": "vendor", "items": 1, "latency_ms": 1.0}
    call_id = uuid7(int((NOW - ago + timedelta(seconds=1)).timestamp() * 1000))
    ProviderCall.objects.create(
        id=call_id, created_at=uuid7_time(call_id), tenant_id=party.id, request_id=row_id, outcome="ok", **called
    )
    return row


def kept(party: Party) -> tuple[int, int]:
    """How many requests and calls of a tenant there are."""
    own = {"tenant_id": party.id}
    return UsageRow.objects.filter(**own).count(), ProviderCall.objects.filter(**own).count()


def shown(party: Party) -> list[Any]:
    """What the sums say, in every way that answers from whole hours."""
    since, until = floor_hour(NOW - timedelta(days=200)), floor_hour(NOW) - timedelta(hours=1)
    ways: list[dict[str, Any]] = [{}, {"by": "model"}, {"by": "agent", "step": "hour"}, {"by": "key", "step": "day"}]
    return [sum_usage(party.id, since=since, until=until, **way) for way in ways]


def told(party: Party) -> list[dict[str, Any]]:
    return list(AuditEvent.objects.filter(tenant_id=party.id, action="usage.forgotten").values_list("after", flat=True))


def test_old_requests_go_and_sums_stay(forgetful: Party, globex: Party, mallory: Party) -> None:
    keep(mallory, 365)
    for party in (forgetful, globex, mallory):
        for ago in (OLD, OLD + timedelta(days=100), YOUNG, timedelta(hours=3)):
            use(party, ago, agent_id="a")
    roll_up(now=NOW)
    before = [shown(party) for party in (forgetful, globex, mallory)]

    assert forget_usage(now=NOW, steps=10) is False
    assert [kept(party) for party in (forgetful, globex, mallory)] == [(2, 2), (4, 4), (4, 4)]
    assert [shown(party) for party in (forgetful, globex, mallory)] == before
    ((row,),) = [told(forgetful)]
    assert (row["requests"], row["provider_calls"]) == (2, 2)
    assert (told(globex), told(mallory)) == ([], [])


def test_a_second_run_finds_nothing_and_tells_nothing(forgetful: Party) -> None:
    use(forgetful, OLD)
    roll_up(now=NOW)
    for _ in range(2):
        forget_usage(now=NOW, steps=10)
    assert (kept(forgetful), len(told(forgetful))) == ((0, 0), 1)


def test_corrections_and_what_was_never_resolved_stay(forgetful: Party) -> None:
    corrected = {"tokens": 0, "source": "adjustment", "corrects_day": (NOW - OLD).date(), "reason": "misread"}
    stays = {use(forgetful, OLD, **corrected).id, use(forgetful, OLD, tokens=0, status="unresolved").id}
    use(forgetful, OLD)
    roll_up(now=NOW)
    forget_usage(now=NOW, steps=10)
    assert set(UsageRow.objects.filter(tenant_id=forgetful.id).values_list("id", flat=True)) == stays


def test_nothing_goes_before_it_is_added_up(forgetful: Party) -> None:
    use(forgetful, OLD)
    forget_usage(now=NOW, steps=10)
    assert kept(forgetful) == (1, 1)
    roll_up(now=NOW - OLD - timedelta(days=1))
    forget_usage(now=NOW, steps=10)
    assert kept(forgetful) == (1, 1)


def test_an_hour_that_is_to_be_added_up_anew_is_waited_for(forgetful: Party) -> None:
    late = use(forgetful, OLD)
    roll_up(now=NOW)
    mark_late([(forgetful.id, late.created_at)])
    forget_usage(now=NOW, steps=10)
    assert kept(forgetful) == (1, 1)
    roll_up(now=NOW)
    forget_usage(now=NOW, steps=10)
    assert kept(forgetful) == (0, 0)


def test_what_is_late_for_hours_that_are_gone_changes_no_sum(forgetful: Party) -> None:
    gone = use(forgetful, OLD)
    roll_up(now=NOW)
    before = shown(forgetful)
    forget_usage(now=NOW, steps=10)
    mark_late([(forgetful.id, gone.created_at)])
    assert roll_up(now=NOW) == 1
    assert shown(forgetful) == before


def test_limits_still_say_what_the_ledger_says(forgetful: Party) -> None:
    for ago in (OLD, YOUNG, timedelta(0)):
        use(forgetful, ago)
    for period in ("day", "month"):
        add_limit(
            tenant_id=forgetful.id, scope="tenant", scope_id="", measure="tokens", period=period, amount=Decimal(100)
        )
    roll_up(now=NOW)
    forget_usage(now=NOW, steps=10)
    assert kept(forgetful) == (2, 2)
    assert counters.differences(forgetful.id) == {}


@pytest.fixture
def eager() -> Iterator[None]:
    from config.celery import app

    app.conf.task_always_eager = True
    yield
    app.conf.task_always_eager = False


def test_a_run_that_was_stopped_is_gone_on_with(forgetful: Party, eager: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over months, two requests at a time."""
    for number in range(9):
        use(forgetful, OLD + timedelta(days=number * 9))
    roll_up(now=NOW)
    before = shown(forgetful)
    assert forget_usage(now=NOW, steps=1, rows_at_once=2) is True
    assert kept(forgetful)[0] in (7, 8)  # less than two where a month ends between them
    assert shown(forgetful) == before
    monkeypatch.setattr(tasks, "_STEPS_PER_TASK", 1)
    tasks.forget_usage()
    assert kept(forgetful) == (0, 0)
    assert shown(forgetful) == before
    assert sum(row["requests"] for row in told(forgetful)) == 9


@pytest.mark.django_db(transaction=True)
def test_of_several_at_once_each_deletes_others(at_once: Callable[..., list[Any]]) -> None:
    make_partitions(today=(NOW - timedelta(days=200)).date(), ahead=8)
    party, other = make_party("forgetful"), make_party("other")
    keep(party)
    for number in range(60):
        use(party, OLD + timedelta(days=number))
        use(other, OLD + timedelta(days=number))
    roll_up(now=NOW)
    before = shown(party)
    outcomes = at_once(*[lambda: forget_usage(now=NOW, steps=100, rows_at_once=3)] * 4)
    assert outcomes == [False] * 4
    forget_usage(now=NOW, steps=100)  # who met rows that were held leaves them to the others
    assert (kept(party), kept(other)) == ((0, 0), (60, 60))
    assert shown(party) == before
    assert sum(row["requests"] for row in told(party)) == 60


def test_lists_end_where_requests_are_kept_from(forgetful: Party) -> None:
    use(forgetful, OLD)
    young = use(forgetful, YOUNG)
    roll_up(now=NOW)
    since, until = (NOW - timedelta(days=120)).date(), (NOW - timedelta(days=50)).date()
    sums = f"/api/v1/usage?from={since}T00:00:00Z&to={until}T00:00:00Z&granularity=day"
    before = forgetful.api.get(sums).json()
    forget_usage(now=NOW, steps=10)
    rows = forgetful.api.get("/api/v1/usage/records").json()["results"]
    assert [each["request_id"] for each in rows] == [str(young.id)]
    assert forgetful.api.get(sums).json() == before
    assert [each["tokens"] for each in before["results"]] == [8, 8]
