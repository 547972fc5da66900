"""Writes the rows that a measurement needs into an empty database, and prints the API key to use."""

from __future__ import annotations

import argparse
import os
import sys
from decimal import Decimal
from typing import Any

import django

LIMITS = (
    ("tokens", "minute"),
    ("tokens", "day"),
    ("tokens", "month"),
    ("requests", "month"),
    ("usd", "month"),
)
PLENTY = 8_000_000  # of any measure, and of dollars


def main(base_url: str, slow_url: str) -> str:
    from billing.partitions import make_partitions
    from billing.services import add_limit
    from catalog.models import CatalogVersion, EmbeddingModel, Price, Provider
    from core.clock import utc_now
    from tenants.models import Tenant, TenantModel

    make_partitions(today=utc_now().date(), ahead=1)
    CatalogVersion.objects.get_or_create(id=1)
    tenant = Tenant.objects.create(slug="bench", name="Bench")
    limited = Tenant.objects.create(slug="limited", name="Limited")
    standin = Provider.objects.create(slug="standin", kind="openai_compatible", base_url=base_url)
    small = _model(
        standin,
        tenant,
        name="text-embedding-3-small",
        # The stand-in answers 1536 floats to identifiers that end so, 256 otherwise.
        identifier="text-embedding-3-small-1536",
        dimensions=1536,
        tokenizer="cl100k_base",
        capabilities=["dimensions", "matryoshka"],
        cuts="vouched",
    )
    _model(
        Provider.objects.create(slug="local", kind="local"),
        tenant,
        name="wordllama-256",
        identifier="wordllama-256",
        dimensions=256,
        tokenizer="bytes",
        capabilities=[],
    )
    TenantModel.objects.create(tenant=limited, model=small)
    for name, max_items in (("shared", 2048), ("alone", 1)):
        slow = Provider.objects.create(
            slug=name, kind="openai_compatible", base_url=slow_url, max_items=max_items, max_concurrency=4
        )
        _model(slow, tenant, name=f"slow-{name}", identifier="slow", dimensions=256, tokenizer="cl100k_base")
    for measure, period in LIMITS:
        add_limit(
            tenant_id=limited.id, scope="tenant", scope_id="", measure=measure, period=period, amount=Decimal(PLENTY)
        )
    for row in EmbeddingModel.objects.all():
        Price.objects.create(model=row, cost_per_million_tokens="0.02", effective_from=utc_now(), source="benchmark")
    return "\n".join(_key(each) for each in (tenant, limited))


def _key(tenant: Any) -> str:
    from tenants.minting import mint_key
    from tenants.rights import Rights

    return mint_key(tenant_id=tenant.id, name="bench", rights=Rights(frozenset({"embeddings"})))[1]


def _model(provider: Any, tenant: Any, *, name: str, **fields: Any) -> Any:
    from catalog.models import EmbeddingModel, VectorSpace
    from tenants.models import TenantModel

    space = VectorSpace.objects.create(slug=name)
    row = EmbeddingModel.objects.create(provider=provider, name=name, space=space, state="available", **fields)
    TenantModel.objects.create(tenant=tenant, model=row)
    return row


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("base_url")
    parser.add_argument("slow_url")
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    django.setup()
    options = parser.parse_args()
    sys.stdout.write(main(options.base_url, options.slow_url) + "\n")
