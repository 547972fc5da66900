"""Members and roles: nobody reaches above themselves, and no tenant is left without an owner."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any
from uuid import UUID

import pytest

from core.errors import Conflict, KeyNotPermitted, NotFound
from tenants import members
from tenants.members import add_member, change_role, find_member, remove_member, set_active
from tenants.models import Membership, User
from tests.admin.people import person
from tests.conftest import Party, make_party


@pytest.fixture
def owner(acme: Party) -> User:
    return person("owner@acme.test", **{str(acme.id): "owner"})


@pytest.fixture
def admin(acme: Party) -> User:
    return person("admin@acme.test", **{str(acme.id): "admin"})


def owners(tenant_id: Any) -> int:
    return Membership.objects.filter(tenant_id=tenant_id, role="owner", user__is_active=True).count()


def test_an_admin_does_not_reach_an_owner(acme: Party, owner: User, admin: User) -> None:
    with pytest.raises(KeyNotPermitted):
        change_role(tenant_id=acme.id, user_id=owner.pk, role="viewer", by=admin)
    with pytest.raises(KeyNotPermitted):
        remove_member(tenant_id=acme.id, user_id=owner.pk, by=admin)
    with pytest.raises(KeyNotPermitted):
        change_role(tenant_id=acme.id, user_id=admin.pk, role="owner", by=admin)
    assert (find_member(acme.id, owner.pk).role, find_member(acme.id, admin.pk).role) == ("owner", "admin")


@pytest.mark.parametrize("role", ["billing", "viewer"])
def test_others_manage_nobody_but_may_leave(role: str, acme: Party, owner: User, admin: User) -> None:
    other = person("other@acme.test", **{str(acme.id): role})
    with pytest.raises(KeyNotPermitted):
        change_role(tenant_id=acme.id, user_id=other.pk, role="admin", by=other)
    with pytest.raises(KeyNotPermitted):
        remove_member(tenant_id=acme.id, user_id=admin.pk, by=other)
    remove_member(tenant_id=acme.id, user_id=other.pk, by=other)
    assert not Membership.objects.filter(user=other).exists()


def test_mallory_manages_nobody_of_acmes(acme: Party, mallory: Party, admin: User) -> None:
    thief = person("mallory@mallory.test", **{str(mallory.id): "owner"})
    for tenant_id in (acme.id, mallory.id):
        with pytest.raises(NotFound):
            change_role(tenant_id=tenant_id, user_id=admin.pk, role="viewer", by=thief)
        with pytest.raises(NotFound):
            remove_member(tenant_id=tenant_id, user_id=admin.pk, by=thief)
    assert find_member(acme.id, admin.pk).role == "admin"


def test_the_last_owner_stays(acme: Party, owner: User, admin: User) -> None:
    operator = person("op@quiver.test", is_operator=True)
    with pytest.raises(Conflict):
        change_role(tenant_id=acme.id, user_id=owner.pk, role="admin", by=owner)
    with pytest.raises(Conflict):
        remove_member(tenant_id=acme.id, user_id=owner.pk, by=owner)
    with pytest.raises(Conflict):
        add_member(tenant_id=acme.id, user=owner, role="viewer")
    with pytest.raises(Conflict):
        set_active(user_id=owner.pk, is_active=False, by=operator)
    assert owners(acme.id) == 1
    change_role(tenant_id=acme.id, user_id=admin.pk, role="owner", by=owner)
    remove_member(tenant_id=acme.id, user_id=owner.pk, by=owner)
    assert owners(acme.id) == 1


def test_an_owner_who_cannot_sign_in_does_not_count(acme: Party, owner: User) -> None:
    operator = person("op@quiver.test", is_operator=True)
    second = person("second@acme.test", **{str(acme.id): "owner"})
    set_active(user_id=second.pk, is_active=False, by=operator)
    with pytest.raises(Conflict):
        remove_member(tenant_id=acme.id, user_id=owner.pk, by=owner)


def test_only_operators_deactivate(acme: Party, owner: User, admin: User) -> None:
    with pytest.raises(KeyNotPermitted):
        set_active(user_id=admin.pk, is_active=False, by=owner)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("second_way", ["demoted", "removed", "deactivated"])
def test_two_owners_who_step_down_at_once_leave_one(
    second_way: str, at_once: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme = make_party("acme")
    first = person("first@acme.test", **{str(acme.id): "owner"})
    second = person("second@acme.test", **{str(acme.id): "owner"})
    operator = person("op@quiver.test", is_operator=True)
    ways = {
        "demoted": lambda: change_role(tenant_id=acme.id, user_id=second.pk, role="admin", by=second),
        "removed": lambda: remove_member(tenant_id=acme.id, user_id=second.pk, by=second),
        "deactivated": lambda: set_active(user_id=second.pk, is_active=False, by=operator),
    }
    # Both would commit after both have looked for another owner: only the lock keeps them from meeting here.
    meeting, look = threading.Barrier(2), members._check_owned

    def meet(tenant_id: UUID) -> None:
        look(tenant_id)
        with suppress(threading.BrokenBarrierError):
            meeting.wait(1)

    monkeypatch.setattr(members, "_check_owned", meet)
    outcomes = at_once(
        lambda: change_role(tenant_id=acme.id, user_id=first.pk, role="admin", by=first), ways[second_way]
    )
    assert "Conflict" in [type(each).__name__ for each in outcomes]
    assert owners(acme.id) == 1
