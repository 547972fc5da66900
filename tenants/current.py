"""Which tenant a person acts for now: the one chosen in the session, else the first of theirs.

Memberships are read once per request and never kept in the session, so a removed member is out with the next click.
An operator acts for the platform and has no current tenant. Reading never writes the session; `switch` does.
"""

from __future__ import annotations

from uuid import UUID

from django.http import HttpRequest

from core.errors import NotFound
from tenants.models import Membership, Tenant, User
from tenants.roles import Power, may

_CHOSEN = "tenant_id"  # in the session
_FOUND = "_quiver_memberships"  # on the request


def memberships(request: HttpRequest) -> list[Membership]:
    """The person's memberships with their tenants, by name (one query per request)."""
    found: list[Membership] | None = getattr(request, _FOUND, None)
    if found is None:
        user = request.user
        found = []
        if isinstance(user, User) and user.is_active:
            rows = Membership.objects.filter(user=user).select_related("tenant", "user")
            found = list(rows.order_by("tenant__name", "tenant_id"))
        setattr(request, _FOUND, found)
    return found


def current_membership(request: HttpRequest) -> Membership | None:
    """The membership that the person acts under; None for operators and for those who belong nowhere."""
    if getattr(request.user, "is_superuser", False):
        return None
    theirs = memberships(request)
    chosen = request.session.get(_CHOSEN)
    return next((each for each in theirs if str(each.tenant_id) == chosen), theirs[0] if theirs else None)


def current_tenant(request: HttpRequest) -> Tenant | None:
    """The tenant that the person acts for; None for operators and for those who belong nowhere."""
    membership = current_membership(request)
    return None if membership is None else membership.tenant


def has_power(request: HttpRequest, power: Power) -> bool:
    """Whether the person may do this for the current tenant. A suspended tenant's people read only."""
    if getattr(request.user, "is_superuser", False):
        return bool(request.user.is_active)
    membership = current_membership(request)
    return membership is not None and not membership.tenant.is_suspended and may(membership.role, power)


def may_read_log(request: HttpRequest) -> bool:
    """Operators, owners and admins; also of a suspended tenant: reading changes nothing."""
    if getattr(request.user, "is_superuser", False):
        return bool(request.user.is_active)
    membership = current_membership(request)
    return membership is not None and may(membership.role, Power.AUDIT)


def switch(request: HttpRequest, tenant_id: UUID) -> Tenant:
    """Chooses another of the person's tenants for the rest of the session; `NotFound` for one that is not theirs."""
    for each in memberships(request):
        if each.tenant_id == tenant_id:
            request.session[_CHOSEN] = str(tenant_id)
            return each.tenant
    raise NotFound("You do not belong to this tenant.")
