"""A tenant and its keys as the data plane sees them: frozen values, swapped whole.

Pure; `tenants.loading` reads them, and what the catalogue contributes is `catalog.deployments`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import IPv4Network, IPv6Network
from uuid import UUID

from tenants.preferences import Preferences
from tenants.settings import TenantSettings


@dataclass(frozen=True, slots=True)
class KeyGrant:
    """What one API key may do."""

    key_id: UUID
    tenant_id: UUID | None  # None: the platform's
    tenant_version: int  # of the tenant when this was read
    scopes: frozenset[str]
    models: frozenset[str]  # empty: all
    networks: tuple[IPv4Network | IPv6Network, ...]  # empty: anywhere
    agent_id: str
    expires_at: datetime | None
    role: str = "owner"  # the least of those who made it: how far it reaches among people
    person_id: int | None = None  # who made it, or the key that made it; None: the platform
    lines: tuple[UUID, ...] = ()  # whose limits count what it uses; they never change


@dataclass(frozen=True, slots=True)
class ConfiguredModel:
    """A tenant's configuration of one catalogue row."""

    tenant_model_id: UUID
    model_id: UUID
    is_enabled: bool
    is_default: bool
    priority: int
    nano_per_million: int | None  # the tenant's own price
    fallback_model_id: UUID | None


@dataclass(frozen=True, slots=True)
class OwnCredential:
    """A tenant's own credential at a provider. `use` is a word of `tenants.models.TenantCredential.Use`."""

    credential_id: UUID
    provider: str  # slug
    use: str
    secret: Mapping[str, str] | None = field(repr=False)  # in clear, in memory only; None: it does not open
    region: str = ""
    project: str = ""
    resource: str = ""


@dataclass(frozen=True, slots=True)
class TenantConfig:
    tenant_id: UUID
    slug: str
    tier: str
    is_suspended: bool
    settings: TenantSettings
    version: int
    models: tuple[ConfiguredModel, ...]
    agents: Mapping[str, Preferences] = field(default_factory=dict)  # every agent that is registered, by its id
    credentials: tuple[OwnCredential, ...] = ()  # those that are switched on
