"""What people set in the admin about caching, shared calls and how long requests are kept."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from catalog.models import Provider
from tenants.models import Tenant
from tests.admin.people import person, sign_in
from tests.conftest import Party

pytestmark = pytest.mark.django_db


def signed_in(email: str, **roles: Any) -> Client:
    person(email, **roles)
    browser = Client()
    sign_in(browser, email)
    return browser


def test_an_operator_adds_a_tenant_without_being_asked_for_settings() -> None:
    browser = signed_in("op@example.com", is_operator=True)
    browser.post("/admin/tenants/tenant/add/", {"name": "Initech", "slug": "initech", "tier": "standard"})
    assert Tenant.objects.get(slug="initech").settings == {}


def test_an_owner_sets_how_long_vectors_are_kept_and_what_they_cost(acme: Party) -> None:
    browser = signed_in("owner@example.com", **{str(acme.id): "owner"})
    url = f"/admin/tenants/tenant/{acme.id}/change/"
    form = {"name": "Acme", "tier": "standard", "cache_ttl_s": 7200, "cache_hit_cost_per_million_tokens": "0.002"}
    answer = browser.post(url, form | {"thresholds": "80, 90, 95, 100"})
    assert answer.status_code == 302, answer.context["errors"]
    told = {"cache_enabled": False, "cache_ttl_s": 7200, "cache_hit_cost_per_million_tokens": "0.002"}
    assert Tenant.objects.get(id=acme.id).settings == told
    assert b'value="7200"' in browser.get(url).content


def test_an_owner_sets_how_long_requests_are_kept_and_takes_it_back(acme: Party) -> None:
    browser = signed_in("owner@example.com", **{str(acme.id): "owner"})
    url = f"/admin/tenants/tenant/{acme.id}/change/"
    form = {"name": "Acme", "tier": "standard", "cache_ttl_s": 3600, "cache_hit_cost_per_million_tokens": "0"}
    form |= {"cache_enabled": "on", "thresholds": "80, 90, 95, 100"}
    for days, told in ((90, {"retention_days": 90}), ("", {})):
        answer = browser.post(url, form | {"retention_days": days})
        assert answer.status_code == 302, answer.context["errors"]
        assert Tenant.objects.get(id=acme.id).settings == told


@pytest.mark.parametrize(
    "wrong",
    [{"cache_ttl_s": ""}, {"cache_ttl_s": 0}, {"cache_hit_cost_per_million_tokens": -1}, {"retention_days": 61}],
)
def test_nonsense_is_told_beside_its_field(wrong: dict[str, Any], acme: Party) -> None:
    browser = signed_in("owner@example.com", **{str(acme.id): "owner"})
    form = {"name": "Acme", "tier": "standard", "cache_ttl_s": 60, "cache_hit_cost_per_million_tokens": "0"}
    answer = browser.post(f"/admin/tenants/tenant/{acme.id}/change/", form | wrong)
    assert list(answer.context["adminform"].form.errors) == list(wrong)
    assert Tenant.objects.get(id=acme.id).settings == {}


def test_an_operator_sets_how_long_texts_gather(add_model: Any) -> None:
    add_model(tokenizer="bytes")
    row = Provider.objects.get(slug="vendor")
    browser = signed_in("op@example.com", is_operator=True)
    url = f"/admin/catalog/provider/{row.id}/change/"
    names = ("max_items", "max_tokens_per_call", "max_concurrency", "timeout_s")
    form = {
        "is_enabled": "on",
        "discovery": row.discovery,
        **{name: getattr(row, name) for name in names},
        "batch_window_ms": 20,
    }
    inlines = {"credentials-TOTAL_FORMS": 0, "credentials-INITIAL_FORMS": 0}
    assert browser.post(url, form | inlines).status_code == 302
    row.refresh_from_db()
    assert row.batch_window_ms == 20
    answer = browser.post(url, form | inlines | {"mixes_tenants": "on"})
    assert list(answer.context["adminform"].form.errors) == ["mixes_tenants"]


def test_mallory_changes_no_tenant_but_her_own(acme: Party, mallory: Party) -> None:
    browser = signed_in("mallory@example.com", **{str(mallory.id): "owner"})
    form = {"name": "Mine", "tier": "standard", "cache_ttl_s": 1, "cache_hit_cost_per_million_tokens": "1"}
    browser.post(f"/admin/tenants/tenant/{acme.id}/change/", form)
    assert Tenant.objects.get(id=acme.id).settings == {}
