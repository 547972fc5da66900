"""The only writer of memberships: who belongs to a tenant, and as what.

Decides that nobody is locked out: a tenant that has an owner keeps one who can sign in. Every function is one
transaction that holds the tenant's row, so that two owners who step down at once do it one after the other, and the
second is refused. Which role may manage which is `tenants.roles`; how somebody new comes in is `tenants.invitations`.
"""

from __future__ import annotations

from uuid import UUID

from django.db import transaction

from audit.services import record
from core.errors import Conflict, KeyNotPermitted, NotFound, TenantSuspended
from tenants.models import Membership, Role, User
from tenants.roles import may_manage
from tenants.services import hold_tenant, only_tenant_of


@transaction.atomic
def add_member(*, tenant_id: UUID, user: User, role: Role) -> Membership:
    """Gives a person a role in a tenant on the platform's behalf; one that they have already is replaced."""
    hold_tenant(tenant_id)
    row, is_new = Membership.objects.get_or_create(tenant_id=tenant_id, user=user, defaults={"role": role})
    return _give(row, role, is_new=is_new)


@transaction.atomic
def change_role(*, tenant_id: UUID, user_id: int, role: Role, by: User) -> Membership:
    """Gives a member another role; never one above that of who gives it, nor to somebody above them."""
    hold_tenant(tenant_id)
    row = find_member(tenant_id, user_id)
    check_manages(tenant_id=tenant_id, by=by, role=row.role)
    check_manages(tenant_id=tenant_id, by=by, role=role)
    return _give(row, role)


@transaction.atomic
def remove_member(*, tenant_id: UUID, user_id: int, by: User) -> None:
    """Takes somebody out of a tenant; everybody may leave by themselves."""
    hold_tenant(tenant_id)
    row = find_member(tenant_id, user_id)
    if by.pk != user_id:
        check_manages(tenant_id=tenant_id, by=by, role=row.role)
    _record("removed", row, was=row.role)
    row.delete()
    if row.role == Role.OWNER:
        _check_owned(tenant_id)


@transaction.atomic
def set_active(*, user_id: int, is_active: bool, by: User) -> User:
    """Lets a person sign in, or no longer; for operators. Their sessions end with the next click."""
    if not (by.is_active and by.is_superuser):
        raise KeyNotPermitted("Only an operator of the platform lets people in or out.")
    owned = Membership.objects.filter(user_id=user_id, role=Role.OWNER).order_by("tenant_id")
    tenants = list(owned.values_list("tenant_id", flat=True))  # in order: two at once must not deadlock
    for tenant_id in tenants:
        hold_tenant(tenant_id)
    user = User.objects.select_for_update().filter(id=user_id).first()
    if user is None:
        raise NotFound("There is no such person.")
    user.is_active = is_active
    user.save(update_fields=["is_active"])
    if not is_active:
        for tenant_id in tenants:
            _check_owned(tenant_id)
    after = {"is_active": is_active}
    record("person.changed", tenant_id=only_tenant_of(user), subject="person", subject_id=user_id, after=after)
    return user


def find_member(tenant_id: UUID, user_id: int) -> Membership:
    """The tenant's own row, or `NotFound`."""
    row = Membership.objects.select_related("user").filter(tenant_id=tenant_id, user_id=user_id).first()
    if row is None:
        raise NotFound("This person does not belong to the tenant.")
    return row


def check_manages(*, tenant_id: UUID, by: User, role: str) -> None:
    """Refuses who may not give or take this role now; what they were a moment ago does not count."""
    if not by.is_active:
        raise KeyNotPermitted("This account was deactivated.")
    if by.is_superuser:
        return
    own = Membership.objects.select_related("tenant").filter(tenant_id=tenant_id, user=by).first()
    if own is None:
        raise NotFound(f"There is no tenant {tenant_id}.")
    if own.tenant.is_suspended:
        raise TenantSuspended("This tenant is suspended; ask the operator of the platform.")
    if not may_manage(own.role, role):
        raise KeyNotPermitted(f"As {own.role} you cannot give or take the role {role}.", param="role")


def _give(row: Membership, role: Role, *, is_new: bool = False) -> Membership:
    before, row.role = row.role, Role(role)
    row.save(update_fields=["role"])
    _record("added" if is_new else "changed", row, was="" if is_new else before, now=row.role)
    if before == Role.OWNER != row.role:
        _check_owned(row.tenant_id)
    return row


def _record(what: str, row: Membership, *, was: str = "", now: str = "") -> None:
    who = {"email": row.user.email}
    record(
        f"member.{what}",
        tenant_id=row.tenant_id,
        subject="person",
        subject_id=row.user_id,
        before={"role": was} | ({} if now else who) if was else None,
        after={"role": now} | ({} if was else who) if now else None,
    )


def _check_owned(tenant_id: UUID) -> None:
    if not Membership.objects.filter(tenant_id=tenant_id, role=Role.OWNER, user__is_active=True).exists():
        raise Conflict("This is the tenant's last owner; make somebody else an owner first.")
