"""The only writer of memberships: who belongs to a tenant, and as what.

Decides that nobody is locked out: a tenant that has an owner keeps one who can sign in. Every function is one
transaction that raises the tenant's version, for keys reach no further than who made them; that holds its row, so that
two owners who step down at once do it one after the other, and the second is refused. A key acts as who made it. Which
role may manage which is `tenants.roles`; how somebody new comes in is `tenants.invitations`.
"""

from __future__ import annotations

from uuid import UUID

from django.db import transaction

from audit.services import record
from core.errors import Conflict, InvalidApiKey, KeyNotPermitted, NotFound, TenantSuspended
from tenants.loading import find_grant
from tenants.models import ApiKey, Membership, Role, Tenant, User
from tenants.roles import may_manage
from tenants.scopes import Scope, allows
from tenants.services import only_tenant_of, tenant_changed
from tenants.snapshots import KeyGrant

Actor = User | KeyGrant


@transaction.atomic
def add_member(*, tenant_id: UUID, user: User, role: Role) -> Membership:
    """Gives a person a role in a tenant on the platform's behalf; one that they have already is replaced."""
    tenant_changed(tenant_id)
    row, is_new = Membership.objects.get_or_create(tenant_id=tenant_id, user=user, defaults={"role": role})
    return _give(row, role, is_new=is_new)


@transaction.atomic
def change_role(*, tenant_id: UUID, user_id: int, role: Role, by: Actor) -> Membership:
    """Gives a member another role; never one above that of who gives it, nor to somebody above them."""
    tenant_changed(tenant_id)
    row = find_member(tenant_id, user_id)
    check_manages(tenant_id=tenant_id, by=by, role=row.role)
    check_manages(tenant_id=tenant_id, by=by, role=role)
    return _give(row, role)


@transaction.atomic
def remove_member(*, tenant_id: UUID, user_id: int, by: Actor) -> None:
    """Takes somebody out of a tenant; everybody may leave by themselves."""
    tenant_changed(tenant_id)
    row = find_member(tenant_id, user_id)
    if not isinstance(by, User) or by.pk != user_id:
        check_manages(tenant_id=tenant_id, by=by, role=row.role)
    _record("removed", row, was=row.role)
    row.delete()
    if row.role == Role.OWNER:
        _check_owned(tenant_id)


@transaction.atomic
def set_active(*, user_id: int, is_active: bool, by: User) -> User:
    """Lets a person sign in, or no longer; for operators. Their sessions end with the next click, and keys that they
    made for a tenant of theirs do nothing meanwhile."""
    if not (by.is_active and by.is_superuser):
        raise KeyNotPermitted("Only an operator of the platform lets people in or out.")
    roles = dict(Membership.objects.filter(user_id=user_id).values_list("tenant_id", "role"))
    keys = ApiKey.objects.filter(created_by_id=user_id, tenant__isnull=False)
    for tenant_id in sorted(roles.keys() | set(keys.values_list("tenant_id", flat=True))):  # two must not deadlock
        tenant_changed(tenant_id)
    user = User.objects.select_for_update().filter(id=user_id).first()
    if user is None:
        raise NotFound("There is no such person.")
    user.is_active = is_active
    user.save(update_fields=["is_active"])
    if not is_active:
        for tenant_id in [each for each, role in roles.items() if role == Role.OWNER]:
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


def check_manages(*, tenant_id: UUID, by: Actor, role: str) -> None:
    """Refuses who may not give or take this role now; what they were a moment ago does not count."""
    own = role_of(tenant_id, by)
    if not may_manage(own, role):
        raise KeyNotPermitted(f"As {own} you cannot give or take the role {role}.", param="role")


def role_of(tenant_id: UUID, by: Actor) -> str:
    """As what somebody acts in a tenant now: an operator as an owner, a key as who made it. Raises for who does not
    belong there, and where nobody may change anything."""
    if isinstance(by, KeyGrant):
        own = _role_of_key(tenant_id, by.key_id)
    elif is_operator(by):
        return Role.OWNER.value
    else:
        own = Membership.objects.filter(tenant_id=tenant_id, user=by).values_list("role", flat=True).first()
    if own is None:
        raise NotFound(f"There is no tenant {tenant_id}.")
    if Tenant.objects.filter(id=tenant_id, is_suspended=True).exists():
        raise TenantSuspended("This tenant is suspended; ask the operator of the platform.")
    return own


def is_operator(by: User) -> bool:
    """Whether somebody is one now; raises for who was deactivated since their request came in."""
    now = User.objects.filter(pk=by.pk, is_active=True).values_list("is_superuser", flat=True).first()
    if now is None:
        raise KeyNotPermitted("This account was deactivated.")
    return now


def _role_of_key(tenant_id: UUID, key_id: UUID) -> str | None:
    now = find_grant(key_id)
    if now is None:
        raise InvalidApiKey("This API key was revoked a moment ago.")
    if not allows(now.scopes, Scope.ADMIN):
        raise KeyNotPermitted(f"This key lacks the scope {Scope.ADMIN.value}.")
    return now.role if now.tenant_id == tenant_id else None


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
