"""What tests of providers share: a fake OpenAI and a key of its."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping

import pytest
import uvloop

from providers.base import Endpoint, Kind
from providers.openai import OpenAIProvider
from tests.fakes.openai import FakeOpenAI


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The HTTP client is tested on both kinds of event loop, what uses it on one."""
    loops: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    if item.path.stem in ("test_http_client", "test_tls"):
        loops["uvloop"] = uvloop.new_event_loop
    return loops


@pytest.fixture(scope="session")
def fake_server() -> Iterator[FakeOpenAI]:
    with FakeOpenAI() as fake:
        yield fake


@pytest.fixture
def fake(fake_server: FakeOpenAI) -> FakeOpenAI:
    fake_server.reset()
    return fake_server


@pytest.fixture
def endpoint(fake: FakeOpenAI) -> Endpoint:
    return Endpoint("openai", Kind.OPENAI, base_url=fake.base_url, secret={"api_key": fake.key})


@pytest.fixture
async def openai(endpoint: Endpoint) -> AsyncIterator[OpenAIProvider]:
    provider = OpenAIProvider(endpoint)
    yield provider
    await provider.close()
