"""Every address of the admin: what leaks, what changes, what breaks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
from django.urls import reverse

from tests.admin.pages import links_of
from tests.admin.world import World, addresses, browser, fingerprint, furnish, keys_of_rows
from tests.conftest import Party

# Addresses at which everybody may do something of their own.
OF_EVERYBODY = ("/admin/logout/", "/admin/switch/", "/admin/password_change/", "/admin/login/", "/admin/jsi18n/")
OF_TENANTS = ("tenants.", "billing.", "audit.")
OF_POSTS = ("/admin/logout/", "/admin/switch/")


@pytest.fixture
def world(acme: Party, globex: Party, add_model: Callable[..., Any]) -> World:
    from catalog import services, upstreams

    upstreams.add_provider(
        slug="vendor",
        kind="openai",
        base_url="https://concealed.example",
        region="concealed-region",
        project="concealed-project",
    )
    upstreams.add_credential(
        slug="vendor", secret={"api_key": "sk-concealed-secret-concealed"}, label="concealed label"
    )
    model = add_model("small")
    add_model("concealed-draft", state="draft")
    services.add_price(
        model_id=model.id,
        cost_per_million_tokens=model.prices.first().cost_per_million_tokens,
        source="concealed source",
        reason="concealed reason",
    )
    furnish(acme, model)
    furnish(globex, model)
    own, others = keys_of_rows(acme)
    ids = [each for label, found in others.items() if label.startswith(OF_TENANTS) for each in found]
    secrets = tuple(each for each in ids if len(each) == 36)
    return World(own, others, ("globex", "concealed", *secrets))


def as_role(role: str, slug: str = "acme") -> Any:
    from tenants.models import User

    return browser(User.objects.get(email=f"{role}@{slug}.example"))


def as_operator() -> Any:
    from tenants.services import add_user

    return browser(add_user(email="operator@quiver.example", is_operator=True))


@dataclass(frozen=True)
class Answer:
    """What is looked at of an answer; Django's own keep all that their templates knew."""

    status_code: int
    text: str


def crawl(client: Any, start: set[str]) -> dict[str, Answer]:
    """Follows all links from these addresses; returns every answer."""
    answers: dict[str, Answer] = {}
    waiting = set(start)
    while waiting:
        url = waiting.pop()
        answer = client.get(url)
        text = answer.content.decode()
        answers[url] = Answer(answer.status_code, text)
        is_page = answer.status_code == 200 and "text/html" in answer.headers.get("Content-Type", "")
        found = links_of(url, text) if is_page else set()
        # Orders and filters are tried once each, not in all their combinations.
        fresh = {each for each in found - answers.keys() if not ("?" in each and "?" in url)}
        waiting |= {each for each in fresh if not each.startswith(OF_EVERYBODY) and "_filters=" not in each}
    return answers


def everywhere(world: World) -> set[str]:
    return {*addresses(world.acme), *addresses(world.others)}


@pytest.mark.slow
@pytest.mark.parametrize("role", ["owner", "viewer"])
def test_a_member_finds_nothing_of_others_and_changes_nothing_by_looking(world: World, role: str) -> None:
    client = as_role(role)
    before = fingerprint()
    answers = crawl(client, everywhere(world))
    assert sum(answer.status_code == 200 for answer in answers.values()) > 50
    assert {url: answer.status_code for url, answer in answers.items() if answer.status_code >= 500} == {}
    leaks = {
        (url, mark)
        for url, answer in answers.items()
        for mark in world.marks
        # What was asked for comes back in the address of a page that says no; bodies must not tell more.
        if mark in answer.text.lower().replace(url.lower(), "")
    }
    assert leaks == set()
    assert fingerprint() == before


def post_everywhere(client: Any, world: World) -> dict[str, int]:
    """Sends every address a body that many of them would take; returns what each answered."""
    sent = {
        "post": "yes", "name": "x", "slug": "x", "email": "x@example.com", "role": "viewer", "amount": "1",
        "priority": "3", "to": "deprecated", "reason": "x", "overlap_seconds": "0", "scopes": "embeddings",
        "mode": "soft", "kind": "openai",
        "target": "tenant:", "measure": "usd", "period": "day", "user": "1", "tenant": world.acme["tenants.tenant"][0],
        "model": world.others["catalog.embeddingmodel"][0], "action": "delete_selected", "_selected_action": "1",
    }  # fmt: skip
    leave = reverse("admin:tenants_membership_delete", args=[_own_membership(client)])  # which everybody may
    urls = sorted(url for url in everywhere(world) if not url.startswith(OF_EVERYBODY) and url != leave)
    return {url: client.post(url, sent).status_code for url in urls}


@pytest.mark.slow
def test_a_viewer_changes_nothing(world: World) -> None:
    client = as_role("viewer")
    before = fingerprint()
    assert {url: status for url, status in post_everywhere(client, world).items() if status >= 500} == {}
    assert fingerprint() == before


@pytest.mark.slow
def test_what_a_viewer_sends_in_vain_an_owner_does_not(world: World) -> None:
    client, before = as_role("owner"), fingerprint()
    assert {url: status for url, status in post_everywhere(client, world).items() if status >= 500} == {}
    after = fingerprint()
    changed = {label for label in after if after[label] != before[label]}
    assert {"tenants.ApiKey", "tenants.TenantModel", "tenants.Invitation", "billing.Limit"} <= changed
    assert not changed & {"catalog.EmbeddingModel", "catalog.Provider", "catalog.Price", "billing.UsageRow"}


def _own_membership(client: Any) -> int:
    from tenants.models import Membership

    return Membership.objects.get(user_id=client.session["_auth_user_id"]).pk


@pytest.mark.slow
def test_no_page_breaks_for_an_operator_or_changes_anything(world: World) -> None:
    client = as_operator()
    before = fingerprint()
    answers = crawl(client, everywhere(world))
    assert {
        url: answer.status_code for url, answer in answers.items() if answer.status_code >= 400 and _is_there(url)
    } == {}
    text = "".join(answer.text for answer in answers.values())
    assert "globex" in text
    assert "sk-concealed" not in text
    assert fingerprint() == before


def _is_there(url: str) -> bool:
    """Not all rows can be added or deleted, some pages take a POST only, and some must be asked for something."""
    is_asked = url.startswith(("/admin/autocomplete/", "/admin/search/", "/admin/r/"))
    return not is_asked and not url.startswith(OF_POSTS) and not url.endswith(("/add/", "/delete/"))


@pytest.mark.django_db
def test_no_page_breaks_on_an_empty_platform() -> None:
    from catalog.models import Provider
    from tenants.models import Tenant

    assert not Provider.objects.exists()
    assert not Tenant.objects.exists()
    answers = crawl(as_operator(), set(addresses({})))
    assert {url for url, answer in answers.items() if answer.status_code >= 400 and _is_there(url)} == set()


@pytest.mark.django_db
@pytest.mark.parametrize(
    "query",
    ["q=%00", "q=" + "x" * 3000, "p=99999999", "p=x", "o=99.-99", "all=", "e=1", "state__exact=nonsense", "_popup=1"],
)
def test_no_list_breaks_on_nonsense(query: str) -> None:
    from django.contrib import admin

    client = as_operator()
    lists = [reverse(f"admin:{m._meta.app_label}_{m._meta.model_name}_changelist") for m in admin.site._registry]
    assert [url for url in lists if client.get(f"{url}?{query}").status_code >= 500] == []


@pytest.mark.parametrize(
    "question",
    [
        ("tenants", "tenantmodel", "tenant", "globex"),
        ("tenants", "membership", "user", "globex"),
        ("tenants", "tenantmodel", "model", "concealed"),
        ("catalog", "embeddingmodel", "provider", "vendor"),
        ("tenants", "apikey", "created_by", "globex"),
    ],
)
def test_autocompletes_offer_nothing_of_others(world: World, question: tuple[str, str, str, str]) -> None:
    app, model, field, term = question
    client = as_role("owner")
    asked = {"app_label": app, "model_name": model, "field_name": field, "term": term}
    answer = client.get("/admin/autocomplete/", asked)
    said = answer.json().get("results", []) if answer.status_code == 200 else []
    assert said == []


@pytest.mark.parametrize("term", ["globex", "concealed", "owner@"])
def test_the_search_of_the_frame_finds_nothing_of_others(world: World, term: str) -> None:
    text = as_role("owner").get("/admin/search/", {"s": term}, headers={"HX-Request": "true"}).content.decode().lower()
    assert [mark for mark in world.marks if mark in text.replace(term, "")] == []


@pytest.mark.parametrize("query", ["digest__gte=x", "tenant__slug=globex", "model__provider__base_url__startswith=h"])
def test_columns_cannot_be_searched_bit_by_bit(world: World, query: str) -> None:
    client = as_role("owner")
    assert client.get(f"/admin/tenants/apikey/?{query}").status_code == 400


def test_the_log_of_changes_is_for_operators(world: World) -> None:
    row = UUID(world.acme["tenants.tenantmodel"][0])
    url = reverse("admin:tenants_tenantmodel_history", args=[row])
    assert as_role("owner").get(url).status_code == 404
    assert as_operator().get(url).status_code == 200
