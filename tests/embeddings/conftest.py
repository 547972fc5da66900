"""For tests of the door: a platform with a fake vendor, and two tenants."""

from __future__ import annotations

from uuid import uuid4

import pytest

from tests.scenarios.conftest import acme_key, platform, vendor  # noqa: F401  the same fixtures


@pytest.fixture(scope="package")
def acme(platform):  # noqa: F811
    """Id and all-embracing key of a tenant with two models, one of whose names has slashes."""
    tenant, key = platform.add_tenant("acme-of-the-door")
    platform.configure(key, platform.model_id)
    platform.configure(key, platform.add_model("fake", "BAAI/bge-m3", dimensions=1536, space="bge-m3"))
    return tenant, key


@pytest.fixture(scope="package")
def mallory(platform):  # noqa: F811
    """The key of a tenant with every right of its own and no model."""
    return platform.add_tenant("mallory")[1]


@pytest.fixture
def frail(platform):  # noqa: F811
    """Id and key of a tenant of this test alone, whose model has breakers of its own: its calls may fail, and nobody
    else is kept waiting."""
    name = f"frail-{uuid4().hex[:12]}"
    tenant, key = platform.add_tenant(name)
    platform.configure(key, platform.add_model("fake", name))
    return tenant, key
