"""Writes the rows that a measurement needs into an empty database, and prints the API key to use."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

import django


def main(base_url: str) -> str:
    from billing.partitions import make_partitions
    from catalog.models import CatalogVersion, EmbeddingModel, Price, Provider, VectorSpace
    from core.clock import utc_now
    from tenants.keys import mint
    from tenants.models import ApiKey, Tenant, TenantModel

    make_partitions(today=utc_now().date(), ahead=1)
    CatalogVersion.objects.get_or_create(id=1)
    tenant = Tenant.objects.create(slug="bench", name="Bench")
    _model(
        Provider.objects.create(slug="standin", kind="openai_compatible", base_url=base_url),
        tenant,
        name="text-embedding-3-small",
        # The stand-in answers 1536 floats to identifiers that end so, 256 otherwise.
        identifier="text-embedding-3-small-1536",
        dimensions=1536,
        tokenizer="cl100k_base",
        capabilities=["dimensions", "matryoshka"],
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
    for row in EmbeddingModel.objects.all():
        Price.objects.create(model=row, cost_per_million_tokens="0.02", effective_from=utc_now(), source="benchmark")
    key = mint()
    ApiKey.objects.create(tenant=tenant, name="bench", prefix=key.prefix, digest=key.digest, scopes=["embeddings"])
    assert VectorSpace.objects.count() == TenantModel.objects.count()
    return key.text


def _model(provider: Any, tenant: Any, *, name: str, **fields: Any) -> None:
    from catalog.models import EmbeddingModel, VectorSpace
    from tenants.models import TenantModel

    space = VectorSpace.objects.create(slug=name)
    row = EmbeddingModel.objects.create(provider=provider, name=name, space=space, state="available", **fields)
    TenantModel.objects.create(tenant=tenant, model=row)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("base_url")
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    django.setup()
    sys.stdout.write(main(parser.parse_args().base_url) + "\n")
