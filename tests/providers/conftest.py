"""What tests of providers share: the fakes of all vendors, and a key of OpenAI's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping

import pytest
import uvloop

from providers.base import Endpoint, Kind
from providers.openai import OpenAIProvider
from tests.fakes.azure import FakeAzure
from tests.fakes.bedrock import FakeBedrock
from tests.fakes.google import FakeGoogle
from tests.fakes.openai import FakeOpenAI
from tests.fakes.vertex import FakeVertex


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


@pytest.fixture(scope="session")
def azure_server() -> Iterator[FakeAzure]:
    with FakeAzure() as fake:
        yield fake


@pytest.fixture
def azure(azure_server: FakeAzure) -> FakeAzure:
    azure_server.reset()
    return azure_server


@pytest.fixture(scope="session")
def bedrock_server() -> Iterator[FakeBedrock]:
    with FakeBedrock() as fake:
        yield fake


@pytest.fixture
def bedrock(bedrock_server: FakeBedrock) -> FakeBedrock:
    bedrock_server.reset()
    return bedrock_server


@pytest.fixture(scope="session")
def google_server() -> Iterator[FakeGoogle]:
    with FakeGoogle() as fake:
        yield fake


@pytest.fixture
def google(google_server: FakeGoogle) -> FakeGoogle:
    google_server.reset()
    return google_server


@pytest.fixture(scope="session")
def vertex_server() -> Iterator[FakeVertex]:
    with FakeVertex() as fake:
        yield fake


@pytest.fixture
def vertex(vertex_server: FakeVertex) -> FakeVertex:
    vertex_server.reset()
    return vertex_server
