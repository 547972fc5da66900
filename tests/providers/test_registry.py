"""Which adapter serves which kind, and that a process pays for nothing that it does not use."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from providers.base import Endpoint, EndpointRefused, Kind
from providers.local import LocalProvider
from providers.openai import OpenAIProvider
from providers.registry import ProviderPool, build

OPENAI = Endpoint("openai", Kind.OPENAI, secret={"api_key": "k"})
LOCAL = Endpoint("local", Kind.LOCAL)


def test_each_kind_has_its_adapter() -> None:
    assert isinstance(build(OPENAI), OpenAIProvider)
    assert isinstance(build(Endpoint("vllm", Kind.OPENAI_COMPATIBLE, base_url="http://vllm:8000/v1")), OpenAIProvider)
    assert isinstance(build(LOCAL), LocalProvider)


@pytest.mark.parametrize("kind", [Kind.AZURE, Kind.BEDROCK, Kind.GOOGLE, Kind.VERTEX])
def test_a_kind_without_an_adapter_is_refused_by_name(kind: Kind) -> None:
    with pytest.raises(EndpointRefused, match=kind.value):
        build(Endpoint("p", kind))


def test_importing_the_registry_imports_no_vendor() -> None:
    program = (
        "import sys; import providers.registry;"
        "vendors = {'openai', 'wordllama', 'tokenizers', 'boto3', 'google', 'httptools'};"
        "print(sorted(vendors & sys.modules.keys()))"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


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
