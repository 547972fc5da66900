"""States of a tenant's model: each edge is walked, and each that is not there is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any
from uuid import uuid4

import pytest
from django.db import IntegrityError, transaction

from tenants import model_states
from tenants.loading import load_tenant
from tenants.models import TenantModel
from tenants.selectors import find_tenant
from tenants.services import (
    change_configuration,
    configure_model,
    disable_model,
    enable_model,
    make_default,
    mark_quota_exceeded,
    mark_quota_restored,
    remove_configuration,
)
from tenants.signals import tenant_model_moved
from tests.conftest import Party, make_party

# As the diagram draws them, and quota_exceeded → disabled, which daily life needs.
DIAGRAM = {
    ("configured", "enabled"),
    ("enabled", "disabled"),
    ("disabled", "enabled"),
    ("enabled", "quota_exceeded"),
    ("quota_exceeded", "enabled"),
    ("quota_exceeded", "disabled"),
    ("configured", "removed"),
    ("enabled", "removed"),
    ("disabled", "removed"),
    ("quota_exceeded", "removed"),
}
STATES = ("configured", "enabled", "disabled", "quota_exceeded")
Configured = Callable[..., TenantModel]


@pytest.fixture
def configured(acme: Party, add_model: Callable[..., Any]) -> Configured:
    """A model of acme's in a state."""

    def made(state: str = "enabled", **wishes: Any) -> TenantModel:
        row = configure_model(tenant_id=acme.id, model_id=add_model(f"m{uuid4().hex}").id, is_default=False, **wishes)
        TenantModel.objects.filter(id=row.id).update(state=state)
        row.refresh_from_db()
        return row

    return made


@pytest.fixture
def moves() -> Iterator[list[tuple[str, str]]]:
    """What was told of moves."""
    heard: list[tuple[str, str]] = []

    def hear(sender: object, *, was: str, now: str, **_: object) -> None:
        heard.append((was, now))

    tenant_model_moved.connect(hear)
    yield heard
    tenant_model_moved.disconnect(hear)


def wish(row: TenantModel, to: str) -> None:
    """Asks for a state in the words that doors have for it."""
    key = {"tenant_id": row.tenant_id, "tenant_model_id": row.id}
    {
        "enabled": mark_quota_restored if row.state == "quota_exceeded" else enable_model,
        "disabled": disable_model,
        "quota_exceeded": mark_quota_exceeded,
        "removed": remove_configuration,
    }[to](**key)


def state_of(row: TenantModel) -> str:
    return TenantModel.objects.filter(id=row.id).values_list("state", flat=True).first() or "removed"


@pytest.mark.parametrize(("was", "to"), list(product([*STATES, "removed"], repeat=2)))
def test_the_table_is_the_diagram(was: str, to: str) -> None:
    assert model_states.can_move(was, to) is ((was, to) in DIAGRAM)
    assert (to in model_states.legal_moves(was)) is ((was, to) in DIAGRAM)


@pytest.mark.parametrize(("was", "to"), sorted(DIAGRAM))
def test_each_edge_is_walked(was: str, to: str, configured: Configured) -> None:
    configured()
    row = configured(was)
    wish(row, to)
    assert state_of(row) == to


@pytest.mark.parametrize(
    ("was", "to"),
    sorted((was, to) for was, to in product(STATES, STATES) if (was, to) not in DIAGRAM and to != "configured"),
)
def test_what_is_no_edge_leaves_the_state_as_it_is(was: str, to: str, configured: Configured) -> None:
    configured()
    row = configured(was)
    wish(row, to)
    assert state_of(row) == was


def test_a_model_that_is_made_switched_off_is_configured(acme: Party, configured: Configured) -> None:
    row = configured("configured", is_enabled=False)
    assert (row.state, row.is_enabled) == ("configured", False)
    change_configuration(tenant_id=acme.id, tenant_model_id=row.id, is_enabled=False)
    assert state_of(row) == "configured"


def test_a_model_over_quota_stays_switched_on(acme: Party, configured: Configured) -> None:
    row = configured("quota_exceeded")
    change_configuration(tenant_id=acme.id, tenant_model_id=row.id, is_enabled=True, priority=3)
    assert state_of(row) == "quota_exceeded"


def test_the_data_plane_goes_on_serving_it(acme: Party, configured: Configured) -> None:
    row = configured()
    before = load_tenant(acme.id)
    assert mark_quota_exceeded(tenant_id=acme.id, tenant_model_id=row.id)
    assert load_tenant(acme.id) == before
    assert before is not None
    assert before.models[0].is_enabled


def test_a_default_may_be_over_quota_and_stays_the_default(acme: Party, configured: Configured) -> None:
    row = configured()
    make_default(tenant_id=acme.id, tenant_model_id=row.id)
    assert mark_quota_exceeded(tenant_id=acme.id, tenant_model_id=row.id)
    assert mark_quota_restored(tenant_id=acme.id, tenant_model_id=row.id)
    row.refresh_from_db()
    assert (row.state, row.is_default) == ("enabled", True)


@pytest.mark.parametrize("state", ["configured", "disabled"])
def test_the_database_refuses_a_default_that_is_switched_off(state: str, configured: Configured) -> None:
    row = configured(state)
    with pytest.raises(IntegrityError), transaction.atomic():
        TenantModel.objects.filter(id=row.id).update(is_default=True)


def test_moves_are_told_after_the_commit_and_once(
    acme: Party, configured: Configured, committed: Any, moves: list[tuple[str, str]]
) -> None:
    row = configured()
    key = {"tenant_id": acme.id, "tenant_model_id": row.id}
    with committed():
        mark_quota_exceeded(**key)
        mark_quota_exceeded(**key)
        assert moves == []
    with committed():
        disable_model(**key)
        disable_model(**key)
    assert moves == [("enabled", "quota_exceeded"), ("quota_exceeded", "disabled")]


def test_another_tenants_model_is_not_moved(mallory: Party, configured: Configured) -> None:
    row = configured()
    assert not mark_quota_exceeded(tenant_id=mallory.id, tenant_model_id=row.id)
    assert not mark_quota_exceeded(tenant_id=uuid4(), tenant_model_id=row.id)
    assert state_of(row) == "enabled"


def test_a_move_changes_no_version(acme: Party, configured: Configured) -> None:
    row = configured()
    before = find_tenant(acme.id).version
    mark_quota_exceeded(tenant_id=acme.id, tenant_model_id=row.id)
    assert find_tenant(acme.id).version == before


@pytest.mark.django_db(transaction=True)
def test_of_many_who_move_it_at_once_one_does(
    add_model: Callable[..., Any], at_once: Callable[..., list[Any]], moves: list[tuple[str, str]]
) -> None:
    acme = make_party("acme")
    row = configure_model(tenant_id=acme.id, model_id=add_model().id)
    moves.clear()
    outcomes = at_once(*[lambda: mark_quota_exceeded(tenant_id=acme.id, tenant_model_id=row.id)] * 8)
    assert sorted(outcomes) == [False] * 7 + [True]
    assert moves == [("enabled", "quota_exceeded")]


@pytest.mark.django_db(transaction=True)
def test_a_change_at_the_same_moment_does_not_undo_the_move(
    add_model: Callable[..., Any], at_once: Callable[..., list[Any]]
) -> None:
    acme = make_party("acme")
    row = configure_model(tenant_id=acme.id, model_id=add_model().id)
    key = {"tenant_id": acme.id, "tenant_model_id": row.id}
    at_once(
        lambda: mark_quota_exceeded(**key), *[lambda n=n: change_configuration(**key, priority=n) for n in range(8)]
    )
    assert state_of(row) == "quota_exceeded"
