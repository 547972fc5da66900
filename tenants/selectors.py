"""Reads of tenants' rows that have a name. What is a tenant's takes the tenant first."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db.models import Expression, OuterRef, QuerySet, Subquery

from core.errors import NotFound
from tenants import settings as tenant_settings
from tenants.models import Agent, ApiKey, Membership, Role, Tenant, TenantCredential, TenantModel, User


def find_tenant(tenant_id: UUID) -> Tenant:
    """The row, or `NotFound`."""
    row = Tenant.objects.filter(id=tenant_id).first()
    if row is None:
        raise NotFound(f"There is no tenant {tenant_id}.")
    return row


def find_tenant_by_slug(slug: str) -> Tenant:
    """The row, or `NotFound`."""
    row = Tenant.objects.filter(slug=slug).first()
    if row is None:
        raise NotFound(f"There is no tenant {slug!r}.")
    return row


def tenant_ids() -> list[UUID]:
    """All tenants, suspended ones too."""
    return list(Tenant.objects.order_by("id").values_list("id", flat=True))


def retentions() -> dict[UUID, int]:
    """For how many days each tenant keeps its requests that has said so, suspended ones too."""
    rows = Tenant.objects.filter(settings__has_key="retention_days").order_by("id").values_list("id", "settings")
    found = {tenant_id: tenant_settings.parse(settings).retention_days for tenant_id, settings in rows}
    return {tenant_id: days for tenant_id, days in found.items() if days is not None}


def keys_of(tenant_id: UUID | None) -> QuerySet[ApiKey]:
    """The keys of a tenant, or of the platform."""
    return ApiKey.objects.filter(tenant_id=tenant_id) if tenant_id else ApiKey.objects.filter(tenant=None)


def find_key_row(tenant_id: UUID | None, key_id: UUID) -> ApiKey:
    """A key of the tenant, or, for the platform, any key; else `NotFound`."""
    found = ApiKey.objects.filter(id=key_id)
    row = (found if tenant_id is None else found.filter(tenant_id=tenant_id)).first()
    if row is None:
        raise NotFound(f"There is no API key {key_id}.")
    return row


def lines_of_keys(tenant_id: UUID, key_ids: Collection[UUID]) -> dict[UUID, UUID]:
    """The line that each of these keys of a tenant is of: the first of the keys that replaced each other."""
    return dict(keys_of(tenant_id).filter(id__in=key_ids).values_list("id", "lines__0"))


def line_of(key_id: Expression) -> Subquery:
    """The same within a query of rows that name a key of their tenant."""
    found = ApiKey.objects.filter(id=key_id, tenant_id=OuterRef("tenant_id"))
    return Subquery(found.order_by().values("lines__0")[:1])


def configured_models(tenant_id: UUID) -> QuerySet[TenantModel]:
    """A tenant's models with their catalogue rows."""
    return TenantModel.objects.filter(tenant_id=tenant_id).select_related("model__provider")


def agents_of(tenant_id: UUID) -> QuerySet[Agent]:
    """A tenant's agents."""
    return Agent.objects.filter(tenant_id=tenant_id)


def members_of(tenant_id: UUID) -> QuerySet[Membership]:
    """A tenant's people and their roles."""
    return Membership.objects.filter(tenant_id=tenant_id).select_related("user")


def own_credentials_of(tenant_id: UUID) -> QuerySet[TenantCredential]:
    """A tenant's own credentials at providers."""
    return TenantCredential.objects.filter(tenant_id=tenant_id).select_related("provider")


def find_own_credential(tenant_id: UUID, credential_id: UUID) -> TenantCredential:
    """The tenant's row, or `NotFound`."""
    row = own_credentials_of(tenant_id).filter(id=credential_id).first()
    if row is None:
        raise NotFound(f"There is no provider credential {credential_id}.")
    return row


@dataclass(frozen=True, slots=True)
class KnownAgent:
    """An agent as others of its tenant see it."""

    agent_id: str
    agent_type: str
    name: str
    version: str
    capabilities: Sequence[str]
    status: str
    last_seen_at: datetime | None


def page_of_agents(tenant_id: UUID, *, agent_type: str | None = None, after: str = "", limit: int) -> list[KnownAgent]:
    """A tenant's agents by id, those behind `after` (one query)."""
    found = agents_of(tenant_id).filter(agent_id__gt=after)
    if agent_type is not None:
        found = found.filter(agent_type=agent_type)
    columns = ("agent_id", "agent_type", "name", "version", "capabilities", "status", "last_seen_at")
    return [KnownAgent(*row) for row in found.order_by("agent_id").values_list(*columns)[:limit]]


def addresses_to_tell(tenant_id: UUID | None) -> list[str]:
    """Of those who look after a tenant (owners, admins, billing), or, without one, of the platform's operators."""
    people = User.objects.filter(is_active=True)
    if tenant_id is None:
        found = people.filter(is_superuser=True)
    else:
        roles = (Role.OWNER, Role.ADMIN, Role.BILLING)
        found = people.filter(memberships__tenant_id=tenant_id, memberships__role__in=roles)
    return list(found.order_by("email").values_list("email", flat=True))


def tenants_with_model(model_id: UUID) -> set[UUID]:
    """The tenants that have a model of the catalogue configured, switched on or not; for the platform."""
    return set(TenantModel.objects.filter(model_id=model_id).values_list("tenant_id", flat=True))


def names_by_key(tenant_id: UUID, key_ids: Collection[UUID]) -> dict[UUID, str]:
    """The names that a tenant gave to these of its keys; one that is gone is left out."""
    return dict(keys_of(tenant_id).filter(id__in=key_ids).values_list("id", "name"))


def names_of_keys(tenant_id: UUID, key_ids: Collection[UUID]) -> list[str]:
    """The same in the order asked."""
    found = names_by_key(tenant_id, key_ids)
    return [found[key_id] for key_id in key_ids if key_id in found]
