"""`/api/v1/budgets`: the limits of money, and what is left of them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from billing.partitions import make_partitions
from core.clock import utc_now
from tests.billing.counting import count
from tests.billing.test_usage_api import use
from tests.conftest import Party

BUDGETS, LIMITS = "/api/v1/budgets", "/api/v1/limits"
MONTH = {"scope": "tenant", "period": "month", "amount": "100"}


@pytest.fixture(autouse=True)
def partitions(db: None) -> None:
    make_partitions(today=utc_now().date() - timedelta(days=1), ahead=1)


def test_a_budget_is_a_limit_of_money(acme: Party) -> None:
    row = acme.api.post(BUDGETS, MONTH | {"thresholds": [80]}).json()
    (limit,) = acme.api.get(LIMITS).json()["results"]
    assert (limit["id"], limit["measure"], limit["thresholds"]) == (row["id"], "usd", [80])
    url = f"{BUDGETS}/{row['id']}"
    assert acme.api.patch(url, {"amount": "50.5"}).json()["amount"] == "50.5"
    assert acme.api.delete(url).status_code == 204
    assert acme.api.get(LIMITS).json()["results"] == []


def test_a_budget_tells_what_is_left(acme: Party) -> None:
    acme.api.post(BUDGETS, MONTH)
    use(acme, cost_usd=Decimal("1.5"))
    count(acme.id, utc_now())
    (row,) = acme.api.get(BUDGETS).json()["results"]
    assert (row["used"], row["held"], row["remaining"]) == ("1.5", "0", "98.5")
    assert row["period_start"] == f"{utc_now():%Y-%m}-01T00:00:00Z"


def test_limits_of_other_measures_are_no_budgets(acme: Party) -> None:
    row = acme.api.post(LIMITS, MONTH | {"measure": "tokens"}).json()
    url = f"{BUDGETS}/{row['id']}"
    assert acme.api.get(BUDGETS).json()["results"] == []
    answers = [acme.api.get(url), acme.api.patch(url, {"amount": "1"}), acme.api.delete(url)]
    assert {each.status_code for each in answers} == {404}
    assert acme.api.get(f"{LIMITS}/{row['id']}").status_code == 200


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"measure": "usd"}, "measure"),
        ({"amount": "-1"}, "amount"),
        ({"period": "year"}, "period"),
        ({"used": "1"}, "used"),
    ],
)
def test_bad_input_is_named(change: dict[str, Any], field: str, acme: Party) -> None:
    answer = acme.api.post(BUDGETS, MONTH | change)
    assert (answer.status_code, list(answer.json()["errors"])) == (400, [field]), answer.json()


def test_what_was_read_may_be_sent_back(acme: Party) -> None:
    row = acme.api.post(BUDGETS, MONTH).json()
    assert acme.api.patch(f"{BUDGETS}/{row['id']}", row).status_code == 200
    assert acme.api.patch(f"{BUDGETS}/{row['id']}", {"scope": "agent"}).status_code == 400


def test_budgets_are_filtered(acme: Party) -> None:
    acme.api.post(BUDGETS, MONTH)
    acme.api.post(BUDGETS, MONTH | {"scope": "agent", "scope_id": "crawler", "mode": "soft"})
    for query in ("scope=agent", "scope_id=crawler", "mode=soft"):
        assert [each["scope"] for each in acme.api.get(f"{BUDGETS}?{query}").json()["results"]] == ["agent"]
    assert acme.api.get(f"{BUDGETS}?measure=usd").json()["errors"].keys() == {"measure"}


def test_mallory_reaches_no_budget_of_acmes(acme: Party, mallory: Party) -> None:
    url = f"{BUDGETS}/{acme.api.post(BUDGETS, MONTH).json()['id']}"
    assert mallory.api.get(BUDGETS).json()["results"] == []
    refused = [mallory.api.get(url), mallory.api.patch(url, {"amount": "1"}), mallory.api.delete(url)]
    assert {each.status_code for each in refused} == {404}


def test_reading_and_writing_have_scopes_of_their_own(acme: Party, mint: Callable[..., str], as_key: Any) -> None:
    reader, writer = as_key(mint(acme.id, "usage:read")), as_key(mint(acme.id, "billing:write"))
    assert (reader.get(BUDGETS).status_code, reader.post(BUDGETS, MONTH).status_code) == (200, 403)
    assert (writer.get(BUDGETS).status_code, writer.post(BUDGETS, MONTH).status_code) == (403, 201)
