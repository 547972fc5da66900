"""Agents in the admin: who sees them, who changes them, and what the form makes of preferences."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from django.test import Client

from billing.models import Limit
from tenants.agents import add_agent, find_agent
from tenants.models import Agent
from tests.admin.people import person, sign_in
from tests.conftest import Party

LIST = "/admin/tenants/agent/"
FORM = {
    "name": "Crawler",
    "agent_type": "bot",
    "version": "1",
    "status": "available",
    "capabilities": "search\nchat",
    "metadata": "{}",
    "strategy": "cost",
    "primary": "small",
    "secondary": "",
    "tertiary": "",
    "task_models": "search = vendor/small",
    "max_cost_per_request_usd": "0.01",
    "monthly_budget_usd": "5",
    "max_latency_ms": "",
    "required_dimensions": "",
    "required_space": "",
}


@pytest.fixture
def crawler(acme: Party, add_model: Callable[..., Any]) -> Agent:
    acme.api.post("/api/v1/tenant-models", {"model_id": str(add_model("small").id)})
    return add_agent(tenant_id=acme.id, agent_id="crawler", preferences={"primary": "small"})


def browser(party: Party, role: str) -> Client:
    """Somebody with this role, signed in."""
    email, found = f"{role}@{party.slug}.test", Client()
    person(email, **{str(party.id): role})
    sign_in(found, email)
    return found


def test_an_owner_changes_what_an_agent_prefers(acme: Party, crawler: Agent) -> None:
    owner = browser(acme, "owner")
    page = owner.get(f"{LIST}{crawler.id}/change/")
    assert page.status_code == 200
    assert 'value="small" selected' in page.content.decode()
    assert owner.post(f"{LIST}{crawler.id}/change/", FORM).status_code == 302
    row = find_agent(acme.id, "crawler")
    assert (row.name, row.capabilities) == ("Crawler", ["search", "chat"])
    assert row.preferences | {"primary": "small"} == row.preferences
    assert (row.preferences["strategy"], row.preferences["task_models"]) == ("cost", {"search": "vendor/small"})
    assert Limit.objects.get(tenant_id=acme.id, origin="agent").amount == Decimal(5)


def test_an_owner_adds_one_and_forgets_it(acme: Party, crawler: Agent) -> None:
    owner = browser(acme, "owner")
    assert owner.post(f"{LIST}add/", FORM | {"agent_id": "bot-2", "primary": "", "strategy": "cost"}).status_code == 302
    row = find_agent(acme.id, "bot-2")
    assert owner.get(LIST).content.decode().count("bot-2") >= 1
    assert owner.post(f"{LIST}{row.id}/delete/", {"post": "yes"}).status_code == 302
    assert not Agent.objects.filter(id=row.id).exists()
    assert not Limit.objects.filter(tenant_id=acme.id).exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"task_models": "search"}, "A task, an equals sign and a model in each line"),
        ({"task_models": "search = nobodys"}, "The tenant has configured no model"),
        ({"secondary": "small"}, "is the primary already"),
        ({"strategy": "fixed", "primary": "", "task_models": ""}, "name a `primary`"),
        ({"metadata": "{"}, "valid JSON"),
    ],
)
def test_a_refusal_is_shown_in_the_form(change: dict[str, str], said: str, acme: Party, crawler: Agent) -> None:
    answer = browser(acme, "admin").post(f"{LIST}{crawler.id}/change/", FORM | change)
    assert answer.status_code == 200
    assert said in answer.content.decode()
    assert find_agent(acme.id, "crawler").preferences["strategy"] == "tenant_default"


@pytest.mark.parametrize("role", ["viewer", "billing"])
def test_others_read_and_change_nothing(role: str, acme: Party, crawler: Agent) -> None:
    reader = browser(acme, role)
    page = reader.get(f"{LIST}{crawler.id}/change/").content.decode()
    assert "It used nothing in these days." in page
    assert "primary" in page
    assert reader.post(f"{LIST}{crawler.id}/change/", FORM).status_code == 403
    assert {reader.get(f"{LIST}add/").status_code, reader.post(f"{LIST}{crawler.id}/delete/").status_code} == {403}


def test_mallory_sees_no_agent_of_acmes(acme: Party, mallory: Party, crawler: Agent) -> None:
    thief = browser(mallory, "owner")
    assert "crawler" not in thief.get(LIST).content.decode()
    pages = [thief.get(f"{LIST}{crawler.id}/{what}/") for what in ("change", "delete")]
    pages.append(thief.post(f"{LIST}{crawler.id}/change/", FORM))
    assert {page.status_code for page in pages} == {404}


def test_an_operator_sees_all_and_says_whom_a_new_one_is_for(acme: Party, mallory: Party, crawler: Agent) -> None:
    operator = Client()
    person("operator@quiver.test", is_operator=True)
    sign_in(operator, "operator@quiver.test")
    assert "crawler" in operator.get(LIST).content.decode()
    body = FORM | {"agent_id": "hers", "primary": "", "task_models": ""}
    assert operator.post(f"{LIST}add/?tenant={mallory.id}", body).status_code == 302
    assert find_agent(mallory.id, "hers").name == "Crawler"


def test_what_an_agent_set_for_itself_is_not_changed_under_limits(acme: Party, crawler: Agent) -> None:
    owner = browser(acme, "owner")
    owner.post(f"{LIST}{crawler.id}/change/", FORM)
    limit = Limit.objects.get(tenant_id=acme.id, origin="agent")
    assert "by itself" in owner.get("/admin/billing/limit/").content.decode()
    assert owner.post(f"/admin/billing/limit/{limit.id}/change/", {"amount": "9"}).status_code == 403
    assert owner.post(f"/admin/billing/limit/{limit.id}/delete/", {"post": "yes"}).status_code == 403
