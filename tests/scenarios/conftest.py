"""One platform for all stories that only talk to it; those that break it have their own."""

from __future__ import annotations

import pytest

from tests.fakes.openai import FakeOpenAI
from tests.scenarios.platform import Platform


@pytest.fixture(scope="session")
def vendor():
    with FakeOpenAI() as fake:
        yield fake


@pytest.fixture(scope="session")
def platform(tmp_path_factory, vendor):
    with Platform(tmp_path_factory.mktemp("platform") / "home") as running:
        running.add_provider("fake", vendor.base_url, vendor.key)
        running.model_id = running.add_model("fake")
        yield running


@pytest.fixture(scope="session")
def acme_key(platform):
    """A tenant's key; its default is the fake's small model."""
    _, key = platform.add_tenant("acme")
    platform.configure(key, platform.model_id)
    return key
