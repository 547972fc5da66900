"""The first page of the admin: each sees their own, an empty platform says what to do, and nothing is dear."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from django.core.cache import cache
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from billing.services import configure_model
from config.dashboard import short_count, usd
from core.clock import utc_now
from tenants.models import Tenant, User
from tenants.services import change_tenant
from tests.admin.people import person
from tests.billing.test_dashboard import called, used
from tests.conftest import Party


@pytest.fixture(autouse=True)
def nothing_kept(db: None) -> None:
    cache.delete(f"dashboard:platform:{utc_now():%Y-%m-%d}")


@pytest.fixture
def parties(acme: Party, globex: Party, mallory: Party, add_model: Callable[..., Any]) -> tuple[Party, Party]:
    """Acme and globex, with marks on everything that is theirs."""
    for party, tokens in ((acme, 1_234), (globex, 777_777)):
        model = add_model(f"model-of-{party.slug}")
        configure_model(tenant_id=party.id, model_id=model.id, limits={})
        facts = {"model": f"model-of-{party.slug}", "provider": "vendor"}
        used(utc_now(), party.id, tokens=tokens, usd="12.5", **facts)
        used(utc_now(), party.id, tokens=0, usd="0", status=f"failed_{party.slug}", **facts)
        called(utc_now(), party.id, detail=f"detail of {party.slug}", **facts)
    return acme, globex


def page(user: User) -> str:
    client = Client()
    client.force_login(user)
    answer = client.get("/admin/")
    assert answer.status_code == 200
    return answer.content.decode()


def member(party: Party, role: str = "viewer") -> User:
    return person(f"{role}@{party.slug}.test", **{str(party.id): role})


@pytest.mark.parametrize("role", ["owner", "admin", "billing", "viewer"])
def test_a_member_sees_their_tenant_and_no_other(role: str, parties: tuple[Party, Party]) -> None:
    acme, _ = parties
    shown = page(member(acme, role))
    assert all(mark in shown for mark in ("Acme", "1,234", "$12.50", "failed_acme", "detail of acme", "model-of-acme"))
    assert not [mark for mark in ("globex", "Globex", "777,777", "779,011", "Tenants this month") if mark in shown]


def test_mallory_sees_nothing_of_others(mallory: Party, parties: tuple[Party, Party]) -> None:
    shown = page(member(mallory, "owner"))
    assert not [mark for mark in ("acme", "Acme", "globex", "1,234", "777,777") if mark in shown]
    client = Client()
    client.force_login(User.objects.get(email="owner@mallory.test"))
    for query in ("?tenant=acme", f"?tenant={parties[0].id}", f"?tenant_id={parties[0].id}"):
        found = client.get(f"/admin/{query}", follow=True, headers={"x-tenant": "acme"}).content.decode()
        assert not [mark for mark in ("failed_acme", "detail of acme", "model-of-acme", "1,234") if mark in found]


def test_an_operator_sees_the_sums_and_who_used_most(parties: tuple[Party, Party]) -> None:
    shown = page(person("op@quiver.test", is_operator=True))
    for mark in ("Platform", "Tenants this month", "779,011", "$25.00", "failed_acme", "failed_globex"):
        assert mark in shown
    assert shown.index(">Globex<") < shown.index(">Acme<")  # as dear, but more tokens


def test_a_member_of_two_sees_the_one_they_chose(parties: tuple[Party, Party]) -> None:
    acme, globex = parties
    user = person("both@quiver.test", **{str(acme.id): "viewer", str(globex.id): "viewer"})
    client = Client()
    client.force_login(user)
    session = client.session
    session["tenant_id"] = str(globex.id)
    session.save()
    shown = client.get("/admin/").content.decode()
    assert "777,777" in shown
    assert not [mark for mark in ("1,234", "model-of-acme", "failed_acme") if mark in shown]


def test_an_empty_tenant_is_told_what_to_do(acme: Party, add_model: Callable[..., Any]) -> None:
    owner = member(acme, "owner")
    shown = page(owner)
    assert "Start here" in shown
    assert "Authorization: Bearer $QUIVER_API_KEY" in shown
    assert "&quot;model&quot;: &quot;auto&quot;" in shown
    assert "No model is configured yet" in shown
    configure_model(tenant_id=acme.id, model_id=add_model("small").id, limits={})
    assert "&quot;model&quot;: &quot;small&quot;" in page(owner)
    used(utc_now() - timedelta(days=29, hours=-1), acme.id)
    assert "Start here" not in page(owner)


def test_an_empty_platform_is_told_what_to_do(db: None) -> None:
    assert not Tenant.objects.exists()
    shown = page(person("op@quiver.test", is_operator=True))
    assert all(mark in shown for mark in ("Start here", "Add a tenant", "$QUIVER_API_KEY", "Nothing failed"))


def test_a_suspended_tenants_people_are_told(acme: Party) -> None:
    change_tenant(tenant_id=acme.id, is_suspended=True)
    assert "suspended" in page(member(acme, "owner"))


def test_names_are_escaped(acme: Party, add_model: Callable[..., Any]) -> None:
    change_tenant(tenant_id=acme.id, name="<script>alert(1)</script>")
    called(utc_now(), acme.id, detail="<img src=x onerror=alert(1)>")
    for user in (member(acme), person("op@quiver.test", is_operator=True)):
        shown = page(user)
        assert not [mark for mark in ("<script>alert(1)", "<img src=x") if mark in shown]


def test_what_takes_too_long_is_said(parties: tuple[Party, Party], monkeypatch: pytest.MonkeyPatch) -> None:
    from billing import dashboard

    monkeypatch.setattr(dashboard, "_patiently", lambda ask: None)
    for user in (member(parties[0]), person("op@quiver.test", is_operator=True)):
        shown = page(user)
        assert all(mark in shown for mark in ("too much to sum up", "takes too long", "model-of-acme"))


def test_the_page_costs_the_same_with_more_rows(parties: tuple[Party, Party], add_model: Callable[..., Any]) -> None:
    acme, _ = parties
    users = [member(acme), person("op@quiver.test", is_operator=True)]

    def queries() -> list[int]:
        cache.delete(f"dashboard:platform:{utc_now():%Y-%m-%d}")
        found = []
        for user in users:
            client = Client()
            client.force_login(user)
            with CaptureQueriesContext(
                connection,
            ) as captured:
                client.get("/admin/")
            found.append(len(captured))
        return found

    before = queries()
    for number in range(15):
        configure_model(tenant_id=acme.id, model_id=add_model(f"m{number}").id, limits={})
        used(utc_now(), UUID(int=number), status="provider_error")
        called(utc_now(), acme.id)
    assert queries() == before
    assert max(before) <= 25


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        ("0", "$0.00"),
        ("0.000000001", "$0.000000001"),
        ("0.0000134", "$0.000014"),
        ("0.25", "$0.25"),
        ("0.1", "$0.10"),
        ("0.999", "$1.00"),
        ("1234567.891", "$1,234,567.89"),
    ],
)
def test_money_is_readable(amount: str, text: str) -> None:
    assert usd(Decimal(amount)) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999_999, "999,999"), (1_000_000, "1M"), (1_239_999, "1.23M"), (2_500_000_000, "2.5B")],
)
def test_counts_are_readable(number: int, text: str) -> None:
    assert short_count(number) == text
