"""`/api/v1/tenants`: the operator's, and nobody else's."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from audit.models import AuditEvent
from core.changes import Change
from tenants.loading import load_tenant
from tenants.models import Tenant
from tenants.selectors import retentions
from tests.conftest import Party, make_party

TENANTS = "/api/v1/tenants"


def test_a_tenant_is_added_and_changed(operator: Any) -> None:
    answer = operator.post(TENANTS, {"name": "Initech", "slug": "initech", "tier": "enterprise"})
    row = answer.json()
    assert answer.status_code == 201, row
    assert row["created_at"].endswith("Z")
    url = f"{TENANTS}/{row['id']}"
    changed = operator.patch(url, {"name": "Initech Ltd", "settings": {"unpriced_allowed": True}}).json()
    assert (changed["name"], changed["settings"]) == ("Initech Ltd", {"unpriced_allowed": True})
    assert operator.get(url).json() == changed
    assert [each["slug"] for each in operator.get(TENANTS).json()["results"]] == ["initech"]


@pytest.mark.parametrize(
    ("change", "status", "field"),
    [
        ({"slug": "acme"}, 409, "slug"),
        ({"slug": "Has Spaces"}, 400, "slug"),
        ({"name": ""}, 400, "name"),
        ({"tier": "gold"}, 400, "tier"),
        ({"owner": "me"}, 400, "owner"),
    ],
)
def test_bad_input_is_named(change: dict[str, str], status: int, field: str, operator: Any, acme: Party) -> None:
    answer = operator.post(TENANTS, {"name": "New", "slug": "new"} | change)
    assert (answer.status_code, list(answer.json()["errors"])) == (status, [field]), answer.json()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"slug": "other"}, "slug"),
        ({"settings": {"colour": "red"}}, "settings"),
        ({"settings": {"unpriced_allowed": "perhaps"}}, "settings"),
        ({"settings": {"cache_enabled": 1}}, "settings"),
        ({"settings": {"fallback": "elsewhere"}}, "settings"),
        ({"settings": {"cache_ttl_s": 0}}, "settings"),
        ({"settings": {"retention_days": 61}}, "settings"),
        ({"settings": {"retention_days": 3651}}, "settings"),
        ({"settings": {"retention_days": "90"}}, "settings"),
        ({"settings": {"cache_ttl_s": 31 * 24 * 3600}}, "settings"),
        ({"settings": {"cache_ttl_s": 1.5}}, "settings"),
        ({"settings": {"cache_hit_cost_per_million_tokens": "-0.01"}}, "settings"),
        ({"settings": {"cache_hit_cost_per_million_tokens": "1000.01"}}, "settings"),
        ({"settings": {"cache_hit_cost_per_million_tokens": "NaN"}}, "settings"),
        ({"settings": {"cache_hit_cost_per_million_tokens": "cheap"}}, "settings"),
        ({"is_suspended": "perhaps"}, "is_suspended"),
    ],
)
def test_a_change_that_makes_no_sense_is_named(change: dict[str, Any], field: str, operator: Any, acme: Party) -> None:
    answer = operator.patch(f"{TENANTS}/{acme.id}", change)
    assert (answer.status_code, list(answer.json()["errors"])) == (400, [field])


def test_a_setting_that_makes_no_sense_is_named_itself(operator: Any, acme: Party) -> None:
    for name, value in {"retention_days": 61, "cache_ttl_s": 0, "cache_hit_cost_per_million_tokens": "-1"}.items():
        answer = operator.patch(f"{TENANTS}/{acme.id}", {"settings": {name: value}})
        assert name in answer.json()["detail"]


def test_how_a_tenant_is_cached_reaches_the_data_plane(operator: Any, acme: Party) -> None:
    def settings() -> tuple[bool, int, int]:
        config = load_tenant(acme.id)
        assert config is not None
        of = config.settings
        return of.cache_enabled, of.cache_ttl_s, of.hit_nano_per_million

    assert settings() == (True, 3600, 0)
    wish = {"cache_enabled": False, "cache_ttl_s": 60, "cache_hit_cost_per_million_tokens": "0.002"}
    changed = operator.patch(f"{TENANTS}/{acme.id}", {"settings": wish})
    assert changed.json()["settings"] == wish
    assert settings() == (False, 60, 2_000_000)


def test_how_long_requests_are_kept_is_set_and_given_back(operator: Any, acme: Party) -> None:
    def told(days: int | None) -> Any:
        return operator.patch(f"{TENANTS}/{acme.id}", {"settings": {"retention_days": days}}).json()["settings"]

    assert (told(62), retentions()) == ({"retention_days": 62}, {acme.id: 62})
    assert (told(None), retentions()) == ({}, {})
    rows = AuditEvent.objects.filter(tenant_id=acme.id, action="tenant.changed").order_by("created_at")
    assert [each.after["settings"] for each in rows] == [{"retention_days": 62}, {}]


def test_a_suspended_tenant_is_told_so_until_it_is_not(operator: Any, acme: Party) -> None:
    url = f"{TENANTS}/{acme.id}"
    operator.patch(url, {"is_suspended": True})
    answer = acme.api.get("/api/v1/tenant-models")
    assert (answer.status_code, answer.json()["code"]) == (403, "tenant_suspended")
    operator.patch(url, {"is_suspended": False})
    assert acme.api.get("/api/v1/tenant-models").status_code == 200


def test_a_change_raises_the_version_and_is_published(operator: Any, acme: Party, changes: Any, committed: Any) -> None:
    before = Tenant.objects.get(id=acme.id).version
    with committed():
        operator.patch(f"{TENANTS}/{acme.id}", {"is_suspended": True})
    assert changes() == [Change(acme.id)]
    config = load_tenant(acme.id)
    assert config is not None
    assert (config.version, config.is_suspended) == (before + 1, True)


def test_tenants_are_found_by_a_part_of_their_name_and_listed_as_asked(operator: Any) -> None:
    for slug, name in (("alpha", "First"), ("beta", "Second"), ("gamma", "An alphabet")):
        operator.post(TENANTS, {"slug": slug, "name": name})
    operator.patch(f"{TENANTS}/{operator.get(f'{TENANTS}?q=beta').json()['results'][0]['id']}", {"is_suspended": True})

    def slugs(query: str) -> list[str]:
        first = operator.get(f"{TENANTS}?limit=2&{query}").json()
        rest = operator.get(first["next"]).json()["results"] if first["next"] else []
        return [each["slug"] for each in first["results"] + rest]

    assert slugs("q=ALPHA") == ["alpha", "gamma"]
    assert slugs("is_suspended=true") == ["beta"]
    assert (slugs("ordering=-slug"), slugs("")) == (["gamma", "beta", "alpha"], ["alpha", "beta", "gamma"])
    assert (slugs("ordering=created_at"), slugs("ordering=-created_at")) == (
        slugs("ordering=slug"),
        slugs("ordering=-slug"),
    )
    assert operator.get(f"{TENANTS}?ordering=tier").json()["errors"].keys() == {"ordering"}


def test_mallory_sees_no_tenants_not_even_her_own(acme: Party, mallory: Party) -> None:
    refused = [
        mallory.api.get(TENANTS),
        mallory.api.get(f"{TENANTS}/{mallory.id}"),
        mallory.api.get(f"{TENANTS}/{acme.id}"),
        mallory.api.post(TENANTS, {"name": "x", "slug": "x"}),
        mallory.api.patch(f"{TENANTS}/{mallory.id}", {"tier": "enterprise"}),
    ]
    assert {each.status_code for each in refused} == {403}
    assert Tenant.objects.count() == 2


def test_what_is_not_there_is_404(operator: Any) -> None:
    assert operator.get(f"{TENANTS}/{uuid4()}").json()["code"] == "not_found"
    answer = operator.get(f"{TENANTS}/not-an-id")
    assert (answer.status_code, answer["Content-Type"]) == (404, "application/problem+json")
    assert operator.put(f"{TENANTS}/{uuid4()}", {}).json()["code"] == "method_not_allowed"


def test_a_body_that_is_no_json_is_refused(operator: Any) -> None:
    broken = operator.post(TENANTS, "{", content_type="application/json")
    assert (broken.status_code, broken.json()["code"]) == (400, "invalid_request")
    form = operator.post(TENANTS, "name=x", content_type="application/x-www-form-urlencoded")
    assert (form.status_code, form.json()["code"]) == (415, "unsupported_media_type")
    assert operator.post(TENANTS, ["a", "list"]).status_code == 400


def test_the_list_costs_as_many_queries_for_fifty_as_for_one(operator: Any) -> None:
    def cost() -> int:
        with CaptureQueriesContext(connection) as queries:
            assert operator.get(TENANTS).status_code == 200
        return len(queries)

    make_party("t0")
    once = cost()
    for index in range(1, 50):
        make_party(f"t{index}")
    assert cost() == once
