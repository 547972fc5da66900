"""Which adapter serves which kind, and that a process pays for nothing that it does not use."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from providers.azure import AzureProvider
from providers.base import Endpoint, Kind
from providers.bedrock import BedrockProvider
from providers.google import GoogleProvider
from providers.local import LocalProvider
from providers.openai import OpenAIProvider
from providers.registry import ProviderPool, build
from providers.vertex import VertexProvider
from tests.fakes.vertex import FakeVertex

OPENAI = Endpoint("openai", Kind.OPENAI, secret={"api_key": "k"})
LOCAL = Endpoint("local", Kind.LOCAL)


@pytest.mark.parametrize(
    ("kind", "adapter"),
    [
        (Kind.OPENAI, OpenAIProvider),
        (Kind.OPENAI_COMPATIBLE, OpenAIProvider),
        (Kind.AZURE, AzureProvider),
        (Kind.BEDROCK, BedrockProvider),
        (Kind.GOOGLE, GoogleProvider),
        (Kind.VERTEX, VertexProvider),
        (Kind.LOCAL, LocalProvider),
    ],
)
def test_each_kind_has_its_adapter(kind: Kind, adapter: type, vertex: FakeVertex) -> None:
    secret = {"api_key": "k", "service_account": vertex.service_account}

    provider = build(Endpoint("p", kind, base_url="http://vllm:8000/v1", region="us-east-1", secret=secret))

    assert type(provider) is adapter


def modules_after(program: str) -> set[str]:
    """The modules that a process of its own has after the program."""
    program += "; import sys; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_registry_imports_no_vendor() -> None:
    loaded = modules_after("import providers.registry")

    assert not loaded & {"openai", "wordllama", "tokenizers", "boto3", "botocore", "google", "httptools"}


def test_no_adapter_imports_its_vendors_sdk_for_a_call() -> None:
    loaded = modules_after("import providers.azure, providers.bedrock, providers.google, providers.vertex")

    assert not loaded & {"openai", "boto3", "botocore", "google", "google.auth", "google.genai", "aiohttp", "httpx2"}


async def test_equal_endpoints_share_an_adapter_and_a_new_secret_makes_a_new_one() -> None:
    pool = ProviderPool()

    first = pool.get(OPENAI)

    assert pool.get(dataclasses.replace(OPENAI)) is first
    assert pool.get(dataclasses.replace(OPENAI, secret={"api_key": "rotated"})) is not first


async def test_what_is_not_in_use_any_more_is_retired() -> None:
    pool = ProviderPool()
    kept = pool.get(LOCAL)
    pool.get(OPENAI)

    retired = await pool.retire(in_use=[LOCAL])

    assert retired == 1
    assert pool.get(LOCAL) is kept
    assert pool.statistics().keys() == {"local"}


async def test_a_closed_pool_is_empty() -> None:
    pool = ProviderPool()
    pool.get(LOCAL)

    await pool.close()

    assert pool.statistics() == {}


@pytest.mark.parametrize(
    "change",
    [
        {"slug": "other"},
        {"kind": Kind.OPENAI_COMPATIBLE},
        {"base_url": "http://x"},
        {"credential_id": "c2"},
        {"secret": {"api_key": "l"}},
        {"max_items": 1},
        {"timeout_s": 1.0},
    ],
)
def test_the_identity_holds_everything_and_reveals_nothing(change: dict[str, object]) -> None:
    changed = dataclasses.replace(OPENAI, **change)

    assert changed.identity != OPENAI.identity
    assert dataclasses.replace(OPENAI).identity == OPENAI.identity
    assert len(changed.identity) == 64
