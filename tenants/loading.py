"""Reads a tenant and its keys for the data plane, with the version that tells how old the reading is."""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import ip_network
from uuid import UUID

from django.db import transaction

from core.money import nano_from_usd
from tenants import settings as tenant_settings
from tenants.models import ApiKey, Tenant, TenantModel
from tenants.snapshots import ConfiguredModel, KeyGrant, TenantConfig


def find_key(digest: bytes) -> KeyGrant | None:
    """The grant of a key that was not revoked; expiry is for the caller to check, it has the clock."""
    row = ApiKey.objects.filter(digest=digest, revoked_at=None).select_related("tenant").first()
    return None if row is None else grant_of(row)


def grant_of(row: ApiKey) -> KeyGrant:
    """What the key of this row may do."""
    return KeyGrant(
        key_id=row.id,
        tenant_id=row.tenant_id,
        tenant_version=row.tenant.version if row.tenant else 0,
        scopes=frozenset(row.scopes),
        models=frozenset(row.models_allowed),
        networks=tuple(ip_network(n) for n in row.networks),
        agent_id=row.agent_id,
        expires_at=row.expires_at,
    )


@transaction.atomic
def load_tenant(tenant_id: UUID) -> TenantConfig | None:
    """Reads one tenant's configuration (two queries)."""
    tenant = Tenant.objects.filter(id=tenant_id).first()
    if tenant is None:
        return None
    rows = TenantModel.objects.filter(tenant=tenant)
    return TenantConfig(
        tenant_id=tenant.id,
        slug=tenant.slug,
        tier=tenant.tier,
        is_suspended=tenant.is_suspended,
        settings=tenant_settings.parse(tenant.settings),
        version=tenant.version,
        models=tuple(_configured(row) for row in rows),
    )


def tenant_versions(tenant_ids: Collection[UUID]) -> dict[UUID, int]:
    """The version columns alone, for the poll; a tenant that is gone is missing."""
    return dict(Tenant.objects.filter(id__in=tenant_ids).values_list("id", "version"))


def _configured(row: TenantModel) -> ConfiguredModel:
    price = row.custom_cost_per_million_tokens
    return ConfiguredModel(
        tenant_model_id=row.id,
        model_id=row.model_id,
        is_enabled=row.is_enabled,  # also over quota: holds decide what may still be spent, the state only shows it
        is_default=row.is_default,
        priority=row.priority,
        nano_per_million=None if price is None else nano_from_usd(price),
        fallback_model_id=row.fallback_model_id,
    )
