"""Each fake as a process of its own, as a server under test meets it: it prints its address, and is switched there."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from providers.base import EmbedCall, Endpoint, Kind
from providers.registry import build
from tests.fakes import bedrock, google, vertex


def ask(address: str, words: Mapping[str, object] | None = None) -> dict[str, Any]:
    body = None if words is None else json.dumps(words).encode()
    found: dict[str, Any] = json.load(urllib.request.urlopen(urllib.request.Request(f"{address}/_control", body)))
    return found


@pytest.fixture
def address(kind: Kind) -> Iterator[str]:
    command = [sys.executable, "-m", f"tests.fakes.{kind.value}", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.kill()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "region", "identifier"),
    [
        (Kind.AZURE, "", "search-eu"),
        (Kind.BEDROCK, bedrock.REGION, bedrock.TITAN_V2),
        (Kind.GOOGLE, "", google.GEMINI_1),
        (Kind.VERTEX, vertex.REGION, vertex.TEXT_5),
    ],
)
async def test_a_fake_runs_as_a_process_and_is_switched_over_http(
    kind: Kind, region: str, identifier: str, address: str
) -> None:
    switched = ask(address, {"latency_s": 0.01})
    secret = ask(address)["secret"]
    provider = build(Endpoint("p", kind, base_url=address, region=region, secret=secret))

    answer = await provider.embed(EmbedCall(identifier, ["hello"], 0), timeout_s=10)

    assert switched["latency_s"] == 0.01
    assert len(answer.vectors) == 1
    assert len(ask(address)["calls"]) == 1
