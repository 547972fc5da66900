"""The second wall, told by rows: what each role sees and writes, and how it ends with its transaction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from django.db import DatabaseError, IntegrityError, ProgrammingError, connection, transaction
from django.db.transaction import TransactionManagementError

from tenants.models import Agent, ApiKey, Membership, Tenant, User
from tenants.walls import act_for, are_up, as_platform, roles_of
from tests.conftest import Party

pytestmark = pytest.mark.django_db


def agent(party: Party) -> Agent:
    return Agent.objects.create(tenant_id=party.id, agent_id=f"of-{party.slug}")


def who() -> tuple[str, str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_user, coalesce(current_setting('app.tenant', true), '')")
        found: tuple[str, str] = cursor.fetchone()
        return found


def roles() -> Any:
    return roles_of(connection.settings_dict["NAME"])


def test_a_tenant_sees_its_own_rows_alone_and_counts_them_alone(acme: Party, globex: Party) -> None:
    agent(acme), agent(globex)
    act_for(acme.id)
    assert [row.agent_id for row in Agent.objects.all()] == ["of-acme"]
    assert ApiKey.objects.count() == Tenant.objects.count() == 1


def test_a_tenant_writes_no_row_of_anothers(acme: Party, globex: Party) -> None:
    theirs = agent(globex)
    act_for(acme.id)
    assert Agent.objects.filter(id=theirs.id).update(name="taken") == 0
    assert Agent.objects.filter(id=theirs.id).delete()[0] == 0
    with pytest.raises(ProgrammingError, match="row-level security"), transaction.atomic():
        agent(globex)
    mine = agent(acme)
    with pytest.raises(ProgrammingError, match="row-level security"), transaction.atomic():
        Agent.objects.filter(id=mine.id).update(tenant_id=globex.id)


def test_without_a_tenant_the_role_sees_nothing(acme: Party) -> None:
    agent(acme)
    act_for(acme.id)
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('app.tenant', '', true)")
    assert not Agent.objects.exists()
    assert not Tenant.objects.exists()


def test_rows_that_are_the_platforms_are_no_tenants(acme: Party, mint: Callable[..., str]) -> None:
    mint(None, "operator")
    act_for(acme.id)
    assert not ApiKey.objects.filter(tenant=None).exists()


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM catalog_providercredential",
        "SELECT * FROM django_session",
        "UPDATE tenants_tenant SET tier = 'enterprise'",
        "UPDATE tenants_tenant SET is_suspended = false",
        "UPDATE tenants_user SET is_superuser = true",
        "UPDATE catalog_provider SET base_url = 'https://elsewhere.example'",
        "UPDATE billing_usagerow SET cost_usd = 0",
        "DELETE FROM billing_usagerow",
        "SELECT * FROM billing_usagerow_default",
        "SELECT * FROM billing_idempotencyclaim",
        "CREATE TABLE mine ()",
    ],
)
def test_what_no_tenant_may_do_postgresql_refuses(acme: Party, statement: str) -> None:
    act_for(acme.id)
    with pytest.raises(ProgrammingError, match="permission denied"), connection.cursor() as cursor:
        cursor.execute(statement)


def test_a_model_of_the_catalogue_can_be_held_and_not_changed(acme: Party, add_model: Callable[..., Any]) -> None:
    row = add_model()
    act_for(acme.id)
    assert list(type(row).objects.select_for_update(no_key=True).filter(id=row.id)) == [row]
    with pytest.raises(ProgrammingError, match="row-level security"), connection.cursor() as cursor:
        cursor.execute("UPDATE catalog_embeddingmodel SET id = id")


def test_of_people_a_tenant_sees_its_own(acme: Party, globex: Party) -> None:
    ours, theirs, both = (User.objects.create_user(f"{name}@example.com") for name in ("ours", "theirs", "both"))
    for party, person in ((acme, ours), (globex, theirs), (acme, both), (globex, both)):
        Membership.objects.create(tenant_id=party.id, user=person, role="viewer")
    act_for(acme.id)
    assert {each.email for each in User.objects.all()} == {"ours@example.com", "both@example.com"}
    assert Membership.objects.count() == 2


def test_a_row_cannot_point_at_anothers(acme: Party, globex: Party) -> None:
    from alerts.models import AlertChannel, Delivery
    from core.clock import utc_now

    theirs = AlertChannel.objects.create(tenant_id=globex.id, name="theirs")
    Delivery.objects.create(tenant_id=acme.id, channel=theirs, due_at=utc_now(), created_at=utc_now())
    with pytest.raises(IntegrityError, match="same_tenant"):
        connection.check_constraints()


def test_a_step_out_ends_with_its_block_and_with_an_error(acme: Party, globex: Party) -> None:
    act_for(acme.id)
    with as_platform():
        assert Tenant.objects.count() == 2
    assert who() == (roles().tenant, str(acme.id))
    with pytest.raises(LookupError), as_platform():
        raise LookupError
    assert Tenant.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_nothing_of_a_tenant_outlives_its_transaction() -> None:
    before = who()
    with transaction.atomic():
        act_for(uuid4())
        assert who()[0] == roles().tenant
    assert who() == before
    with pytest.raises(DatabaseError):
        _fail_as_tenant()
    assert who() == before


@transaction.atomic
def _fail_as_tenant() -> None:
    act_for(uuid4())
    Agent.objects.raw("SELECT no_such_column")[0]


@pytest.mark.django_db(transaction=True)
def test_without_a_transaction_it_is_refused_for_nothing_would_become_of_it() -> None:
    with pytest.raises(TransactionManagementError):
        act_for(uuid4())


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """As whom keys were listed."""
    from tenants import selectors

    found: list[tuple[str, str]] = []
    listed = selectors.keys_of

    def listing(*args: Any) -> Any:
        found.append(who())
        return listed(*args)

    monkeypatch.setattr(selectors, "keys_of", listing)
    return found


def test_a_key_of_a_tenant_acts_as_the_tenant_and_an_operators_as_the_platform(
    acme: Party, operator: Any, seen: list[tuple[str, str]]
) -> None:
    assert acme.api.get("/api/v1/api-keys").status_code == 200
    assert operator.get("/api/v1/api-keys").status_code == 200
    assert seen == [(roles().tenant, str(acme.id)), (roles().platform, "")]


def test_with_the_codes_scoping_gone_a_tenant_still_gets_its_own_alone(
    acme: Party, globex: Party, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tenants.selectors.keys_of", lambda _: ApiKey.objects.all())
    found = acme.api.get("/api/v1/api-keys").json()["results"]
    assert [each["id"] for each in found] == [str(acme.key_id)]


def test_with_one_role_alone_the_code_still_holds_and_says_so(
    acme: Party, globex: Party, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tenants.walls.roles_of", lambda _: type(roles())("no_platform", "no_tenant"))
    assert not are_up()
    found = acme.api.get("/api/v1/api-keys")
    assert [each["id"] for each in found.json()["results"]] == [str(acme.key_id)]
