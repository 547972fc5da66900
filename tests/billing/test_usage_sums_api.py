"""`/api/v1/usage` and `/api/v1/tenant-models/usage`: what was used, added up as asked."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
import time_machine

from billing.partitions import make_partitions
from billing.rollups import mark_late, roll_up
from core.clock import utc_now
from tests.billing.test_usage_api import use
from tests.conftest import Party

USAGE = "/api/v1/usage"
OF_MODELS = "/api/v1/tenant-models/usage"
NOW = "2030-06-12T10:20:00Z"  # a Wednesday


@pytest.fixture(autouse=True)
def moment() -> Any:
    with time_machine.travel(NOW, tick=False):
        yield


@pytest.fixture(autouse=True)
def partitions(moment: Any, db: None) -> None:
    make_partitions(today=utc_now().date(), ahead=0)


def hours_ago(hours: float) -> Any:
    return utc_now() - timedelta(hours=hours)


@pytest.fixture
def busy(acme: Party) -> None:
    """Three requests of acme's, in hours added up already and not yet."""
    use(acme, hours_ago(3), model="large", agent_id="crawler", cost_usd=Decimal(1), key_id=acme.key_id)
    use(acme, hours_ago(2.9), task_type="search", items=2, cached=1, key_id=uuid4())
    use(acme, hours_ago(0.1), model="", provider="", status="quota_exceeded", tokens=0)
    roll_up(now=utc_now())


def book(party: Party, hours: float, **facts: Any) -> None:
    """A request so many hours ago, added up if its hour is over."""
    use(party, hours_ago(hours), **facts)
    mark_late([(party.id, hours_ago(hours))])
    roll_up(now=utc_now())


def test_usage_comes_in_steps_with_its_total(acme: Party, busy: None) -> None:
    answer = acme.api.get(USAGE).json()
    assert (answer["granularity"], answer["group_by"]) == ("hour", None)
    assert (answer["from"], answer["to"]) == ("2030-06-11T10:20:00Z", NOW)
    assert [(each["start"], each["requests"]) for each in answer["results"]] == [
        ("2030-06-12T07:00:00Z", 2),
        ("2030-06-12T10:00:00Z", 1),
    ]
    assert answer["total"] == {
        "requests": 3,
        "failed": 1,
        "items": 2,
        "cached": 1,
        "tokens": 16,
        "cost_usd": "1.000000000",
    }


@pytest.mark.parametrize(
    ("group", "names", "found"),
    [
        ("model", ("model", "provider"), [("large", "vendor"), ("small", "vendor"), ("", "")]),
        ("provider", ("provider",), [("vendor",), ("",)]),
        ("agent", ("agent_id",), [("crawler",), ("",)]),
        ("task", ("task_type",), [("",), ("search",)]),
        ("key", ("key_name",), [("all",), (None,), (None,)]),
    ],
)
def test_usage_is_grouped(group: str, names: tuple[str, ...], found: Any, acme: Party, busy: None) -> None:
    results = acme.api.get(USAGE, {"group_by": group, "granularity": "day"}).json()["results"]
    assert [tuple(each[name] for name in names) for each in results] == found


def test_usage_is_of_the_time_and_of_whom_was_asked(acme: Party, busy: None) -> None:
    def requests(**query: str) -> int:
        answer = acme.api.get(USAGE, query)
        assert answer.status_code == 200, answer.json()
        return int(answer.json()["total"]["requests"])

    assert requests(**{"from": "2030-06-12T07:21:00Z"}) == 2
    assert requests(to="2030-06-12T07:21:00Z") == 1
    assert requests(agent_id="crawler") == 1
    assert requests(key_id=str(acme.key_id)) == 1
    assert requests(model_id=str(uuid4())) == 0
    assert requests(granularity="minute") == 3


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("granularity=week", "granularity"),
        ("group_by=colour", "group_by"),
        ("from=yesterday", "from"),
        ("from=2031-01-01T00:00:00Z", "from"),
        ("granularity=minute&from=2030-06-11T00:00:00Z", "from"),
        ("granularity=hour&from=2029-06-11T00:00:00Z", "from"),
        ("form=2030-06-11T00:00:00Z", "form"),
        ("key_id=7", "key_id"),
    ],
)
def test_a_question_that_cannot_be_meant_is_400(query: str, field: str, acme: Party) -> None:
    answer = acme.api.get(f"{USAGE}?{query}")
    assert (answer.status_code, list(answer.json()["errors"])) == (400, [field]), answer.json()


def test_more_results_than_a_page_should_hold_are_refused(
    acme: Party, busy: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("billing.api.usage_sums._MOST_ROWS", 1)
    answer = acme.api.get(USAGE)
    assert (answer.status_code, list(answer.json()["errors"])) == (400, ["from"])


def test_the_period_under_way_is_told_by_model_and_agent(acme: Party, busy: None) -> None:
    book(acme, 36, cost_usd=Decimal(3))
    answer = acme.api.get(OF_MODELS).json()
    shown = ("period", "start_time", "end_time", "total_tokens", "total_requests", "total_cost")
    assert tuple(answer[name] for name in shown) == ("day", "2030-06-12T00:00:00Z", NOW, 16, 3, "1.000000000")
    assert [each["model"] for each in answer["by_model"]] == ["large", "small", ""]
    assert [(each["agent_id"], each["cost_usd"]) for each in answer["by_agent"]] == [
        ("crawler", "1.000000000"),
        ("", "0.000000000"),
    ]


@pytest.mark.parametrize(
    ("period", "start", "requests"),
    [
        ("hour", "2030-06-12T10", 1),
        ("day", "2030-06-12T00", 3),
        ("week", "2030-06-10T00", 4),
        ("month", "2030-06-01T00", 5),
    ],
)
def test_periods_are_the_calendars(period: str, start: str, requests: int, acme: Party, busy: None) -> None:
    book(acme, 36)
    book(acme, 24 * 5)
    answer = acme.api.get(OF_MODELS, {"period": period}).json()
    assert (answer["start_time"], answer["total_requests"]) == (f"{start}:00:00Z", requests)


def test_the_period_of_one_model(acme: Party, busy: None, add_model: Callable[..., Any]) -> None:
    model = add_model()
    use(acme, hours_ago(0.1), model_id=model.id, tokens=5)
    assert acme.api.get(OF_MODELS, {"model_id": str(model.id)}).json()["total_tokens"] == 5
    assert acme.api.get(OF_MODELS, {"model_id": str(uuid4())}).status_code == 404
    assert acme.api.get(OF_MODELS, {"period": "year"}).json()["errors"].keys() == {"period"}


def test_who_used_nothing_is_told_so(acme: Party) -> None:
    answer = acme.api.get(USAGE, {"group_by": "model"}).json()
    assert (answer["results"], answer["total"]["cost_usd"]) == ([], "0.000000000")
    assert acme.api.get(OF_MODELS).json()["by_model"] == []


def test_mallory_sees_nothing_of_acmes(acme: Party, mallory: Party, busy: None) -> None:
    book(mallory, 2, tokens=1)
    for url in (USAGE, f"{USAGE}?group_by=key", f"{USAGE}?granularity=minute", f"{USAGE}?agent_id=crawler"):
        assert mallory.api.get(url).json()["total"]["tokens"] <= 1
    assert mallory.api.get(USAGE, {"key_id": str(acme.key_id)}).json()["results"] == []
    assert mallory.api.get(OF_MODELS).json()["total_requests"] == 1


def test_a_key_of_acmes_that_somebody_used_has_no_name_for_mallory(acme: Party, mallory: Party) -> None:
    use(mallory, hours_ago(2), key_id=acme.key_id)
    (row,) = mallory.api.get(USAGE, {"group_by": "key"}).json()["results"]
    assert (row["key_id"], row["key_name"]) == (str(acme.key_id), None)


def test_reading_needs_its_scope_and_a_tenant(acme: Party, operator: Any, mint: Any, as_key: Any) -> None:
    for url in (USAGE, OF_MODELS):
        assert as_key(mint(acme.id, "usage:read")).get(url).status_code == 200
        assert as_key(mint(acme.id, "models:read")).get(url).status_code == 403
        assert "mint a key" in operator.get(url).json()["detail"]
