"""`/api/v1/embedding-models/select` and `/api/v1/agents/{agent_id}/models`: what would answer, and why."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from billing.models import UsageRow
from catalog.loading import load_catalog
from core.clock import unix_ms
from core.ids import uuid7, uuid7_time
from embeddings.breaker import Outcome
from embeddings.routes import route_key
from tests.billing.test_query_counts import MOST, spoken
from tests.conftest import Party, make_party
from tests.embeddings.boards import Clock, processes

SELECT = "/api/v1/embedding-models/select"
AGENTS = "/api/v1/agents"
MODELS = f"{AGENTS}/crawler/models"


@pytest.fixture
def acme(db: None, add_model: Callable[..., Any]) -> Party:
    """With the models `small`, its default, and `large`, which is dearer and cannot be cut."""
    party = make_party("acme")
    for name, price in (("small", "0.02"), ("large", "0.13")):
        row = add_model(
            name, identifier=f"vendor.{name}", space=f"space-of-{name}", cost_per_million_tokens=Decimal(price)
        )
        party.api.post("/api/v1/tenant-models", {"model_id": str(row.id)})
    return party


@pytest.fixture
def mallory(db: None) -> Party:
    return make_party("mallory")


def add_crawler(party: Party, **preferences: Any) -> None:
    answer = party.api.post(AGENTS, {"agent_id": "crawler", "preferences": preferences})
    assert answer.status_code == 201, answer.json()


def call(**answered_ms: float) -> None:
    """Each model's route answers once, in that time, and all processes may know."""
    models = load_catalog().deployments.values()
    routes = {each.name: route_key(each.endpoints[0], each.identifier) for each in models}

    async def report() -> None:
        async with processes(os.environ["REDIS_URL"], 1, Clock(unix_ms())) as (process,):
            for name, ms in answered_ms.items():
                process.board.report(routes[name], Outcome.OK, ms)
            await process.board.poll()
            await process.board.flush()

    asyncio.run(report())


def set_budget(party: Party, amount: str | None) -> None:
    answer = party.api.put(f"{AGENTS}/crawler/preferences", {"monthly_budget_usd": amount} if amount else {})
    assert answer.status_code == 200, answer.json()


def names(answer: Any) -> list[str]:
    assert answer.status_code == 200, answer.json()
    return [each["model"] for each in answer.json()["candidates"]]


def use(party: Party, model_id: str, **facts: Any) -> None:
    request_id = uuid7()
    plain = {"model": "small", "provider": "vendor", "tokens": 60, "held_tokens": 60, "model_id": model_id, "items": 1}
    UsageRow.objects.create(id=request_id, created_at=uuid7_time(request_id), tenant_id=party.id, **(plain | facts))


def test_the_chosen_model_is_told_in_full(acme: Party) -> None:
    answer = acme.api.post(SELECT, {"token_estimate": 1000}).json()
    metadata = answer.pop("metadata")
    assert metadata.pop("selected_at").endswith("Z")
    assert metadata == {"is_default": True, "priority": 0, "reason": "the tenant's default"}
    (row,) = [each for each in acme.api.get("/api/v1/tenant-models").json()["results"] if each["is_default"]]
    assert answer == {
        "model_id": row["model_id"],
        "model": "small",
        "model_identifier": "vendor.small",
        "provider": "vendor",
        "space": "space-of-small",
        "dimensions": 8,
        "cost_per_million_tokens": "0.020000000",
        "estimated_cost": "0.000020000",
        "is_within_quota": True,
        "quota_remaining": None,
        "candidates": [
            {
                "model": name,
                "provider": "vendor",
                "space": f"space-of-{name}",
                "dimensions": 8,
                "estimated_cost": cost,
                "reasons": [why],
            }
            for name, cost, why in (
                ("small", "0.000020000", "the tenant's default"),
                ("large", "0.000130000", "by priority"),
            )
        ],
        "dropped": [],
    }


def test_a_model_may_be_named(acme: Party) -> None:
    assert names(acme.api.post(SELECT, {"requested_model": "vendor/large"})) == ["large"]
    assert names(acme.api.post(SELECT, {"requested_model": "auto"})) == ["small", "large"]
    answer = acme.api.post(SELECT, {"requested_model": "nobodys"})
    assert (answer.status_code, answer.json()["code"]) == (404, "model_not_configured")
    assert (list(answer.json()["errors"]), answer.json()["suggested_models"]) == (
        ["requested_model"],
        ["small", "large"],
    )


def test_where_none_would_answer_the_error_is_that_of_the_request(acme: Party, mallory: Party) -> None:
    answer = acme.api.post(SELECT, {"required_dimensions": 4})
    assert (answer.status_code, answer.json()["code"]) == (400, "dimensions_not_supported")
    assert list(answer.json()["errors"]) == ["required_dimensions"]
    answer = mallory.api.post(SELECT, {})
    assert (answer.status_code, answer.json()["code"]) == (503, "no_model_available")


def test_what_is_left_comes_from_the_ledger(acme: Party) -> None:
    small, large = acme.api.get("/api/v1/tenant-models").json()["results"]
    use(acme, small["model_id"])
    use(acme, large["model_id"], model="large")
    for scope, scope_id, amount in (("tenant", "", "1000"), ("model", small["id"], "100")):
        limit = {"scope": scope, "scope_id": scope_id, "measure": "tokens", "period": "day", "amount": amount}
        assert acme.api.post("/api/v1/limits", limit).status_code == 201
    answer = acme.api.post(SELECT, {"token_estimate": 40}).json()
    assert (answer["quota_remaining"], answer["is_within_quota"]) == (40, True)
    answer = acme.api.post(SELECT, {"token_estimate": 41}).json()
    assert (answer["quota_remaining"], answer["is_within_quota"]) == (40, False)
    answer = acme.api.post(SELECT, {"requested_model": "large"}).json()
    assert (answer["quota_remaining"], answer["is_within_quota"]) == (880, True)


def test_limits_of_the_key_count_for_that_key_alone(acme: Party, mint: Callable[..., str], as_key: Any) -> None:
    small, _ = acme.api.get("/api/v1/tenant-models").json()["results"]
    limit = {"scope": "key", "scope_id": str(acme.key_id), "measure": "requests", "period": "month", "amount": "1"}
    assert acme.api.post(SELECT, {}).json()["is_within_quota"] is True
    use(acme, small["model_id"], key_id=acme.key_id)
    assert acme.api.post("/api/v1/limits", limit).status_code == 201
    assert acme.api.post(SELECT, {}).json()["is_within_quota"] is False
    assert as_key(mint(acme.id, "models:read")).post(SELECT, {}).json()["is_within_quota"] is True


def test_an_agents_own_budget_counts(acme: Party) -> None:
    (small, _) = acme.api.get("/api/v1/tenant-models").json()["results"]
    body = {"agent_id": "crawler", "token_estimate": 1000}
    add_crawler(acme, monthly_budget_usd="0.00002")
    assert acme.api.post(SELECT, body).json()["is_within_quota"] is True
    use(acme, small["model_id"], agent_id="crawler", cost_usd=Decimal("0.000000001"))
    set_budget(acme, None)
    set_budget(acme, "0.00002")  # what was used counts from the beginning of the month
    assert acme.api.post(SELECT, body).json()["is_within_quota"] is False
    assert acme.api.post(SELECT, {"token_estimate": 1000}).json()["is_within_quota"] is True


def test_an_agent_gets_what_it_prefers_and_is_told_why(acme: Party) -> None:
    add_crawler(acme, primary="small", task_models={"search": "large"}, max_cost_per_request_usd="0.0001")
    shown = acme.api.get(f"{MODELS}?task_type=search").json()
    assert (shown["agent_id"], shown["task_type"], shown["dropped"]) == ("crawler", "search", [])
    assert [(each["model"], each["reasons"]) for each in shown["candidates"]] == [
        ("large", ["the agent's model for task 'search'"]),
        ("small", ["the agent's primary"]),
    ]
    assert names(acme.api.get(MODELS)) == ["small", "large"]
    answer = acme.api.post(SELECT, {"agent_id": "crawler", "task_type": "search", "token_estimate": 1000}).json()
    assert (answer["model"], answer["metadata"]["reason"]) == ("small", "the agent's primary")
    assert [each["model"] for each in answer["dropped"]] == ["large"]


def test_an_agent_that_is_fixed_sees_why_others_are_not_for_it(acme: Party) -> None:
    add_crawler(acme, strategy="fixed", primary="large")
    shown = acme.api.get(MODELS).json()
    assert [each["model"] for each in shown["candidates"]] == ["large"]
    assert shown["dropped"] == [
        {
            "model": "small",
            "provider": "vendor",
            "reason": "small at vendor is none of the models that the agent is fixed to.",
        }
    ]
    answer = acme.api.post(SELECT, {"agent_id": "crawler", "requested_model": "small"})
    assert (answer.status_code, answer.json()["code"]) == (403, "key_not_permitted")


def test_a_model_that_is_taken_out_of_use_is_told(acme: Party) -> None:
    add_crawler(acme, primary="large")
    (large,) = [e for e in acme.api.get("/api/v1/tenant-models").json()["results"] if e["model_name"] == "large"]
    acme.api.delete(f"/api/v1/tenant-models/{large['id']}")
    shown = acme.api.get(MODELS).json()
    assert [each["model"] for each in shown["candidates"]] == ["small"]
    assert shown["dropped"][0]["provider"] is None
    assert shown["dropped"][0]["reason"].startswith("large is the agent's primary, but")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"model": "small"}, "model"),
        ({"requested_model": ""}, "requested_model"),
        ({"token_estimate": 0}, "token_estimate"),
        ({"required_dimensions": "wide"}, "required_dimensions"),
        ({"optimize": "luck"}, "optimize"),
        ({"agent_id": "crawler", "required_dimensions": 4}, "required_dimensions"),
    ],
)
def test_bad_input_is_400_by_field(body: Any, field: str, acme: Party) -> None:
    add_crawler(acme, required_dimensions=8)
    answer = acme.api.post(SELECT, body)
    assert (answer.status_code, list(answer.json()["errors"])) == (400, [field])


@pytest.mark.parametrize("query", ["task=search", f"task_type={'x' * 101}", "task_type=%00"])
def test_a_query_that_cannot_be_meant_is_400(query: str, acme: Party) -> None:
    add_crawler(acme)
    answer = acme.api.get(f"{MODELS}?{query}")
    assert (answer.status_code, list(answer.json()["errors"])) == (400, [query.partition("=")[0]])


def test_an_agent_that_nobody_registered_is_404(acme: Party) -> None:
    answers = [
        acme.api.get(MODELS),
        acme.api.post(SELECT, {"agent_id": "crawler"}),
        acme.api.get(f"{AGENTS}/%00/models"),
    ]
    assert {each.status_code for each in answers} == {404}


def test_mallory_learns_nothing_of_acmes_agents_and_models(acme: Party, mallory: Party) -> None:
    add_crawler(acme, primary="large")
    refused = [
        mallory.api.get(MODELS),
        mallory.api.post(SELECT, {"agent_id": "crawler"}),
        mallory.api.post(SELECT, {"requested_model": "large"}),
    ]
    assert {each.status_code for each in refused} == {404}
    assert refused[2].json()["suggested_models"] == []
    add_crawler(mallory)
    hers = mallory.api.get(MODELS).json()
    assert (hers["candidates"], hers["dropped"]) == ([], [])


def test_what_a_key_may_not_use_it_is_not_offered(acme: Party, mint: Callable[..., str], as_key: Any) -> None:
    add_crawler(acme)
    acme.api.post(AGENTS, {"agent_id": "bot", "preferences": {"primary": "large"}})
    narrow = as_key(mint(acme.id, "models:read", models=frozenset({"large"})))
    assert names(narrow.post(SELECT, {})) == ["large"]
    bound = as_key(mint(acme.id, "models:read", agent_id="bot"))
    assert names(bound.post(SELECT, {})) == ["large", "small"]
    refused = [bound.get(MODELS), bound.post(SELECT, {"agent_id": "crawler"})]
    assert {(each.status_code, each.json()["code"]) for each in refused} == {(403, "key_not_permitted")}


def test_a_key_may_be_bound_to_an_agent_that_has_not_come_yet(
    acme: Party, mint: Callable[..., str], as_key: Any
) -> None:
    bound = as_key(mint(acme.id, "models:read", agent_id="later"))
    assert names(bound.post(SELECT, {})) == ["small", "large"]
    assert bound.get(f"{AGENTS}/later/models").status_code == 404


def test_looking_needs_its_scope_and_a_tenant(
    acme: Party, operator: Any, mint: Callable[..., str], as_key: Any
) -> None:
    reader, other = as_key(mint(acme.id, "models:read")), as_key(mint(acme.id, "usage:read", "agents:write"))
    assert (reader.post(SELECT, {}).status_code, other.post(SELECT, {}).status_code) == (200, 403)
    assert "mint a key" in operator.post(SELECT, {}).json()["detail"]


def test_selecting_takes_few_queries_and_writes_nothing(acme: Party) -> None:
    add_crawler(acme, monthly_budget_usd="1")
    with CaptureQueriesContext(connection) as queries:
        assert acme.api.post(SELECT, {"agent_id": "crawler"}).status_code == 200
    assert len(spoken(queries)) <= MOST
    assert all(each.lstrip().startswith(("SELECT", "WITH", "SAVEPOINT", "RELEASE")) for each in spoken(queries))


def test_the_quickest_is_the_one_that_answers_quickest_now(acme: Party) -> None:
    call(small=300, large=20)
    assert names(acme.api.post(SELECT, {"optimize": "latency"})) == ["large", "small"]
    assert names(acme.api.post(SELECT, {})) == ["small", "large"]


def test_an_agents_bound_on_time_leaves_out_who_is_too_slow_now(acme: Party) -> None:
    call(small=300, large=20)
    add_crawler(acme, max_latency_ms=100)
    answer = acme.api.get(MODELS)
    assert names(answer) == ["large"]
    ((slow, reason),) = [(each["model"], each["reason"]) for each in answer.json()["dropped"]]
    assert (slow, reason.partition("; ")[2]) == ("small", "the agent waits at most 100.")
