"""`ETag` and `If-Match` over REST: whoever changes what somebody else has changed meanwhile is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from rest_framework.test import APIClient
from rest_framework.viewsets import ViewSetMixin

from catalog.rest import Versioned
from tests.architecture.test_routes import CLOSED
from tests.conftest import Party, client, make_party

pytestmark = pytest.mark.django_db
V1 = "/api/v1"
STALE = '"0123456789abcdef0123456789abcdef"'


@pytest.fixture
def rows(acme: Party, operator: APIClient, add_model: Callable[..., Any]) -> dict[str, tuple[Any, Any, str, Any]]:
    """By the name of its view: who changes a row, the answer that made it, its address, and two changes of it."""
    model = add_model("small")
    draft = {"provider": "vendor", "model_name": "draft", "model_identifier": "draft", "dimensions": 4}

    def made(api: Any, url: str, body: dict[str, Any], one: dict[str, Any], two: dict[str, Any], id: str = "id") -> Any:
        answer = api.post(V1 + url, body)
        assert answer.status_code == 201, answer.json()
        return api, answer, f"{V1}{url}/{answer.json()[id]}", (one, two)

    amounts = ({"amount": "6"}, {"amount": "7"})
    names = ({"name": "one"}, {"name": "two"})
    limit = {"scope": "tenant", "measure": "tokens", "period": "day", "amount": "5"}
    return {
        "tenant": made(operator, "/tenants", {"name": "New", "slug": "new"}, *names),
        "tenant-model": made(
            acme.api, "/tenant-models", {"model_id": str(model.id)}, {"priority": 1}, {"daily_token_limit": 7}
        ),
        "agent": made(acme.api, "/agents", {"agent_id": "crawler"}, *names, id="agent_id"),
        "limit": made(acme.api, "/limits", limit, *amounts),
        "budget": made(
            acme.api, "/budgets", {"scope": "agent", "scope_id": "a", "period": "day", "amount": "5"}, *amounts
        ),
        "alert-channel": made(acme.api, "/alert-channels", {"name": "a", "targets": ["a@example.com"]}, *names),
        "webhook": made(
            acme.api,
            "/alert-channels",
            {"name": "b", "kind": "webhook", "targets": ["https://hooks.example.com/"]},
            *names,
        ),
        "provider-credential": made(
            acme.api,
            "/provider-credentials",
            {"provider": "vendor", "secret": {"api_key": "sk-own-of-the-tests"}},
            {"use": "first"},
            {"use": "last"},
        ),
        "provider": made(
            operator,
            "/embedding-models/providers",
            {"slug": "other", "kind": "openai", "secret": {"api_key": "sk-other-of-the-tests"}},
            {"max_items": 3},
            {"max_items": 4},
            id="slug",
        ),
        "catalog": made(operator, "/embedding-models/catalog", draft, {"max_tokens": 11}, {"max_tokens": 12}),
    }


VIEWS = [
    "tenant",
    "tenant-model",
    "agent",
    "limit",
    "budget",
    "alert-channel",
    "webhook",
    "provider-credential",
    "provider",
    "catalog",
]


@pytest.mark.parametrize("view", VIEWS)
def test_a_change_is_held_against_the_version_that_it_rests_on(view: str, rows: dict[str, Any]) -> None:
    api, made, url, (one, two) = rows[view]
    first = api.get(url)["ETag"]
    assert made["ETag"] == first
    changed = api.patch(url, one, headers={"If-Match": first})
    assert changed.status_code == 200, changed.json()
    assert changed["ETag"] == api.get(url)["ETag"] != first
    late = api.patch(url, two, headers={"If-Match": first})
    assert (late.status_code, late.json()["code"]) == (412, "precondition_failed")
    assert api.get(url)["ETag"] == changed["ETag"]
    assert api.delete(url, headers={"If-Match": first}).status_code in (405, 412)
    assert api.patch(url, two, headers={"If-Match": f"{STALE}, {changed['ETag']}"}).status_code == 200
    assert api.patch(url, one).status_code == 200  # who names no version has the last word
    assert api.patch(url, two, headers={"If-Match": "*"}).status_code == 200


@pytest.mark.parametrize("view", VIEWS)
def test_a_tag_that_a_proxy_made_weak_still_names_the_row(view: str, rows: dict[str, Any]) -> None:
    api, _, url, (one, _) = rows[view]
    assert api.patch(url, one, headers={"If-Match": f"W/{api.get(url)['ETag']}"}).status_code == 200


@pytest.mark.parametrize("view", VIEWS)
def test_a_row_is_removed_only_as_it_was_read(view: str, rows: dict[str, Any]) -> None:
    api, made, url, (one, _) = rows[view]
    api.patch(url, one)
    assert api.delete(url, headers={"If-Match": made["ETag"]}).status_code in (405, 412)
    assert api.get(url).status_code == 200
    assert api.delete(url, headers={"If-Match": api.get(url)["ETag"]}).status_code in (405, 204)


def test_every_view_that_changes_rows_compares_versions() -> None:
    views = {route.callback.cls for _, route in CLOSED}  # type: ignore[union-attr]
    changing = {view for view in views if issubclass(view, ViewSetMixin) and hasattr(view, "partial_update")}
    assert {view.__name__ for view in changing if not issubclass(view, Versioned)} == set()


def test_what_an_agent_prefers_has_a_version_of_its_own(acme: Party) -> None:
    acme.api.post(f"{V1}/agents", {"agent_id": "crawler"})
    url = f"{V1}/agents/crawler/preferences"
    first = acme.api.get(url)["ETag"]
    changed = acme.api.put(url, {"strategy": "cost"}, headers={"If-Match": first})
    assert (changed.status_code, changed["ETag"]) == (200, acme.api.get(url)["ETag"])
    assert acme.api.put(url, {"strategy": "latency"}, headers={"If-Match": first}).status_code == 412


def test_a_limit_given_on_a_model_is_part_of_its_version(acme: Party, add_model: Callable[..., Any]) -> None:
    made = acme.api.post(f"{V1}/tenant-models", {"model_id": str(add_model("small").id), "daily_token_limit": 5})
    limit = acme.api.get(f"{V1}/limits").json()["results"][0]
    acme.api.patch(f"{V1}/limits/{limit['id']}", {"amount": "6"})
    url = f"{V1}/tenant-models/{made.json()['id']}"
    assert acme.api.patch(url, {"daily_token_limit": 7}, headers={"If-Match": made["ETag"]}).status_code == 412
    assert acme.api.post(f"{url}/disable", headers={"If-Match": made["ETag"]}).status_code == 412


def test_a_version_tells_mallory_nothing(acme: Party, mallory: Party) -> None:
    made = acme.api.post(f"{V1}/limits", {"scope": "tenant", "measure": "tokens", "period": "day", "amount": "5"})
    url = f"{V1}/limits/{made.json()['id']}"
    for tag in (made["ETag"], STALE, "*"):
        assert mallory.api.patch(url, {"amount": "1"}, headers={"If-Match": tag}).status_code == 404
        assert mallory.api.delete(url, headers={"If-Match": tag}).status_code == 404


@pytest.mark.django_db(transaction=True)
def test_of_eight_at_once_with_one_version_one_changes_the_row(at_once: Callable[..., list[Any]]) -> None:
    acme = make_party("acme")
    body = {"scope": "tenant", "measure": "tokens", "period": "day", "amount": "100"}
    made = acme.api.post(f"{V1}/limits", body)
    url = f"{V1}/limits/{made.json()['id']}"

    def change(amount: int) -> Callable[[], Any]:
        return lambda: client(acme.key).patch(url, {"amount": str(amount)}, headers={"If-Match": made["ETag"]})

    answers = at_once(*[change(amount) for amount in range(8)])
    assert sorted(each.status_code for each in answers) == [200] + [412] * 7
    winner = next(each for each in answers if each.status_code == 200)
    assert acme.api.get(url).json()["amount"] == winner.json()["amount"]


@pytest.mark.django_db(transaction=True)
def test_of_eight_at_once_on_a_catalogue_row_one_changes_it(
    at_once: Callable[..., list[Any]], add_model: Callable[..., Any], mint: Callable[..., str]
) -> None:
    key = mint(None, "operator")
    url = f"{V1}/embedding-models/catalog/{add_model('draft', state='draft').id}"
    first = client(key).get(url)["ETag"]

    def change(tokens: int) -> Callable[[], Any]:
        return lambda: client(key).patch(url, {"max_tokens": tokens}, headers={"If-Match": first})

    answers = at_once(*[change(tokens) for tokens in range(101, 109)])
    assert sorted(each.status_code for each in answers) == [200] + [412] * 7
