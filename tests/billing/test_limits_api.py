"""`/api/v1/limits`: the rows behind quotas and budgets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from billing.models import Limit
from tests.conftest import Party

LIMITS = "/api/v1/limits"
BUDGET = {"scope": "tenant", "measure": "usd", "period": "month", "amount": "100"}
NOBODY = "00000000-0000-4000-8000-000000000000"


def test_a_limit_is_added_changed_and_forgotten(acme: Party) -> None:
    row = acme.api.post(LIMITS, BUDGET | {"thresholds": [80, 100]}).json()
    assert (row["amount"], row["mode"], row["scope_id"], row["thresholds"]) == ("100", "hard", "", [80, 100])
    url = f"{LIMITS}/{row['id']}"
    assert acme.api.patch(url, {"amount": "50.5", "mode": "soft"}).json()["amount"] == "50.5"
    assert acme.api.put(url, acme.api.get(url).json()).status_code == 200
    assert acme.api.delete(url).status_code == 204
    assert acme.api.get(url).status_code == 404


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"scope": "world"}, 400),
        ({"measure": "words"}, 400),
        ({"period": "year"}, 400),
        ({"amount": "-1"}, 400),
        ({"amount": "1.5", "measure": "tokens"}, 400),
        ({"mode": "maybe"}, 400),
        ({"thresholds": [0]}, 400),
        ({"thresholds": [101]}, 400),
        ({"scope_id": "x"}, 400),
        ({"scope": "key"}, 400),
        ({"scope": "key", "scope_id": "x"}, 400),
        ({"scope": "key", "scope_id": NOBODY}, 404),
        ({"scope": "model", "scope_id": NOBODY}, 404),
        ({"colour": "red"}, 400),
    ],
)
def test_bad_input_is_refused(change: dict[str, Any], status: int, acme: Party) -> None:
    answer = acme.api.post(LIMITS, BUDGET | change)
    assert (answer.status_code, answer["Content-Type"]) == (status, "application/problem+json"), answer.json()


def test_a_limit_is_there_once_and_stays_what_it_is(acme: Party) -> None:
    row = acme.api.post(LIMITS, BUDGET).json()
    assert acme.api.post(LIMITS, BUDGET).json()["code"] == "already_exists"
    assert acme.api.patch(f"{LIMITS}/{row['id']}", {"period": "day"}).status_code == 400


def test_an_id_is_kept_in_one_way_however_it_is_written(acme: Party) -> None:
    written = str(acme.key_id).upper().replace("-", "")
    row = acme.api.post(LIMITS, BUDGET | {"scope": "key", "scope_id": written}).json()
    assert row["scope_id"] == str(acme.key_id)
    again = acme.api.post(LIMITS, BUDGET | {"scope": "key", "scope_id": str(acme.key_id)}).json()
    assert again["code"] == "already_exists"


def test_pages_end_however_many_rows_are_alike_in_what_orders_them(acme: Party) -> None:
    same = {"scope": "agent", "measure": "usd", "period": "month", "amount": 10}
    Limit.objects.bulk_create(Limit(tenant_id=acme.id, scope_id=f"agent-{n}", **same) for n in range(1_250))
    url: str | None = f"{LIMITS}?ordering=amount&limit=200"
    seen: list[str] = []
    while url is not None and len(seen) <= 1_250:
        page = acme.api.get(url).json()
        seen += [row["id"] for row in page["results"]]
        url = page["next"]
    assert (len(seen), len(set(seen))) == (1_250, 1_250)


def test_those_of_a_model_are_the_same_rows(acme: Party, add_model: Callable[..., Any]) -> None:
    used = acme.api.post("/api/v1/tenant-models", {"model_id": str(add_model().id), "rate_limit_rpm": 60}).json()
    (row,) = acme.api.get(f"{LIMITS}?scope=model").json()["results"]
    assert (row["scope_id"], row["measure"], row["period"], row["amount"]) == (used["id"], "requests", "minute", "60")
    acme.api.patch(f"{LIMITS}/{row['id']}", {"amount": 30})
    assert acme.api.get(f"/api/v1/tenant-models/{used['id']}").json()["rate_limit_rpm"] == 30


def test_mallory_reaches_no_limit_of_acmes(acme: Party, mallory: Party) -> None:
    row = acme.api.post(LIMITS, BUDGET).json()
    url = f"{LIMITS}/{row['id']}"
    assert mallory.api.get(LIMITS).json()["results"] == []
    refused = [mallory.api.get(url), mallory.api.patch(url, {"amount": "1"}), mallory.api.delete(url)]
    assert {each.status_code for each in refused} == {404}
    stolen = {"scope": "key", "scope_id": str(acme.key_id), "measure": "tokens", "period": "day", "amount": "1"}
    assert mallory.api.post(LIMITS, stolen).status_code == 404


def test_reading_and_writing_have_scopes_of_their_own(acme: Party, mint: Callable[..., str], as_key: Any) -> None:
    reader, writer = as_key(mint(acme.id, "usage:read")), as_key(mint(acme.id, "billing:write"))
    assert (reader.get(LIMITS).status_code, reader.post(LIMITS, BUDGET).status_code) == (200, 403)
    assert (writer.get(LIMITS).status_code, writer.post(LIMITS, BUDGET).status_code) == (403, 201)


def test_the_list_costs_as_many_queries_for_fifty_as_for_one(acme: Party) -> None:
    def cost() -> int:
        with CaptureQueriesContext(connection) as queries:
            assert acme.api.get(LIMITS).status_code == 200
        return len(queries)

    acme.api.post(LIMITS, BUDGET)
    once = cost()
    for index in range(49):
        acme.api.post(LIMITS, BUDGET | {"scope": "agent", "scope_id": f"agent {index}"})
    assert cost() == once


def test_a_list_of_limits_is_added_whole(acme: Party) -> None:
    rows = [BUDGET, BUDGET | {"period": "day", "amount": "5"}, BUDGET | {"scope": "agent", "scope_id": "a"}]
    answer = acme.api.post(LIMITS, rows)
    assert answer.status_code == 201, answer.json()
    assert [(each["scope"], each["period"], each["amount"]) for each in answer.json()] == [
        ("tenant", "month", "100"),
        ("tenant", "day", "5"),
        ("agent", "month", "100"),
    ]


@pytest.mark.parametrize(
    ("wrong", "status", "field"),
    [
        ({"amount": "-1"}, 400, "[1].amount"),
        ({"colour": "red"}, 400, "[1].colour"),
        ({}, 409, "[1]"),
        ({"scope": "key", "scope_id": NOBODY}, 404, "[1]"),
        ({"measure": "tokens", "amount": "1.5"}, 400, "[1].amount"),
    ],
)
def test_of_a_list_with_a_wrong_row_none_is_added(wrong: dict[str, Any], status: int, field: str, acme: Party) -> None:
    answer = acme.api.post(LIMITS, [BUDGET, BUDGET | wrong])
    assert (answer.status_code, list(answer.json()["errors"])) == (status, [field]), answer.json()
    assert acme.api.get(LIMITS).json()["results"] == []


def test_a_list_is_neither_empty_nor_endless(acme: Party) -> None:
    assert acme.api.post(LIMITS, []).status_code == 400
    assert acme.api.post(LIMITS, [BUDGET] * 101).status_code == 400
    assert acme.api.post(LIMITS, ["a"]).status_code == 400


def test_limits_are_filtered(acme: Party) -> None:
    acme.api.post(LIMITS, [BUDGET, BUDGET | {"scope": "agent", "scope_id": "a", "mode": "soft", "period": "day"}])
    for query in ("scope=agent", "scope_id=a", "mode=soft", "period=day"):
        assert [each["scope"] for each in acme.api.get(f"{LIMITS}?{query}").json()["results"]] == ["agent"]
    assert acme.api.get(f"{LIMITS}?mode=firm").json()["errors"].keys() == {"mode"}


@pytest.mark.parametrize("path", [LIMITS, "/api/v1/budgets"])
def test_a_list_is_ordered_as_asked_over_all_its_pages(path: str, acme: Party) -> None:
    for amount, period in (("20", "day"), ("100", "month"), ("3", "minute")):
        acme.api.post(LIMITS, BUDGET | {"amount": amount, "period": period})

    def amounts(order: str) -> list[str]:
        first = acme.api.get(path, {"ordering": order, "limit": 2}).json()
        return [each["amount"] for each in first["results"] + acme.api.get(first["next"]).json()["results"]]

    assert (amounts("amount"), amounts("-amount")) == (["3", "20", "100"], ["100", "20", "3"])
    assert (amounts("created_at"), amounts("-created_at")) == (["20", "100", "3"], ["3", "100", "20"])
    refused = acme.api.get(path, {"ordering": "colour"})
    assert (refused.status_code, list(refused.json()["errors"])) == (400, ["ordering"])


@pytest.mark.parametrize(
    "path",
    [
        "usage/records",
        "tenant-models",
        "agents",
        "alerts",
        "alert-channels",
        "audit-events",
        "invitations",
        "members",
        "provider-credentials",
    ],
)
def test_other_lists_know_their_orders_as_well(path: str, acme: Party) -> None:
    orders = ("created_at", "-created_at", "tokens")
    answers = [acme.api.get(f"/api/v1/{path}", {"ordering": order}) for order in orders]
    assert [each.status_code for each in answers] == [200, 200, 400]
