"""Reads the catalogue for the data plane. Secrets are opened here, into memory only.

Failure: a credential that does not open is left out and logged; its provider then has one credential less.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cache

from django.conf import settings
from django.db import transaction
from django.db.models import Subquery

from catalog.deployments import Catalog, Deployment, PricePoint
from catalog.discovery import GONE_AFTER
from catalog.models import Capability, CatalogVersion, Cuts, EmbeddingModel, Provider, ProviderCredential, Tokenizer
from catalog.observing import observe_states
from core.money import nano_from_usd
from core.sealing import SealBroken, Sealer
from providers.base import Endpoint, Kind
from providers.registry import max_items

log = logging.getLogger(__name__)
PLATFORM = ""  # stands for the tenant in what a platform secret is bound to


@cache
def sealer() -> Sealer:
    """The process's sealer, from the settings."""
    return Sealer(settings.QUIVER.encryption_keys)


def catalog_version() -> int:
    """The version column alone, for the poll."""
    return CatalogVersion.objects.values_list("version", flat=True).first() or 0


@transaction.atomic(savepoint=False)
def load_catalog() -> Catalog:
    """Reads the whole catalogue (three queries)."""
    rows = list(
        EmbeddingModel.objects.exclude(state="removed")
        # As the models are read: a row read later can only be newer, and the next poll then reloads.
        .annotate(read_at=Subquery(CatalogVersion.objects.values("version")[:1]))
        .select_related("provider", "space", "successor")
        .prefetch_related("prices", "provider__credentials")
    )
    version = rows[0].read_at or 0 if rows else 0  # an empty one is read anew until there is something
    catalog = Catalog(version, {row.id: deployment_of(row) for row in rows})
    observe_states({(each.name, each.provider): each.state for each in catalog.deployments.values()})
    return catalog


def open_credential(credential: ProviderCredential) -> dict[str, str]:
    """The secret in clear. Raises `core.sealing.SealBroken`."""
    return sealer().open(credential.sealed, tenant=PLATFORM, table="provider_credential", row=str(credential.id))


def deployment_of(row: EmbeddingModel) -> Deployment:
    """The frozen value of one row; its secrets are opened."""
    takes, cuts = "dimensions" in row.capabilities, serves_cuts(row)
    most_items = max_items(Kind(row.provider.kind), row.identifier)
    return Deployment(
        model_id=row.id,
        name=row.name,
        identifier=row.identifier,
        provider=row.provider.slug,
        kind=Kind(row.provider.kind),
        endpoints=endpoints_of(row.provider),
        template=endpoint_of(row.provider),
        is_provider_enabled=row.provider.is_enabled,
        space=row.space.slug,
        epoch=row.space.epoch,
        dimensions=row.dimensions,
        allowed_dimensions=frozenset(row.allowed_dimensions if takes or cuts else ()),
        takes_dimensions=takes,
        is_matryoshka=cuts,
        max_tokens=row.max_tokens,
        max_items=min(row.provider.max_items, most_items or row.provider.max_items),
        max_tokens_per_call=row.provider.max_tokens_per_call,
        batch_window_s=row.provider.batch_window_ms / 1000,
        # A model that came later, with a tokenizer that is not exact, keeps its calls apart.
        mixes_tenants=row.provider.mixes_tenants and row.tokenizer == Tokenizer.CL100K,
        tokenizer=row.tokenizer,
        quality_score=None if row.quality_score is None else float(row.quality_score),
        minimum_tier=row.minimum_tier,
        state=row.state,
        deprecated_at=row.deprecated_at,
        sunset_at=row.sunset_at,
        successor=row.successor.name if row.successor else None,
        created_at=row.created_at,
        prices=tuple(PricePoint(p.effective_from, nano_from_usd(p.cost_per_million_tokens)) for p in row.prices.all()),
        unavailable_cause=row.unavailable_cause,
        is_delisted=is_delisted(row),
    )


def is_delisted(row: EmbeddingModel) -> bool:
    """Whether its vendor listed it once, and does not any more."""
    return row.listed_at is not None and row.missed_listings >= GONE_AFTER


def serves_cuts(row: EmbeddingModel) -> bool:
    """Whether a vector of this model may be cut: declared, and either measured or vouched for."""
    return Capability.MATRYOSHKA in row.capabilities and row.cuts in (Cuts.MEASURED, Cuts.VOUCHED)


def endpoints_of(provider: Provider) -> tuple[Endpoint, ...]:
    """One endpoint per enabled credential that opens; for those that need none, one without."""
    found = []
    for credential in provider.credentials.all():
        if not credential.is_enabled:
            continue
        try:
            found.append((str(credential.id), open_credential(credential)))
        except SealBroken as error:
            log.error("credential %s of provider %s: %s", credential.id, provider.slug, error)
    if not found and provider.kind in (Kind.LOCAL, Kind.OPENAI_COMPATIBLE):
        found.append(("", {}))  # these two may serve without a key
    return tuple(endpoint_of(provider, credential_id, secret) for credential_id, secret in found)


def endpoint_of(provider: Provider, credential_id: str = "", secret: Mapping[str, str] | None = None) -> Endpoint:
    """How a provider is called, with this credential."""
    return Endpoint(
        slug=provider.slug,
        kind=Kind(provider.kind),
        base_url=provider.base_url,
        region=provider.region,
        project=provider.project,
        api_version=provider.api_version,
        credential_id=credential_id,
        secret=secret or {},
        max_items=provider.max_items,
        max_tokens_per_call=provider.max_tokens_per_call,
        max_concurrency=provider.max_concurrency,
        timeout_s=provider.timeout_s,
    )
