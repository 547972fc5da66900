"""500 texts to each vendor, split by its caps: the sizes that arrive, the order that comes back, and one bad text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from catalog.upstreams import CAPS
from providers.base import EmbedCall, Endpoint, Kind, Provider
from providers.failures import FailureKind, ProviderFailure
from providers.registry import build, max_items
from providers.splitting import split_by_caps
from tests.fakes import bedrock as bedrocks
from tests.fakes import google as googles
from tests.fakes import openai_model
from tests.fakes import vertex as vertexes
from tests.fakes.server import FakeServer

TEXTS = [f"text {number}" for number in range(500)]


@dataclass
class Vendor:
    fake: FakeServer
    provider: Provider
    identifier: str
    expected: Callable[[str], Any]
    sizes: list[int]

    def parts(self, texts: Sequence[str]) -> list[Sequence[str]]:
        """The texts of each call, as the catalogue's caps and the model's own have it."""
        kind = self.provider.endpoint.kind
        most, tokens = CAPS.get(kind, (2048, 300_000))
        most = min(most, max_items(kind, self.identifier) or most)
        return [texts[part] for part in split_by_caps([3] * len(texts), max_items=most, max_tokens=tokens)]

    async def embed(self, texts: Sequence[str]) -> Any:
        return (await self.provider.embed(EmbedCall(self.identifier, texts, 0), timeout_s=10)).vectors


def _cohere(text: str) -> Any:
    return bedrocks.expected_vector(bedrocks.COHERE_V3, text, task="search_document")


VENDORS: dict[str, tuple[str, Kind, str, str, Callable[[str], Any], list[int]]] = {
    "azure": (
        "azure",
        Kind.AZURE,
        "",
        "old",
        lambda text: openai_model.expected_vector("text-embedding-ada-002", text),
        [500],
    ),
    "titan": (
        "bedrock",
        Kind.BEDROCK,
        bedrocks.REGION,
        bedrocks.TITAN_V2,
        lambda text: bedrocks.expected_vector(bedrocks.TITAN_V2, text),
        [1] * 500,
    ),
    "cohere": ("bedrock", Kind.BEDROCK, bedrocks.REGION, bedrocks.COHERE_V3, _cohere, [96] * 5 + [20]),
    "gemini": (
        "google",
        Kind.GOOGLE,
        "",
        googles.GEMINI_1,
        lambda text: googles.expected_vector(googles.GEMINI_1, text),
        [100] * 5,
    ),
    "vertex": (
        "vertex",
        Kind.VERTEX,
        vertexes.REGION,
        vertexes.TEXT_5,
        lambda text: vertexes.expected_vector(vertexes.TEXT_5, text),
        [250, 250],
    ),
}


@pytest.fixture(params=VENDORS)
def vendor(request: pytest.FixtureRequest) -> Vendor:
    server, kind, region, identifier, expected, sizes = VENDORS[request.param]
    fake = request.getfixturevalue(server)
    endpoint = Endpoint("p", kind, base_url=fake.base_url, region=region, secret=fake.secret)
    return Vendor(fake, build(endpoint), identifier, expected, sizes)


@pytest.mark.slow
async def test_500_texts_arrive_in_the_vendors_sizes_and_come_back_in_order(vendor: Vendor) -> None:
    vectors = [await vendor.embed(part) for part in vendor.parts(TEXTS)]

    assert [call.items for call in vendor.fake.calls] == vendor.sizes
    np.testing.assert_allclose(np.concatenate(vectors), [vendor.expected(text) for text in TEXTS], atol=1e-6)


async def test_one_bad_text_fails_the_call_that_holds_it_and_no_other(vendor: Vendor) -> None:
    vendor.fake.switch(poison="text 499")
    *_, last = vendor.parts(TEXTS)

    with pytest.raises(ProviderFailure) as caught:
        await vendor.embed(last)
    with pytest.raises(ProviderFailure) as alone:
        await vendor.embed(["text 499"])
    vectors = await vendor.embed(["text 498"])

    assert caught.value.kind is alone.value.kind is FailureKind.TEXT_REFUSED
    np.testing.assert_allclose(vectors[0], vendor.expected("text 498"), atol=1e-6)
