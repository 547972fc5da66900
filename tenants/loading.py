"""Reads a tenant and its keys for the data plane, with the version that tells how old the reading is. Secrets of its
own credentials are opened here, into memory only.

Failure: a credential that does not open is logged and counts as one that cannot be called with; nothing takes its place
that the tenant did not allow.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from ipaddress import ip_network
from uuid import UUID

from django.db import transaction

from catalog.loading import sealer
from core.money import nano_from_usd
from core.sealing import SealBroken
from tenants import preferences
from tenants import settings as tenant_settings
from tenants.models import Agent, ApiKey, Tenant, TenantCredential, TenantModel
from tenants.preferences import Preferences
from tenants.snapshots import ConfiguredModel, KeyGrant, OwnCredential, TenantConfig

log = logging.getLogger(__name__)
SEALED_AS = "tenant_credential"  # the table in what a secret is bound to


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
    """Reads one tenant's configuration (four queries)."""
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
        agents=_agents(tenant),
        credentials=tuple(
            own_credential(row)
            for row in TenantCredential.objects.filter(tenant=tenant, is_enabled=True).select_related("provider")
        ),
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


def own_credential(row: TenantCredential) -> OwnCredential:
    """The frozen value of a row; its secret is opened."""
    secret = None
    try:
        secret = sealer().open(row.sealed, tenant=str(row.tenant_id), table=SEALED_AS, row=str(row.id))
    except SealBroken as error:
        log.error("credential %s of tenant %s: %s", row.id, row.tenant_id, error)
    return OwnCredential(row.id, row.provider.slug, row.use, secret, row.region, row.project, row.resource)


def _agents(tenant: Tenant) -> dict[str, Preferences]:
    rows = Agent.objects.filter(tenant=tenant).order_by().values_list("agent_id", "preferences")
    none = Preferences()  # most agents have none: one value for all of them
    return {agent_id: preferences.parse(raw) if raw else none for agent_id, raw in rows}
