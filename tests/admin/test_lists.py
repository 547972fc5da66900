"""Lists ask the database as often for fifty rows as for one, and the ledger's never count."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from tests.admin.pages import read
from tests.admin.world import used
from tests.conftest import Party

LISTS = (
    "catalog_provider",
    "catalog_embeddingmodel",
    "catalog_price",
    "catalog_vectorspace",
    "tenants_tenant",
    "tenants_tenantmodel",
    "tenants_membership",
    "tenants_invitation",
    "tenants_user",
    "tenants_apikey",
    "billing_limit",
    "billing_usagerow",
    "billing_providercall",
)


def more(party: Party, add_model: Callable[..., Any], count: int) -> None:
    """As many rows more of every kind."""
    from billing.services import add_limit, configure_model
    from catalog.upstreams import add_provider
    from tenants.invitations import invite
    from tenants.members import add_member
    from tenants.minting import mint_key
    from tenants.models import Role, User
    from tenants.rights import Rights
    from tenants.services import add_tenant, add_user

    owner = User.objects.get(email="owner@acme.example")
    for number in range(count):
        add_provider(slug=f"provider-{number}", kind="openai")
        model = add_model(f"model-{number}", provider=f"provider-{number}")
        configure_model(tenant_id=party.id, model_id=model.id, limits={"daily_token_limit": 5})
        add_tenant(name=f"Tenant {number}", slug=f"tenant-{number}")
        user = add_user(email=f"person-{number}@acme.example")
        add_member(tenant_id=party.id, user=user, role=Role.ADMIN)
        if number < 40:
            invite(tenant_id=party.id, email=f"invited-{number}@acme.example", role=Role.VIEWER, by=owner)
        mint_key(tenant_id=party.id, name=f"key {number}", rights=Rights(frozenset({"embeddings"})), created_by=user)
        add_limit(
            tenant_id=party.id,
            scope="agent",
            scope_id=f"a{number}",
            measure="usd",
            period="day",
            amount=1,
            thresholds=[],
        )
        used(party.id, f"word-{number}", party.key_id)


def asked(client: Any, name: str) -> int:
    url = reverse(f"admin:{name}_changelist")
    read(client, url)  # what is asked once per process is not counted
    with CaptureQueriesContext(connection) as queries:
        read(client, url)
    return len(queries)


@pytest.mark.slow
def test_fifty_rows_cost_what_one_costs(
    chief: Any, owner: Any, furnished: Party, add_model: Callable[..., Any]
) -> None:
    of_members = [name for name in LISTS if name.startswith(("tenants_", "billing_")) and name != "tenants_user"]
    readers = [(chief, name) for name in LISTS] + [(owner, name) for name in of_members]
    before = [asked(client, name) for client, name in readers]
    more(furnished, add_model, 50)
    after = [asked(client, name) for client, name in readers]
    assert dict(zip(readers, after, strict=True)) == dict(zip(readers, before, strict=True))
    assert max(after) <= 15


def test_every_filter_of_a_list_can_be_used(chief: Any, furnished: Party) -> None:
    answers = {}
    for name in LISTS:
        url = reverse(f"admin:{name}_changelist")
        filters = [each for each in chief.get(url).context_data["cl"].filter_specs if hasattr(each, "parameter_name")]
        asked = [(each.parameter_name, value) for each in filters for value, _ in each.lookup_choices]
        answers |= {f"{url}?{one}={value}": chief.get(f"{url}?{one}={value}").status_code for one, value in asked}
    assert len(answers) > 10
    assert {url: status for url, status in answers.items() if status != 200} == {}


@pytest.mark.parametrize("name", ["billing_usagerow", "billing_providercall"])
def test_the_ledger_is_never_counted(chief: Any, furnished: Party, name: str) -> None:
    url = reverse(f"admin:{name}_changelist")
    for query in ("", "?time=day&outcome=failed", f"?tenant={furnished.id}"):
        with CaptureQueriesContext(connection) as queries:
            assert "acme-agent" in read(chief, url).text or name == "billing_providercall"
            read(chief, url + query)
        table = [each["sql"] for each in queries if f'FROM "{name}"' in each["sql"]]
        assert table
        assert [sql for sql in table if "COUNT(" in sql] == []
        assert [sql for sql in table if "LIMIT" not in sql] == []


def test_a_request_is_found_by_its_id(chief: Any, furnished: Party) -> None:
    from billing.models import UsageRow

    row = UsageRow.objects.get()
    url = reverse("admin:billing_usagerow_changelist")
    assert str(row.id) in read(chief, f"{url}?q={row.id}").text
    assert "acme-model" not in read(chief, f"{url}?q=nonsense").text
    text = read(chief, reverse("admin:billing_usagerow_change", args=[row.id])).text
    assert "acme-outcome" in text  # its calls to providers stand below it


@pytest.mark.django_db
def test_a_list_that_takes_too_long_says_so(chief: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from django.db import OperationalError

    from billing.usage_admin import UsageRowAdmin

    def slow(*_: Any) -> Any:
        raise OperationalError("canceling statement due to statement timeout")

    monkeypatch.setattr(UsageRowAdmin, "get_queryset", slow)
    url = reverse("admin:billing_usagerow_changelist")
    assert chief.get(url).headers["Location"] == f"{url}?time=hour"
    assert chief.get(f"{url}?time=hour").headers["Location"] == reverse("admin:index")
