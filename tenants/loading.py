"""Reads a tenant and its keys for the data plane, with the version that tells how old the reading is. Secrets of its
own credentials are opened here, into memory only.

Failure: a credential that does not open is logged and counts as one that cannot be called with; nothing takes its place
that the tenant did not allow.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from ipaddress import ip_network
from typing import Any
from uuid import UUID

from django.db import transaction

from catalog.loading import sealer
from core.money import nano_from_usd
from core.sealing import SealBroken
from tenants import preferences
from tenants import settings as tenant_settings
from tenants.models import Agent, ApiKey, Tenant, TenantCredential, TenantModel
from tenants.preferences import Preferences
from tenants.rights import Rights, shared
from tenants.roles import SCOPES, lesser
from tenants.snapshots import ConfiguredModel, KeyGrant, OwnCredential, TenantConfig

log = logging.getLogger(__name__)
SEALED_AS = "tenant_credential"  # the table in what a secret is bound to

# A key, the key that made it, and so on, each with the person who made it; up to where the tenant is another's. What an
# operator's key minted for a tenant is the tenant's own.
_LINE = """
WITH RECURSIVE line AS (
    SELECT k.*, 0 AS generation FROM tenants_apikey k WHERE k.{} = %s
    UNION ALL
    SELECT k.*, line.generation + 1 FROM tenants_apikey k
    JOIN line ON k.id = line.created_with_id AND k.tenant_id IS NOT DISTINCT FROM line.tenant_id
    WHERE line.generation <= %s
)
SELECT line.*, t.version, u.is_active AS by_active, u.is_superuser AS by_operator, m.role AS by_role
FROM line
LEFT JOIN tenants_tenant t ON t.id = line.tenant_id
LEFT JOIN tenants_user u ON u.id = line.created_by_id
LEFT JOIN tenants_membership m ON m.user_id = line.created_by_id AND m.tenant_id = line.tenant_id
ORDER BY line.generation
"""
MOST_GENERATIONS = 20  # of keys that minted each other


def find_key(digest: bytes) -> KeyGrant | None:
    """What a key may do now, no more than who made it; None: it is unknown, was revoked, or has nothing left. Expiry is
    for the caller to check, it has the clock."""
    return _grant(list(ApiKey.objects.raw(_LINE.format("digest"), [digest, MOST_GENERATIONS])))


def find_grant(key_id: UUID) -> KeyGrant | None:
    """The same by the key's id."""
    return _grant(list(ApiKey.objects.raw(_LINE.format("id"), [key_id, MOST_GENERATIONS])))


def _grant(line: list[Any]) -> KeyGrant | None:
    if not line or len(line) > MOST_GENERATIONS or any(row.revoked_at is not None for row in line):
        return None
    rights: Rights | None = rights_of_row(line[0])
    role = "owner"
    for row in line:
        if rights is not None:
            rights = shared(rights, rights_of_row(row))
        bound = _role_behind(row)
        if rights is None or bound is None:
            return None
        if row.tenant_id is not None:
            rights, role = shared(rights, Rights(SCOPES[bound])), lesser(role, bound)
    if rights is None:
        return None
    return KeyGrant(
        key_id=line[0].id,
        tenant_id=line[0].tenant_id,
        tenant_version=line[0].version or 0,
        scopes=rights.scopes,
        models=rights.models,
        networks=rights.networks,
        agent_id=rights.agent_id,
        expires_at=rights.expires_at,
        role=role,
        person_id=next((row.created_by_id for row in line if row.created_by_id is not None), None),
        lines=tuple(line[0].lines),
    )


def _role_behind(row: Any) -> str | None:
    """The role of who made a key, as it is now. What operators made for a tenant belongs to it and stays; what they
    made for the platform ends with them."""
    if row.created_by_id is None or (row.by_operator and row.tenant_id is not None):
        return "owner"
    if row.tenant_id is None:
        return "owner" if row.by_operator and row.by_active else None
    return str(row.by_role) if row.by_active and row.by_role else None


def rights_of_row(row: ApiKey) -> Rights:
    """What a key was given."""
    return Rights(
        frozenset(row.scopes),
        frozenset(row.models_allowed),
        tuple(ip_network(each) for each in row.networks),
        row.agent_id,
        row.expires_at,
    )


@transaction.atomic(savepoint=False)
def load_tenant(tenant_id: UUID) -> TenantConfig | None:
    """Reads one tenant's configuration (four queries)."""
    tenant = Tenant.objects.filter(id=tenant_id).first()
    return None if tenant is None else config_of(tenant)


def config_of(tenant: Tenant) -> TenantConfig:
    """The same for who has the tenant's row (three queries)."""
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
