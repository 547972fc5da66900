"""Who calls the control plane: an API key in, a grant out. Checksum first, then one look-up of the key and one of its
tenant. Suspension is told here, so that no view of a suspended tenant's runs; and from here on the request's
transaction is the tenant's (`tenants.walls`).

Failure: PostgreSQL gone is a 500 of Django's, after the pool's five seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request

from catalog.transactions import is_atomic
from core.clock import utc_now
from core.errors import KeyNotPermitted, TenantSuspended
from tenants import key_use
from tenants.admission import admit, key_text
from tenants.loading import find_key
from tenants.models import Tenant
from tenants.scopes import Scope
from tenants.snapshots import KeyGrant
from tenants.walls import act_for


@dataclass(frozen=True, slots=True)
class Caller:
    """The program behind a request."""

    grant: KeyGrant
    tenant: Tenant | None  # None: the platform's
    is_authenticated: bool = True
    is_active: bool = True

    @property
    def is_operator(self) -> bool:
        return Scope.OPERATOR in self.grant.scopes


class ApiKeyAuthentication(BaseAuthentication):
    """`Authorization: Bearer <key>` or `X-API-Key: <key>`."""

    def authenticate(self, request: Request) -> tuple[Caller, KeyGrant]:
        text = key_text(
            authorization=request.META.get("HTTP_AUTHORIZATION", ""),
            x_api_key=request.META.get("HTTP_X_API_KEY", ""),
        )
        now = utc_now()
        grant = admit(text, find_key, now=now, address=request.META.get("REMOTE_ADDR") or "")
        tenant = None if grant.tenant_id is None else Tenant.objects.get(id=grant.tenant_id)
        if tenant is not None and tenant.is_suspended:
            raise TenantSuspended("This tenant is suspended; ask the operator of the platform.")
        key_use.note(grant.key_id, now)
        # The catalogue's views, which call providers, have no transaction; they read no row of a tenant.
        if tenant is not None and is_atomic(request.parser_context["view"]):
            act_for(tenant.id)
        return Caller(grant, tenant), grant

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="quiver"'


def caller(request: Request) -> Caller:
    """The caller of an authenticated request."""
    return cast(Caller, request.user)


def tenant_of(request: Request) -> Tenant:
    """The tenant that the credential belongs to, and no other."""
    tenant = caller(request).tenant
    if tenant is None:
        raise KeyNotPermitted(
            "A platform key belongs to no tenant; mint a key for the tenant with POST /api/v1/api-keys "
            "and `tenant`, and use that one here."
        )
    return tenant
