"""The configuration over real rows in a real PostgreSQL, changed by the control plane's own services."""

from __future__ import annotations

import pytest
from asgiref.sync import sync_to_async
from django.db import connections

from core.errors import InvalidApiKey
from embeddings.configuration import Configuration
from embeddings.runtime import DjangoRows
from tenants import services
from tenants.keys import digest
from tenants.minting import mint_key, revoke_key
from tenants.rights import Rights


@pytest.fixture
async def configuration(transactional_db):
    made = Configuration(DjangoRows(), poll_s=60, stale_s=300)
    yield made
    await made.close()
    await sync_to_async(connections.close_all)()  # that of the thread in which the stories change rows


@sync_to_async
def party(add_model):
    """A tenant with one model and a key: its id, the key's id, the key's digest."""
    tenant = services.add_tenant(name="Acme", slug="acme-of-rows")
    services.configure_model(tenant_id=tenant.id, model_id=add_model("small").id)
    row, text = mint_key(tenant_id=tenant.id, name="k", rights=Rights(frozenset({"embeddings"})))
    return tenant.id, row.id, digest(text)


async def test_a_key_its_tenant_and_its_models_are_read(configuration, add_model):
    tenant_id, key_id, of_key = await party(add_model)
    key, snapshot = await configuration.find(of_key)
    model = snapshot.default.deployment
    assert (key.key_id, key.tenant_id, snapshot.config.tenant_id) == (key_id, tenant_id, tenant_id)
    assert (model.name, model.dimensions, snapshot.default.price_at(model.prices[0].effective_from)) == (
        "small",
        8,
        20_000_000,
    )
    assert model.endpoints[0].secret == {"api_key": "sk-of-the-tests"}


async def test_every_change_is_found_by_its_version(configuration, add_model):
    tenant_id, key_id, of_key = await party(add_model)
    await configuration.find(of_key)
    await configuration.refresh()
    assert configuration.known(of_key) is not None
    await sync_to_async(services.change_tenant)(tenant_id=tenant_id, is_suspended=True)
    await configuration.refresh()
    assert configuration.known(of_key) is None
    assert (await configuration.find(of_key))[1].config.is_suspended
    await sync_to_async(revoke_key)(key_id=key_id, tenant_id=tenant_id)
    await configuration.refresh()
    with pytest.raises(InvalidApiKey):
        await configuration.find(of_key)


async def test_a_new_model_of_the_catalogue_is_found(configuration, add_model):
    tenant_id, _, of_key = await party(add_model)
    await configuration.find(of_key)
    await configuration.refresh()
    other = await sync_to_async(add_model)("other")
    await sync_to_async(services.configure_model)(tenant_id=tenant_id, model_id=other.id)
    await configuration.refresh()
    assert set((await configuration.find(of_key))[1].by_name) >= {"small", "other", "vendor/other"}
