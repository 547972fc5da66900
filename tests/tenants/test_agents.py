"""Agents' rows: what is kept of them, when the data plane is told, and what happens when two come at once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from core.clock import utc_now
from core.errors import AlreadyExists, Conflict, InvalidRequest, NotFound
from tenants import agents
from tenants.loading import load_tenant
from tenants.models import Agent, Tenant
from tenants.preferences import Preferences
from tenants.services import configure_model
from tests.conftest import Party, make_party


def version(party: Party) -> int:
    return Tenant.objects.get(id=party.id).version


@pytest.fixture
def small(acme: Party, add_model: Callable[..., Any]) -> Any:
    """A model that acme has configured."""
    row = add_model("small", identifier="vendor.small-v1")
    configure_model(tenant_id=acme.id, model_id=row.id)
    return row


def test_an_agent_introduces_itself_and_comes_back(acme: Party, small: Any) -> None:
    row, is_new = agents.register_agent(
        tenant_id=acme.id,
        agent_id="crawler-1",
        agent_type="crawler",
        name="Crawler",
        version="2.1",
        capabilities=["search", "search", "chat"],
        metadata={"host": "a"},
        preferences={"primary": "small"},
        seen_at=utc_now(),
    )
    assert (is_new, row.capabilities, row.preferences["primary"]) == (True, ["search", "chat"], "small")
    again, is_new = agents.register_agent(tenant_id=acme.id, agent_id="crawler-1", version="2.2")
    assert (is_new, again.id, again.version, again.name) == (False, row.id, "2.2", "Crawler")
    assert agents.find_agent(acme.id, "crawler-1").preferences["primary"] == "small"


def test_one_that_somebody_added_introduces_itself_for_the_first_time_all_the_same(acme: Party) -> None:
    agents.add_agent(tenant_id=acme.id, agent_id="a")
    found = [agents.register_agent(tenant_id=acme.id, agent_id="a", seen_at=utc_now())[1] for _ in range(2)]
    assert found == [True, False]


def test_adding_one_that_is_there_is_refused(acme: Party) -> None:
    agents.add_agent(tenant_id=acme.id, agent_id="a")
    with pytest.raises(AlreadyExists):
        agents.add_agent(tenant_id=acme.id, agent_id="a")


def test_the_data_plane_is_told_of_what_it_would_see_and_of_nothing_else(acme: Party, small: Any) -> None:
    def rises(act: Callable[[], Any]) -> bool:
        before = version(acme)
        act()
        return version(acme) > before

    who: dict[str, Any] = {"tenant_id": acme.id, "agent_id": "a"}
    assert rises(lambda: agents.register_agent(**who, preferences={"primary": "small"}))
    assert not rises(lambda: agents.register_agent(**who, preferences={"primary": "small"}, version="2"))
    assert not rises(lambda: agents.change_agent(**who, status="busy"))
    assert not rises(lambda: agents.record_presence(tenant_id=acme.id, agent_ids=["a"], at=utc_now()))
    assert rises(lambda: agents.change_agent(**who, preferences={"primary": "small", "max_latency_ms": 9}))
    assert rises(lambda: agents.set_preferences(**who, preferences={}))
    assert rises(lambda: agents.remove_agent(**who))


def test_a_tenant_is_read_with_its_agents(acme: Party, mallory: Party, small: Any) -> None:
    agents.add_agent(tenant_id=acme.id, agent_id="a", preferences={"strategy": "cost", "max_cost_per_request_usd": 1})
    agents.add_agent(tenant_id=acme.id, agent_id="b")
    agents.add_agent(tenant_id=mallory.id, agent_id="hers")
    read = load_tenant(acme.id)
    assert read is not None
    assert read.agents == {
        "a": Preferences(strategy="cost", max_cost_per_request_nano=1_000_000_000),
        "b": Preferences(),
    }


@pytest.mark.parametrize("name", ["small", "vendor.small-v1", "vendor/small", "vendor/vendor.small-v1"])
def test_models_are_named_as_callers_name_them(name: str, acme: Party, small: Any) -> None:
    row = agents.add_agent(tenant_id=acme.id, agent_id="a", preferences={"task_models": {"search": name}})
    assert row.preferences["task_models"] == {"search": name}


@pytest.mark.parametrize("preferences", [{"primary": "large"}, {"primary": "auto"}, {"primary": "other/small"}])
def test_a_model_that_the_tenant_lacks_is_refused_by_field(
    preferences: dict[str, Any], acme: Party, small: Any
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        agents.add_agent(tenant_id=acme.id, agent_id="a", preferences=preferences)
    assert refused.value.param == "preferences.primary"
    assert "small" in refused.value.extra["suggested_models"]


def test_another_tenants_model_is_none_of_ours(acme: Party, small: Any, mallory: Party) -> None:
    with pytest.raises(InvalidRequest):
        agents.add_agent(tenant_id=mallory.id, agent_id="a", preferences={"primary": "small"})


@pytest.mark.parametrize(
    ("facts", "field"),
    [
        ({"agent_id": ""}, "agent_id"),
        ({"agent_id": "a" * 201}, "agent_id"),
        ({"agent_id": "a\n"}, "agent_id"),
        ({"agent_id": " a"}, "agent_id"),
        ({"agent_id": "a/b"}, "agent_id"),
        ({"agent_id": ".."}, "agent_id"),
        ({"agent_id": "\ud800"}, "agent_id"),
        ({"name": "a\x00"}, "name"),
        ({"capabilities": ["a" * 101]}, "capabilities"),
        ({"capabilities": [str(n) for n in range(101)]}, "capabilities"),
        ({"metadata": {"a": "x" * 17_000}}, "metadata"),
        ({"metadata": {"a": "\x00"}}, "metadata"),
        ({"metadata": {"a": "\ud800"}}, "metadata"),
        ({"metadata": {"a": float("nan")}}, "metadata"),
        ({"status": "asleep"}, "status"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_field(facts: dict[str, Any], field: str, acme: Party) -> None:
    with pytest.raises(InvalidRequest) as refused:
        agents.add_agent(**{"tenant_id": acme.id, "agent_id": "a", **facts})
    assert refused.value.param == field
    assert not Agent.objects.filter(tenant_id=acme.id).exists()


def test_metadata_may_speak_of_escapes(acme: Party) -> None:
    kept = {"regex": "\\u0000", "words": "größer"}
    assert agents.add_agent(tenant_id=acme.id, agent_id="a", metadata=kept).metadata == kept


def test_a_tenant_has_so_many_agents_and_no_more(acme: Party, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents, "MOST_AGENTS", 1)
    agents.add_agent(tenant_id=acme.id, agent_id="a")
    with pytest.raises(Conflict):
        agents.register_agent(tenant_id=acme.id, agent_id="b")


def test_heartbeats_are_noted_for_those_who_are_there(acme: Party, mallory: Party) -> None:
    agents.add_agent(tenant_id=acme.id, agent_id="a")
    agents.add_agent(tenant_id=mallory.id, agent_id="a")
    at = utc_now() + timedelta(seconds=5)
    assert agents.record_presence(tenant_id=acme.id, agent_ids=["a", "gone"], at=at, status="busy") == 1
    assert (agents.find_agent(acme.id, "a").last_seen_at, agents.find_agent(acme.id, "a").status) == (at, "busy")
    assert agents.find_agent(mallory.id, "a").last_seen_at is None


def test_mallory_changes_nobody_of_acmes(acme: Party, mallory: Party) -> None:
    agents.add_agent(tenant_id=acme.id, agent_id="crawler", name="Acme's")
    refused: list[Callable[[], Any]] = [
        lambda: agents.find_agent(mallory.id, "crawler"),
        lambda: agents.change_agent(tenant_id=mallory.id, agent_id="crawler", name="Mine"),
        lambda: agents.set_preferences(tenant_id=mallory.id, agent_id="crawler", preferences={}),
        lambda: agents.remove_agent(tenant_id=mallory.id, agent_id="crawler"),
    ]
    for act in refused:
        with pytest.raises(NotFound):
            act()
    hers, is_new = agents.register_agent(tenant_id=mallory.id, agent_id="crawler", name="Mine")
    assert (is_new, hers.tenant_id) == (True, mallory.id)
    assert agents.find_agent(acme.id, "crawler").name == "Acme's"


@pytest.mark.django_db(transaction=True)
def test_eight_connections_that_register_one_id_make_one_row(at_once: Callable[..., list[Any]]) -> None:
    party = make_party("acme")
    found = at_once(*[lambda: agents.register_agent(tenant_id=party.id, agent_id="a", seen_at=utc_now())] * 8)
    assert sorted(is_new for _, is_new in found) == [False] * 7 + [True]
    assert Agent.objects.filter(tenant_id=party.id).count() == 1
