"""`TenantSnapshot`: everything a request needs to know of its tenant, in one frozen value that is swapped whole.

Owns how catalogue and configuration are put together and looked up by the names that callers use. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any
from uuid import UUID

from billing.limit_terms import LimitTerms, applying
from catalog.deployments import Catalog, Deployment
from providers.base import Endpoint
from tenants.own_routes import OwnRoutes, own_routes
from tenants.snapshots import ConfiguredModel, KeyGrant, TenantConfig

_MOST_CALLERS = 10_000
PLATFORM, TENANT = "platform", "tenant"  # who pays a provider


@dataclass(frozen=True, slots=True)
class Choice:
    """One model as one tenant may use it."""

    deployment: Deployment
    configured: ConfiguredModel
    own: tuple[Endpoint, ...] | None = None  # called with the tenant's own credentials: its provider bills the tenant

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """How it is called."""
        return self.deployment.endpoints if self.own is None else self.own

    @property
    def paid_by(self) -> str:
        """Who pays the provider."""
        return PLATFORM if self.own is None else TENANT

    def price_at(self, moment: datetime) -> int | None:
        """Nano-dollars per million tokens: nothing where the tenant pays the provider, else the tenant's own price,
        else the catalogue's in force; None: unpriced."""
        if self.own is not None:
            return 0
        own = self.configured.nano_per_million
        return self.deployment.price_at(moment) if own is None else own


@dataclass(frozen=True)
class TenantSnapshot:
    config: TenantConfig
    catalog_version: int
    choices: tuple[Choice, ...]  # the preferred first: by priority, then the one configured first
    limits: tuple[LimitTerms, ...] = ()
    own: Mapping[str, OwnRoutes] = field(default_factory=dict, repr=False)  # by provider, where the tenant has some
    plans: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)  # the gateway's, gone with this
    _applying: dict[tuple[int, str, int], tuple[LimitTerms, ...]] = field(
        default_factory=dict, repr=False, compare=False
    )

    @cached_property
    def by_model_id(self) -> dict[UUID, Choice]:
        return {choice.deployment.model_id: choice for choice in self.choices}

    @cached_property
    def by_name(self) -> dict[str, tuple[Choice, ...]]:
        """By name and by the vendor's identifier, whole; then by `provider/name`."""
        plain: dict[str, list[Choice]] = {}
        qualified: dict[str, list[Choice]] = {}
        for choice in self.choices:
            for name in {choice.deployment.name, choice.deployment.identifier}:
                plain.setdefault(name, []).append(choice)
                qualified.setdefault(f"{choice.deployment.provider}/{name}", []).append(choice)
        return {name: tuple(found) for name, found in (qualified | plain).items()}

    @cached_property
    def default(self) -> Choice | None:
        return next((choice for choice in self.choices if choice.configured.is_default), None)

    def limits_for(self, choice: Choice, *, agent_id: str, key: KeyGrant) -> tuple[LimitTerms, ...]:
        """What limits a request; the same object for the same three, which makes it cheap to hold on."""
        tenant_model_id = choice.configured.tenant_model_id
        who = (tenant_model_id.int, agent_id, key.key_id.int)  # a UUID takes long to hash
        found = self._applying.get(who)
        if found is None:
            if len(self._applying) >= _MOST_CALLERS:
                self._applying.clear()
            found = applying(self.limits, tenant_model_id=tenant_model_id, agent_id=agent_id, lines=key.lines)
            self._applying[who] = found
        return found


def compose(catalog: Catalog, config: TenantConfig, limits: tuple[LimitTerms, ...] = ()) -> TenantSnapshot:
    """A configured model whose catalogue row is removed is left out."""
    choices = tuple(_choices(catalog, config.models))
    templates = {each.deployment.provider: each.deployment.template for each in choices} if config.credentials else {}
    return TenantSnapshot(config, catalog.version, choices, limits, own_routes(config.credentials, templates))


def _choices(catalog: Catalog, models: Iterable[ConfiguredModel]) -> Iterable[Choice]:
    for configured in sorted(models, key=lambda m: -m.priority):
        deployment = catalog.deployments.get(configured.model_id)
        if deployment is not None:
            yield Choice(deployment, configured)
