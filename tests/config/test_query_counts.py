"""A list costs as many queries for fifty rows as for one, and never more than fifteen."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from audit.services import record
from catalog import listing_cache
from catalog.discovery_runs import begin_runs
from catalog.services import add_price
from catalog.upstreams import add_credential, add_provider
from core.clock import utc_now
from tenants import own_credentials
from tenants.invitations import invite
from tenants.minting import mint_key
from tenants.models import Invitation
from tenants.rights import Rights
from tenants.services import add_tenant
from tests.admin.people import person
from tests.architecture.test_routes import CLOSED
from tests.conftest import Party

V1, MODELS = "/api/v1", "/api/v1/embedding-models"
MOST = 15


@pytest.fixture
def world(
    acme: Party, operator: Any, add_model: Callable[..., Any]
) -> dict[str, tuple[Any, str, Callable[[int], Any]]]:
    """By its view and action: who asks for a list, where it is, and what adds the n-th row to it."""
    model = add_model("first")
    owner = person("owner@acme.test", **{str(acme.id): "owner"})
    rights = Rights(frozenset({"embeddings"}))

    def invited(n: int) -> None:
        row, _ = invite(tenant_id=acme.id, email=f"{n}@example.com", role="viewer", by=owner)  # type: ignore[arg-type]
        # Not all on one day: a tenant sends so many at most.
        Invitation.objects.filter(id=row.id).update(created_at=utc_now().replace(year=2020))

    def brought(n: int) -> None:
        add_provider(slug=f"known-{n}", kind="openai")
        secret = {"api_key": "sk-of-the-tests"}
        own_credentials.add_credential(tenant_id=acme.id, provider=f"known-{n}", secret=secret)

    def looked_at(n: int) -> None:
        add_provider(slug=f"listed-{n}", kind="openai", secret={"api_key": "sk-of-the-tests"})
        begin_runs(slug=f"listed-{n}", actor="tests")

    return {
        "TenantViews.list": (operator, f"{V1}/tenants", lambda n: add_tenant(name=f"t{n}", slug=f"t{n}")),
        "ApiKeyViews.list": (
            acme.api,
            f"{V1}/api-keys",
            lambda n: mint_key(tenant_id=acme.id, name=f"k{n}", rights=rights, created_by=owner),
        ),
        "MemberViews.list": (
            acme.api,
            f"{V1}/members",
            lambda n: person(f"{n}@acme.test", **{str(acme.id): "viewer"}),
        ),
        "InvitationViews.list": (acme.api, f"{V1}/invitations", invited),
        "EventViews.list": (
            acme.api,
            f"{V1}/audit-events",
            lambda n: record("thing.changed", tenant_id=acme.id, subject="thing", subject_id=n),
        ),
        "CatalogViews.list": (acme.api, f"{MODELS}/catalog", lambda n: add_model(f"m{n}", space=f"s{n}")),
        "CatalogViews.prices": (
            operator,  # outside of a transaction a tenant's key reads it too; here the test's own makes it the tenant's
            f"{MODELS}/catalog/{model.id}/prices",
            lambda n: add_price(model_id=model.id, cost_per_million_tokens=Decimal(n) / 100, source="tests"),
        ),
        "CatalogViews.events": (
            operator,
            f"{MODELS}/catalog/{model.id}/events",
            lambda n: operator.post(
                f"{MODELS}/catalog/{model.id}/transition", {"to": ("unavailable", "available")[n % 2], "reason": "x"}
            ),
        ),
        "ProviderViews.list": (
            operator,
            f"{MODELS}/providers",
            lambda n: add_provider(slug=f"p{n}", kind="openai", secret={"api_key": "sk-of-the-tests"}),
        ),
        "ProviderViews.credentials": (
            operator,
            f"{MODELS}/providers/vendor/credentials",
            lambda n: add_credential(slug="vendor", secret={"api_key": f"sk-of-the-tests-{n}"}),
        ),
        "OwnCredentialViews.list": (acme.api, f"{V1}/provider-credentials", brought),
        "DiscoveryRunViews.list": (operator, f"{MODELS}/discovery/runs", looked_at),
    }


LISTS = [
    "TenantViews.list",
    "ApiKeyViews.list",
    "MemberViews.list",
    "InvitationViews.list",
    "EventViews.list",
    "CatalogViews.list",
    "CatalogViews.prices",
    "CatalogViews.events",
    "ProviderViews.list",
    "ProviderViews.credentials",
    "OwnCredentialViews.list",
    "DiscoveryRunViews.list",
]


@pytest.mark.parametrize("name", LISTS)
def test_a_list_costs_the_same_for_fifty_rows(name: str, world: dict[str, Any]) -> None:
    api, url, add = world[name]

    def cost() -> tuple[int, int]:
        listing_cache.drop()
        with CaptureQueriesContext(connection) as queries:
            answer = api.get(f"{url}?limit=100")
        assert answer.status_code == 200, answer.json()
        return len(answer.json().get("results", answer.json().get("models"))), len(queries)

    add(0)
    rows, once = cost()
    assert rows >= 1
    for number in range(1, 50):
        add(number)
    more, now = cost()
    assert more >= rows + 49
    assert now == once <= MOST


def test_no_list_of_tenants_and_catalogue_is_missing() -> None:
    """Whatever shows pages of rows is a list: by its name, or by ordering them itself."""
    found = set()
    for _, route in CLOSED:
        callback: Any = route.callback
        if callback.cls.__module__.startswith(("tenants.", "catalog.")):
            for action in getattr(callback, "actions", {}).values():
                if action == "list" or (action in ("prices", "events", "credentials")):
                    found.add(f"{callback.cls.__name__}.{action}")
    assert found == set(LISTS)
