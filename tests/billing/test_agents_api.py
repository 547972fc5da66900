"""`/api/v1/agents`: agents, what they prefer, what they set for themselves and what they cost."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from billing.models import Limit, UsageRow
from billing.partitions import make_partitions
from core.clock import utc_now
from core.ids import uuid7, uuid7_time
from tests.conftest import Party

AGENTS = "/api/v1/agents"
CRAWLER = f"{AGENTS}/crawler"
NONE: dict[str, Any] = {
    "strategy": "tenant_default",
    "primary": None,
    "secondary": None,
    "tertiary": None,
    "task_models": {},
    "max_cost_per_request_usd": None,
    "monthly_budget_usd": None,
    "max_latency_ms": None,
    "required_dimensions": None,
    "required_space": None,
}


@pytest.fixture
def crawler(acme: Party, add_model: Callable[..., Any]) -> Any:
    """An agent of acme's, which has the model `small`."""
    acme.api.post("/api/v1/tenant-models", {"model_id": str(add_model("small").id)})
    return acme.api.post(AGENTS, {"agent_id": "crawler", "agent_type": "bot"}).json()


def use(party: Party, agent_id: str, at: datetime | None = None, **facts: Any) -> None:
    """A usage row of this agent's."""
    request_id = uuid7(int((at or utc_now()).timestamp() * 1000))
    plain = {"model": "small", "provider": "vendor", "tokens": 8, "held_tokens": 10, "agent_id": agent_id}
    UsageRow.objects.create(id=request_id, created_at=uuid7_time(request_id), tenant_id=party.id, **(plain | facts))


def own_budgets(party: Party) -> list[tuple[str, Decimal]]:
    rows = Limit.objects.filter(tenant_id=party.id, origin="agent", scope="agent", measure="usd", period="month")
    return list(rows.values_list("scope_id", "amount"))


def test_an_agent_is_added_changed_and_forgotten(acme: Party, crawler: Any) -> None:
    assert (crawler["status"], crawler["last_seen_at"], crawler["preferences"]) == ("available", None, NONE)
    assert acme.api.get(CRAWLER).json() == crawler
    changed = acme.api.patch(CRAWLER, {"status": "busy", "metadata": {"host": "a"}, "agent_id": "crawler"}).json()
    assert (changed["status"], changed["metadata"], changed["agent_type"]) == ("busy", {"host": "a"}, "bot")
    assert acme.api.delete(CRAWLER).status_code == 204
    assert {acme.api.get(CRAWLER).status_code, acme.api.delete(CRAWLER).status_code} == {404}


def test_adding_one_that_is_there_is_409(acme: Party, crawler: Any) -> None:
    answer = acme.api.post(AGENTS, {"agent_id": "crawler"})
    assert (answer.status_code, answer.json()["code"]) == (409, "already_exists")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "agent_id"),
        ({"agent_id": "a/b"}, "agent_id"),
        ({"agent_id": "a", "colour": "red"}, "colour"),
        ({"agent_id": "a", "status": "asleep"}, "status"),
        ({"agent_id": "a", "capabilities": "search"}, "capabilities"),
        ({"agent_id": "a", "metadata": {"a": "x" * 17_000}}, "metadata"),
        ({"agent_id": "a", "preferences": []}, "preferences"),
        ({"agent_id": "a", "preferences": {"colour": "red"}}, "preferences.colour"),
        ({"agent_id": "a", "preferences": {"primary": "nobodys"}}, "preferences.primary"),
        ({"agent_id": "a", "preferences": {"task_models": {"search": "nobodys"}}}, "preferences.task_models.search"),
        ({"agent_id": "a", "preferences": {"task_models": {"search": 7}}}, "preferences.task_models.search"),
    ],
)
def test_bad_input_is_400_by_field(body: Any, field: str, acme: Party) -> None:
    answer = acme.api.post(AGENTS, body)
    assert (answer.status_code, list(answer.json()["errors"])) == (400, [field])
    assert acme.api.get(AGENTS).json()["results"] == []


def test_preferences_are_read_and_replaced_whole(acme: Party, crawler: Any) -> None:
    url = f"{CRAWLER}/preferences"
    assert acme.api.get(url).json() == NONE
    wanted = {"strategy": "cost", "primary": "small", "max_cost_per_request_usd": "0.01"}
    assert acme.api.put(url, wanted).json() == NONE | wanted
    assert acme.api.put(url, acme.api.get(url).json()).json() == NONE | wanted
    assert acme.api.put(url, {"task_models": {"search": "vendor/small"}}).json() == NONE | {
        "task_models": {"search": "vendor/small"}
    }
    answer = acme.api.put(url, {"task_models": {"search": "nobodys"}})
    assert (answer.status_code, list(answer.json()["errors"])) == (400, ["task_models.search"])
    assert acme.api.put(f"{AGENTS}/nobody/preferences", {}).status_code == 404
    assert acme.api.get(f"{AGENTS}/nobody/preferences").status_code == 404


def test_an_agents_own_budget_is_a_limit_that_comes_and_goes_with_it(acme: Party, crawler: Any) -> None:
    url = f"{CRAWLER}/preferences"
    acme.api.put(url, {"monthly_budget_usd": "12.5"})
    assert own_budgets(acme) == [("crawler", Decimal("12.5"))]
    acme.api.patch(CRAWLER, {"preferences": {"monthly_budget_usd": 5}})
    assert own_budgets(acme) == [("crawler", Decimal(5))]
    acme.api.patch(CRAWLER, {"name": "Crawler"})
    assert own_budgets(acme) == [("crawler", Decimal(5))]
    acme.api.put(url, {"monthly_budget_usd": None})
    assert own_budgets(acme) == []
    acme.api.post(AGENTS, {"agent_id": "other", "preferences": {"monthly_budget_usd": "0"}})
    assert own_budgets(acme) == [("other", Decimal(0))]
    acme.api.delete(f"{AGENTS}/other")
    assert own_budgets(acme) == []


def test_what_an_agent_sets_stands_beside_what_the_tenant_sets(acme: Party, crawler: Any) -> None:
    budget = {"scope": "agent", "scope_id": "crawler", "measure": "usd", "period": "month", "amount": "3"}
    admins = acme.api.post("/api/v1/limits", budget).json()
    acme.api.put(f"{CRAWLER}/preferences", {"monthly_budget_usd": "1000"})
    rows = acme.api.get("/api/v1/limits?scope=agent").json()["results"]
    assert {(row["origin"], row["amount"]) for row in rows} == {("tenant", "3"), ("agent", "1000")}
    (own,) = acme.api.get("/api/v1/limits?origin=agent").json()["results"]
    url = f"/api/v1/limits/{own['id']}"
    refused = [acme.api.patch(url, {"amount": "1"}), acme.api.delete(url)]
    assert {(each.status_code, each.json()["code"]) for each in refused} == {(409, "conflict")}
    acme.api.delete(CRAWLER)
    assert [row["id"] for row in acme.api.get("/api/v1/limits").json()["results"]] == [admins["id"]]


def test_agents_are_filtered(acme: Party, crawler: Any) -> None:
    acme.api.post(AGENTS, {"agent_id": "bot-2", "name": "Zweiter", "status": "offline"})

    def ids(query: str) -> list[str]:
        return [each["agent_id"] for each in acme.api.get(f"{AGENTS}?{query}").json()["results"]]

    assert ids("") == ["bot-2", "crawler"]
    assert (ids("status=offline"), ids("agent_type=bot")) == (["bot-2"], ["crawler"])
    assert (ids("q=CRAW"), ids("q=zwei"), ids("q=x")) == (["crawler"], ["bot-2"], [])
    assert (ids("limit=1"), len(acme.api.get(f"{AGENTS}?limit=1").json()["next"]) > 0) == (["bot-2"], True)


@pytest.mark.parametrize("query", ["status=asleep", "stauts=busy", "q=%00"])
def test_a_query_that_cannot_be_meant_is_400(query: str, acme: Party) -> None:
    answer = acme.api.get(f"{AGENTS}?{query}")
    assert (answer.status_code, list(answer.json()["errors"])) == (400, [query.partition("=")[0]])


@pytest.mark.parametrize("agent_id", ["a%00", "%FF", "nobody"])
def test_an_id_that_nobody_has_is_404(agent_id: str, acme: Party) -> None:
    paths = ("", "/preferences", "/costs")
    assert {acme.api.get(f"{AGENTS}/{agent_id}{path}").status_code for path in paths} == {404}
    assert acme.api.patch(f"{AGENTS}/{agent_id}", {"name": "x"}).status_code == 404


def test_an_id_may_be_odd(acme: Party) -> None:
    acme.api.post(AGENTS, {"agent_id": "größe 7?#"})
    assert acme.api.get(f"{AGENTS}/gr%C3%B6%C3%9Fe%207%3F%23").json()["agent_id"] == "größe 7?#"


def test_costs_are_summed_by_model_for_the_days_asked(acme: Party, crawler: Any) -> None:
    make_partitions(today=utc_now().date() - timedelta(days=40), ahead=2)
    use(acme, "crawler", cost_usd=Decimal("0.000000160"))
    use(acme, "crawler", cost_usd=Decimal("0.000000340"), tokens=2)
    use(acme, "crawler", utc_now() - timedelta(days=2), model="large", cost_usd=Decimal(1))
    use(acme, "crawler", utc_now() - timedelta(days=31), cost_usd=Decimal(5))
    use(acme, "crawler", model="", provider="", tokens=0, status="quota_exceeded")
    use(acme, "other", cost_usd=Decimal(7))
    month = acme.api.get(f"{CRAWLER}/costs").json()
    assert (month["period_days"], month["total_tokens"], month["total_requests"]) == (30, 18, 3)
    assert month["total_cost"] == "1.000000500"
    shown = ("model", "provider", "tokens", "requests", "cost_usd")
    assert [tuple(each[name] for name in shown) for each in month["by_model"]] == [
        ("large", "vendor", 8, 1, "1.000000000"),
        ("small", "vendor", 10, 2, "0.000000500"),
    ]
    assert acme.api.get(f"{CRAWLER}/costs?period_days=1").json()["total_cost"] == "0.000000500"
    assert acme.api.get(f"{CRAWLER}/costs?period_days=366").json()["total_cost"] == "6.000000500"


def test_an_agent_that_used_nothing_cost_nothing(acme: Party, crawler: Any) -> None:
    answer = acme.api.get(f"{CRAWLER}/costs").json()
    assert (answer["total_cost"], answer["total_requests"], answer["by_model"]) == ("0.000000000", 0, [])


@pytest.mark.parametrize("query", ["period_days=0", "period_days=367", "period_days=x", "days=7"])
def test_a_period_that_cannot_be_meant_is_400(query: str, acme: Party, crawler: Any) -> None:
    answer = acme.api.get(f"{CRAWLER}/costs?{query}")
    assert (answer.status_code, list(answer.json()["errors"])) == (400, [query.partition("=")[0]])


def test_mallory_reaches_no_agent_of_acmes(acme: Party, mallory: Party, crawler: Any) -> None:
    acme.api.put(f"{CRAWLER}/preferences", {"monthly_budget_usd": "5"})
    use(acme, "crawler", cost_usd=Decimal(1))
    assert mallory.api.get(AGENTS).json()["results"] == []
    refused = [
        mallory.api.get(CRAWLER),
        mallory.api.patch(CRAWLER, {"status": "offline"}),
        mallory.api.delete(CRAWLER),
        mallory.api.get(f"{CRAWLER}/preferences"),
        mallory.api.put(f"{CRAWLER}/preferences", {}),
        mallory.api.get(f"{CRAWLER}/costs"),
    ]
    assert {each.status_code for each in refused} == {404}
    assert mallory.api.post(AGENTS, {"agent_id": "thief", "preferences": {"primary": "small"}}).status_code == 400


def test_an_id_that_acme_uses_is_mallorys_to_use_as_her_own(acme: Party, mallory: Party, crawler: Any) -> None:
    use(acme, "crawler", cost_usd=Decimal(1))
    acme.api.put(f"{CRAWLER}/preferences", {"monthly_budget_usd": "5"})
    hers = mallory.api.post(AGENTS, {"agent_id": "crawler", "preferences": {"monthly_budget_usd": "9"}})
    assert (hers.status_code, own_budgets(mallory)) == (201, [("crawler", Decimal(9))])
    assert mallory.api.get(f"{CRAWLER}/costs").json()["total_requests"] == 0
    assert mallory.api.delete(CRAWLER).status_code == 204
    assert (acme.api.get(CRAWLER).status_code, own_budgets(acme)) == (200, [("crawler", Decimal(5))])


def test_reading_and_writing_need_their_scopes(
    acme: Party, crawler: Any, operator: Any, mint: Callable[..., str], as_key: Any
) -> None:
    registrar, accountant = as_key(mint(acme.id, "agents:write")), as_key(mint(acme.id, "usage:read"))
    assert (registrar.get(CRAWLER).status_code, registrar.patch(CRAWLER, {}).status_code) == (200, 200)
    assert (registrar.get(f"{CRAWLER}/costs").status_code, accountant.get(f"{CRAWLER}/costs").status_code) == (403, 200)
    refused = [accountant.get(AGENTS), accountant.post(AGENTS, {"agent_id": "b"}), accountant.delete(CRAWLER)]
    assert {each.status_code for each in refused} == {403}
    assert "mint a key" in operator.get(AGENTS).json()["detail"]


def test_a_key_that_is_bound_to_an_agent_reaches_that_one_alone(
    acme: Party, crawler: Any, mint: Callable[..., str], as_key: Any
) -> None:
    bound = as_key(mint(acme.id, "agents:write", "usage:read", agent_id="bot"))
    assert bound.post(AGENTS, {"agent_id": "bot"}).status_code == 201
    assert [each["agent_id"] for each in bound.get(AGENTS).json()["results"]] == ["bot"]
    refused = [
        bound.post(AGENTS, {"agent_id": "second"}),
        bound.get(CRAWLER),
        bound.patch(CRAWLER, {}),
        bound.delete(CRAWLER),
        bound.put(f"{CRAWLER}/preferences", {}),
        bound.get(f"{CRAWLER}/costs"),
    ]
    assert {(each.status_code, each.json()["code"]) for each in refused} == {(403, "key_not_permitted")}
    assert bound.put(f"{AGENTS}/bot/preferences", {}).status_code == 200


def test_the_list_costs_as_many_queries_for_fifty_as_for_one(acme: Party, crawler: Any) -> None:
    def cost() -> int:
        with CaptureQueriesContext(connection) as queries:
            assert acme.api.get(AGENTS).status_code == 200
        return len(queries)

    once = cost()
    for index in range(49):
        acme.api.post(AGENTS, {"agent_id": f"agent {index}"})
    assert cost() == once


def test_costs_are_read_by_the_index_of_agents(acme: Party, crawler: Any) -> None:
    with CaptureQueriesContext(connection) as queries:
        acme.api.get(f"{CRAWLER}/costs")
    (query,) = [each["sql"] for each in queries if "FROM billing_usagerow" in each["sql"]]
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off")
        cursor.execute(f"EXPLAIN {query}")
        plan = "\n".join(line for (line,) in cursor.fetchall())
    assert "agent_id_created_at_idx" in plan
