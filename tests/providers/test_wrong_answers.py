"""What every vendor that answers JSON numbers can do wrong: a wrong vector is a failure, never an answer."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from providers.answers import check_vectors
from providers.base import EmbedCall, Endpoint, Kind, Provider
from providers.failures import FailureKind, ProviderFailure
from providers.registry import build
from tests.fakes import bedrock as bedrocks
from tests.fakes import google as googles
from tests.fakes import vertex as vertexes
from tests.fakes.server import FakeServer


@dataclass
class Vendor:
    fake: FakeServer
    provider: Provider
    call: EmbedCall

    async def failure(self, fault: str, *, timeout_s: float = 5.0) -> ProviderFailure:
        """How the call fails, in the adapter or at the check that follows it."""
        self.fake.switch(fault=fault)
        with pytest.raises(ProviderFailure) as caught:
            await self._embed_and_check(timeout_s)
        return caught.value

    async def _embed_and_check(self, timeout_s: float) -> None:
        answer = await self.provider.embed(self.call, timeout_s=timeout_s)
        check_vectors(answer.vectors, count=len(self.call.inputs), width=self.call.width, cut=False)


VENDORS = {
    "titan": ("bedrock", Kind.BEDROCK, EmbedCall(bedrocks.TITAN_V2, ["one"], 256, dimensions=256)),
    "cohere_v3": ("bedrock", Kind.BEDROCK, EmbedCall(bedrocks.COHERE_V3, ["one", "two"], 1024)),
    "cohere_v4": ("bedrock", Kind.BEDROCK, EmbedCall(bedrocks.COHERE_V4, ["one", "two"], 256, dimensions=256)),
    "gemini": ("google", Kind.GOOGLE, EmbedCall(googles.GEMINI_1, ["one", "two"], 768, dimensions=768)),
    "vertex": ("vertex", Kind.VERTEX, EmbedCall(vertexes.TEXT_5, ["one", "two"], 256, dimensions=256)),
    "vertex_gemini_2": ("vertex", Kind.VERTEX, EmbedCall(vertexes.GEMINI_2, ["one"], 768, dimensions=768)),
}


def vendor_named(name: str, request: pytest.FixtureRequest) -> Vendor:
    server, kind, call = VENDORS[name]
    fake = request.getfixturevalue(server)
    region = {Kind.BEDROCK: bedrocks.REGION, Kind.VERTEX: vertexes.REGION}.get(kind, "")
    endpoint = Endpoint("p", kind, base_url=fake.base_url, region=region, secret=fake.secret, max_answer_bytes=100_000)
    return Vendor(fake, build(endpoint), call)


@pytest.fixture(params=VENDORS)
def vendor(request: pytest.FixtureRequest) -> Vendor:
    return vendor_named(request.param, request)


@pytest.fixture(params=[name for name, (_, _, call) in VENDORS.items() if len(call.inputs) > 1])
def vendor_of_batches(request: pytest.FixtureRequest) -> Vendor:
    return vendor_named(request.param, request)


@pytest.mark.parametrize(
    "fault",
    [
        "empty_data",
        "wrong_width",
        "empty_vector",
        "zero_vector",
        "huge_numbers",
        "null_vector",
        "text_vector",
        "nan",
        "html",
        "invalid_json",
        "redirect",
        "huge_body",
        "gzip",
        "gzip_bomb",
        "string_numbers",
    ],
)
async def test_a_wrong_answer_is_a_failure(vendor: Vendor, fault: str) -> None:
    failure = await vendor.failure(fault)

    assert failure.kind is FailureKind.BAD_ANSWER


@pytest.mark.parametrize("fault", ["fewer", "more", "mixed_width"])
async def test_a_wrong_number_of_vectors_or_of_floats_is_a_failure(vendor_of_batches: Vendor, fault: str) -> None:
    failure = await vendor_of_batches.failure(fault)

    assert failure.kind is FailureKind.BAD_ANSWER


@pytest.mark.parametrize("name", ["titan", "cohere_v4", "gemini", "vertex", "vertex_gemini_2"])
async def test_dimensions_that_are_ignored_are_a_failure(name: str, request: pytest.FixtureRequest) -> None:
    failure = await vendor_named(name, request).failure("ignores_dimensions")

    assert failure.kind is FailureKind.BAD_ANSWER


@pytest.mark.parametrize("fault", ["reset", "reset_after_headers", "reset_in_body", "short_body"])
async def test_a_broken_connection_is_a_disconnection(vendor: Vendor, fault: str) -> None:
    failure = await vendor.failure(fault)

    assert failure.kind is FailureKind.DISCONNECTED


async def test_a_silent_server_is_a_timeout(vendor: Vendor) -> None:
    failure = await vendor.failure("hang", timeout_s=0.2)

    assert failure.kind is FailureKind.TIMEOUT
