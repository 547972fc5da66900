"""`/api/v1/tenant-models`: which models a tenant uses, which is its default, with which limits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from billing.models import Limit
from core.changes import Change
from tenants.loading import load_tenant
from tenants.models import TenantModel
from tenants.services import make_default
from tests.conftest import Party, make_party

USED = "/api/v1/tenant-models"
NOBODY = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def use(add_model: Callable[..., Any]) -> Callable[..., dict[str, Any]]:
    """Lets a party use a new model of this name; returns the configuration."""

    def used(party: Party, name: str, **wishes: Any) -> dict[str, Any]:
        answer = party.api.post(USED, {"model_id": str(add_model(name).id), **wishes})
        assert answer.status_code == 201, answer.json()
        found: dict[str, Any] = answer.json()
        return found

    return used


def defaults(party: Party) -> list[str]:
    return [each["model_name"] for each in party.api.get(USED).json()["results"] if each["is_default"]]


def test_a_model_is_configured_with_all_that_can_be_said(acme: Party, use: Any) -> None:
    other = use(acme, "other")
    wishes = {
        "is_default": True,
        "priority": 7,
        "daily_token_limit": 1000,
        "monthly_token_limit": 20_000,
        "monthly_request_limit": 300,
        "rate_limit_rpm": 60,
        "rate_limit_tpm": 5000,
        "monthly_budget_usd": "12.5",
        "custom_cost_per_million_tokens": "0.01",
        "fallback_model_id": other["model_id"],
        "settings": {"team": "search"},
    }
    row = use(acme, "small", **wishes)
    assert {name: row[name] for name in wishes} == wishes
    assert (row["model_name"], row["provider"], row["is_enabled"]) == ("small", "vendor", True)
    assert acme.api.get(f"{USED}/{row['id']}").json() == row
    stored = {(each.measure, each.period): str(each.amount.normalize()) for each in Limit.objects.all()}
    assert stored[("usd", "month")] == "12.5"
    assert len(stored) == 6
    config = load_tenant(acme.id)
    assert config is not None
    assert {each.nano_per_million for each in config.models} == {None, 10_000_000}


def test_the_first_model_becomes_the_default(acme: Party, globex: Party, use: Any) -> None:
    use(acme, "a")
    use(acme, "b")
    assert defaults(acme) == ["a"]
    use(globex, "c", is_default=False)
    use(globex, "d")
    assert defaults(globex) == []


def test_a_first_model_that_is_switched_off_is_no_default(acme: Party, use: Any) -> None:
    assert use(acme, "a", is_enabled=False)["is_default"] is False


@pytest.mark.parametrize(
    ("change", "status", "field"),
    [
        ({"model_id": NOBODY}, 404, "model_id"),
        ({"model_id": "small"}, 400, "model_id"),
        ({"priority": "high"}, 400, "priority"),
        ({"priority": 2**40}, 400, "priority"),
        ({"daily_token_limit": -1}, 400, "daily_token_limit"),
        ({"daily_token_limit": 1.5}, 400, "daily_token_limit"),
        ({"monthly_request_limit": 10**12}, 400, "monthly_request_limit"),
        ({"monthly_budget_usd": "-1"}, 400, "monthly_budget_usd"),
        ({"monthly_budget_usd": "0.0000000001"}, 400, "monthly_budget_usd"),
        ({"custom_cost_per_million_tokens": "-1"}, 400, "custom_cost_per_million_tokens"),
        ({"fallback_model_id": NOBODY}, 400, "fallback_model_id"),
        ({"settings": []}, 400, "settings"),
        ({"settings": {"long": "x" * 20_000}}, 400, "settings"),
        ({"monthly_limit": 5}, 400, "monthly_limit"),
        ({"tenant": NOBODY}, 400, "tenant"),
    ],
)
def test_bad_input_is_named(
    change: dict[str, Any], status: int, field: str, acme: Party, add_model: Callable[..., Any]
) -> None:
    answer = acme.api.post(USED, {"model_id": str(add_model().id)} | change)
    assert (answer.status_code, list(answer.json()["errors"])) == (status, [field]), answer.json()
    assert acme.api.get(USED).json()["results"] == []


def test_a_model_is_configured_once(acme: Party, use: Any) -> None:
    row = use(acme, "small")
    answer = acme.api.post(USED, {"model_id": row["model_id"]})
    assert (answer.status_code, answer.json()["code"]) == (409, "already_exists")


def test_a_removed_model_is_not_in_the_catalogue(acme: Party, add_model: Callable[..., Any]) -> None:
    gone = add_model(state="unavailable")
    from catalog.services import move_model

    move_model(model_id=gone.id, to="removed")
    assert acme.api.post(USED, {"model_id": str(gone.id)}).status_code == 404


def test_put_takes_back_what_get_gave(acme: Party, use: Any) -> None:
    row = use(acme, "small", daily_token_limit=5, monthly_budget_usd="1.50")
    url = f"{USED}/{row['id']}"
    answer = acme.api.put(url, row | {"daily_token_limit": None, "monthly_request_limit": 9})
    changed = answer.json()
    assert answer.status_code == 200, changed
    assert (changed["daily_token_limit"], changed["monthly_request_limit"]) == (None, 9)
    assert changed["monthly_budget_usd"] == "1.5"
    assert acme.api.patch(url, {"model_id": NOBODY}).json()["errors"].keys() == {"model_id"}


def test_another_default_takes_the_place_of_the_first(acme: Party, use: Any) -> None:
    first, second = use(acme, "a"), use(acme, "b")
    assert acme.api.post(f"{USED}/{second['id']}/set-default").json()["is_default"] is True
    assert defaults(acme) == ["b"]
    acme.api.patch(f"{USED}/{first['id']}", {"is_default": True})
    assert defaults(acme) == ["a"]


def test_a_default_among_others_stays_enabled_and_in_use(acme: Party, use: Any) -> None:
    first, second = use(acme, "a"), use(acme, "b")
    url = f"{USED}/{first['id']}"
    refused = [
        acme.api.delete(url),
        acme.api.post(f"{url}/disable"),
        acme.api.patch(url, {"is_enabled": False}),
    ]
    assert {each.status_code for each in refused} == {409}
    acme.api.delete(f"{USED}/{second['id']}")
    assert acme.api.delete(url).status_code == 204


def test_the_only_model_may_be_switched_off_and_comes_back_as_default(acme: Party, use: Any) -> None:
    url = f"{USED}/{use(acme, 'a')['id']}"
    off = acme.api.post(f"{url}/disable").json()
    assert (off["is_enabled"], off["is_default"]) == (False, False)
    assert acme.api.post(f"{url}/set-default").json()["code"] == "conflict"
    on = acme.api.post(f"{url}/enable").json()
    assert (on["is_enabled"], on["is_default"]) == (True, True)


def test_a_fallback_is_not_taken_away_from_under_a_model(acme: Party, use: Any) -> None:
    other = use(acme, "other")
    row = use(acme, "small", fallback_model_id=other["model_id"], is_default=True)
    assert acme.api.delete(f"{USED}/{other['id']}").json()["code"] == "in_use"
    own = acme.api.patch(f"{USED}/{row['id']}", {"fallback_model_id": row["model_id"]})
    assert own.json()["errors"].keys() == {"fallback_model_id"}
    acme.api.patch(f"{USED}/{row['id']}", {"fallback_model_id": None})
    assert acme.api.delete(f"{USED}/{other['id']}").status_code == 204


def test_limits_go_with_their_model(acme: Party, use: Any) -> None:
    row = use(acme, "small", daily_token_limit=5)
    acme.api.delete(f"{USED}/{row['id']}")
    assert Limit.objects.count() == 0


def test_enabled_only_leaves_out_the_others(acme: Party, use: Any) -> None:
    use(acme, "a")
    use(acme, "b", is_enabled=False)
    for query, names in (("enabled_only=true", ["a"]), ("enabled_only=false", ["a", "b"]), ("", ["a", "b"])):
        assert [each["model_name"] for each in acme.api.get(f"{USED}?{query}").json()["results"]] == names
    assert acme.api.get(f"{USED}?enabled=true").json()["errors"].keys() == {"enabled"}


def test_mallory_reaches_no_configuration_of_acmes(acme: Party, mallory: Party, use: Any) -> None:
    row = use(acme, "small", daily_token_limit=5)
    url = f"{USED}/{row['id']}"
    assert mallory.api.get(USED).json()["results"] == []
    refused = [
        mallory.api.get(url),
        mallory.api.put(url, row),
        mallory.api.patch(url, {"priority": 9}),
        mallory.api.delete(url),
        mallory.api.post(f"{url}/set-default"),
        mallory.api.post(f"{url}/enable"),
        mallory.api.post(f"{url}/disable"),
    ]
    assert {(each.status_code, each.json()["code"]) for each in refused} == {(404, "not_found")}
    assert acme.api.get(url).json() == row


def test_scopes_are_enforced(acme: Party, use: Any, mint: Callable[..., str], as_key: Any) -> None:
    row = use(acme, "small")
    url = f"{USED}/{row['id']}"
    reader, writer = as_key(mint(acme.id, "models:read")), as_key(mint(acme.id, "models:write"))
    assert reader.get(url).status_code == 200
    assert [reader.patch(url, {"priority": 1}).status_code, reader.delete(url).status_code] == [403, 403]
    assert writer.patch(url, {"priority": 1}).status_code == 200
    assert writer.get(url).status_code == 403


def test_each_change_raises_the_version_and_is_published(acme: Party, use: Any, changes: Any, committed: Any) -> None:
    row = use(acme, "small")
    use(acme, "other")
    url = f"{USED}/{row['id']}"
    seen = []
    for act in (
        lambda: acme.api.patch(url, {"priority": 3}),
        lambda: acme.api.post(f"{url}/set-default"),
        lambda: acme.api.post(f"{url}/enable"),
    ):
        before = load_tenant(acme.id)
        with committed():
            assert act().status_code == 200
        after = load_tenant(acme.id)
        assert before is not None
        assert after is not None
        assert after.version > before.version
        seen += changes()
    assert set(seen) == {Change(acme.id)}


@pytest.mark.django_db(transaction=True)
def test_of_many_defaults_at_once_one_remains(add_model: Callable[..., Any], at_once: Callable[..., list[Any]]) -> None:
    acme = make_party("acme")
    rows = [acme.api.post(USED, {"model_id": str(add_model(f"m{index}").id)}).json()["id"] for index in range(8)]
    outcomes = at_once(*(lambda row=row: make_default(tenant_id=acme.id, tenant_model_id=row) for row in rows))
    assert [type(each) for each in outcomes] == [TenantModel] * 8
    assert len(defaults(acme)) == 1


@pytest.mark.django_db(transaction=True)
def test_of_many_first_models_at_once_one_is_the_default(
    add_model: Callable[..., Any], at_once: Callable[..., list[Any]]
) -> None:
    acme = make_party("acme")
    models = [str(add_model(f"m{index}").id) for index in range(6)]
    answers = at_once(*(lambda model=model: make_party_post(acme, model) for model in models))
    assert {each.status_code for each in answers} == {201}
    assert len(defaults(acme)) == 1


def make_party_post(party: Party, model_id: str) -> Any:
    """A client is not to be shared by threads."""
    from tests.conftest import client

    return client(party.key).post(USED, {"model_id": model_id})


@pytest.mark.slow
def test_the_list_costs_as_many_queries_for_fifty_as_for_one(acme: Party, use: Any) -> None:
    def cost() -> int:
        with CaptureQueriesContext(connection) as queries:
            assert acme.api.get(f"{USED}?limit=200").status_code == 200
        return len(queries)

    use(acme, "m", daily_token_limit=1)
    once = cost()
    for index in range(49):
        use(acme, f"m{index}", daily_token_limit=1)
    assert cost() == once


def test_a_list_of_models_is_taken_into_use_whole(acme: Party, add_model: Callable[..., Any]) -> None:
    a, b = str(add_model("a").id), str(add_model("b").id)
    rows = [{"model_id": a, "daily_token_limit": 5}, {"model_id": b, "is_default": True, "fallback_model_id": a}]
    answer = acme.api.post(USED, rows)
    assert answer.status_code == 201, answer.json()
    shown = [(each["model_name"], each["is_default"], each["daily_token_limit"]) for each in answer.json()]
    assert shown == [("a", False, 5), ("b", True, None)]


def test_of_a_list_with_a_wrong_row_none_is_taken(acme: Party, add_model: Callable[..., Any]) -> None:
    good = {"model_id": str(add_model("a").id)}
    for wrong, status, field in (
        ({"model_id": NOBODY}, 404, "[1].model_id"),
        (good, 409, "[1].model_id"),
        ({"model_id": "x"}, 400, "[1].model_id"),
        ({**good, "colour": "red"}, 400, "[1].colour"),
    ):
        answer = acme.api.post(USED, [good, wrong])
        assert (answer.status_code, list(answer.json()["errors"])) == (status, [field]), answer.json()
    assert acme.api.get(USED).json()["results"] == []


def test_configurations_are_filtered(acme: Party, use: Any) -> None:
    row = use(acme, "a")
    use(acme, "b", is_enabled=False)
    for query in (f"model_id={row['model_id']}", "model=a", "state=enabled", "is_default=true", "enabled_only=true"):
        assert [each["model_name"] for each in acme.api.get(f"{USED}?{query}").json()["results"]] == ["a"], query
    assert acme.api.get(f"{USED}?provider=nobody").json()["results"] == []
