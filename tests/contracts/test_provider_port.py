"""What every provider keeps to, whatever is behind it: one suite, run over each adapter and the real thing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from providers.answers import check_vectors
from providers.base import EmbedAnswer, EmbedCall, Endpoint, InputType, Kind, Provider, Vectors
from providers.failures import FailureKind, ProviderFailure
from providers.local_models import WORDLLAMA, available_models
from providers.registry import build, max_items
from providers.splitting import split_by_caps
from tests.fakes import bedrock, google, vertex
from tests.fakes.azure import FakeAzure
from tests.fakes.openai import FakeOpenAI

TEXTS = ["the first text", "a second one", "und ein dritter, länger als die anderen", "日本語のテキスト"]


@dataclass
class Subject:
    """An adapter, and a model of its."""

    provider: Provider
    identifier: str
    width: int
    counts_tokens: bool

    async def ask(self, texts: list[str], **fields: Any) -> list[EmbedAnswer]:
        """The answers of as many calls as the vendor's cap demands."""
        endpoint = self.provider.endpoint
        most = max_items(endpoint.kind, self.identifier) or endpoint.max_items
        parts = split_by_caps([1] * len(texts), max_items=most, max_tokens=300_000)
        return [
            await self.provider.embed(EmbedCall(self.identifier, texts[part], self.width, **fields), timeout_s=10)
            for part in parts
        ]

    async def embed(self, texts: list[str], **fields: Any) -> Vectors:
        vectors = np.concatenate([answer.vectors for answer in await self.ask(texts, **fields)])
        return check_vectors(vectors, count=len(texts), width=self.width, cut=False)


@pytest.fixture(scope="module")
def openai_server() -> Iterator[FakeOpenAI]:
    with FakeOpenAI() as server:
        yield server


@pytest.fixture(scope="module")
def azure_server() -> Iterator[FakeAzure]:
    with FakeAzure() as server:
        yield server


@pytest.fixture(scope="module")
def bedrock_server() -> Iterator[bedrock.FakeBedrock]:
    with bedrock.FakeBedrock() as server:
        yield server


@pytest.fixture(scope="module")
def google_server() -> Iterator[google.FakeGoogle]:
    with google.FakeGoogle() as server:
        yield server


@pytest.fixture(scope="module")
def vertex_server() -> Iterator[vertex.FakeVertex]:
    with vertex.FakeVertex() as server:
        yield server


@pytest.fixture(scope="module")
def local_server() -> None:
    """Local models need none."""


def _at(kind: Kind, region: str = "") -> Callable[[Any], Endpoint]:
    return lambda fake: Endpoint(
        kind.value, kind, base_url=fake.base_url, region=region, secret=fake.secret, max_items=100
    )


def _local(fake: None) -> Endpoint:
    return Endpoint("local", Kind.LOCAL)


BEDROCK = _at(Kind.BEDROCK, bedrock.REGION)
VERTEX = _at(Kind.VERTEX, vertex.REGION)
# Which server, the endpoint there, the model, its width, and whether the vendor counts tokens.
SUBJECTS: dict[str, tuple[str, Callable[[Any], Endpoint], str, int, bool]] = {
    "openai": ("openai_server", _at(Kind.OPENAI), "text-embedding-3-small", 1536, True),
    "openai_compatible": ("openai_server", _at(Kind.OPENAI_COMPATIBLE), "text-embedding-3-large", 3072, True),
    "azure": ("azure_server", _at(Kind.AZURE), "text-embedding-3-small", 1536, True),
    "titan_v1": ("bedrock_server", BEDROCK, bedrock.TITAN_V1, 1536, True),
    "titan_v2": ("bedrock_server", BEDROCK, bedrock.TITAN_V2, 1024, True),
    "cohere_v3": ("bedrock_server", BEDROCK, bedrock.COHERE_V3, 1024, True),
    "cohere_v4": ("bedrock_server", BEDROCK, bedrock.COHERE_V4, 1536, True),
    "gemini": ("google_server", _at(Kind.GOOGLE), google.GEMINI_1, 3072, False),
    "gemini_2": ("google_server", _at(Kind.GOOGLE), google.GEMINI_2, 3072, False),
    "vertex": ("vertex_server", VERTEX, vertex.TEXT_5, 768, True),
    "vertex_gemini": ("vertex_server", VERTEX, vertex.GEMINI_1, 3072, True),
    "vertex_gemini_2": ("vertex_server", VERTEX, vertex.GEMINI_2, 3072, True),
    "wordllama": ("local_server", _local, "wordllama-256", 256, True),
    "ngram": ("local_server", _local, "ngram-256", 256, True),
}
NEEDS_A_WHEEL = pytest.mark.skipif(WORDLLAMA not in available_models(), reason="no wheel")


@pytest.fixture(params=[pytest.param(name, marks=NEEDS_A_WHEEL) if name == "wordllama" else name for name in SUBJECTS])
async def subject(request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    server, endpoint_at, identifier, width, counts_tokens = SUBJECTS[request.param]
    provider = build(endpoint_at(request.getfixturevalue(server)))
    yield Subject(provider, identifier, width, counts_tokens)
    await provider.close()


async def test_one_text_gives_one_vector(subject: Subject) -> None:
    vectors = await subject.embed(["hello world"])

    assert (vectors.shape, vectors.dtype) == ((1, subject.width), np.float32)


async def test_each_vector_belongs_to_the_text_at_its_place(subject: Subject) -> None:
    together = await subject.embed(TEXTS)
    backwards = await subject.embed(TEXTS[::-1])
    alone = np.concatenate([await subject.embed([text]) for text in TEXTS])

    np.testing.assert_allclose(together, alone, atol=1e-6)
    np.testing.assert_allclose(together, backwards[::-1], atol=1e-6)


async def test_the_same_text_twice_gives_the_same_vector_twice(subject: Subject) -> None:
    vectors = await subject.embed(["again", "other", "again"])

    np.testing.assert_array_equal(vectors[0], vectors[2])
    assert not np.array_equal(vectors[0], vectors[1])


async def test_a_large_batch_is_answered_whole(subject: Subject) -> None:
    texts = [f"text {number}" for number in range(200)]

    vectors = await subject.embed(texts)

    np.testing.assert_allclose(vectors[[0, 99, 199]], await subject.embed([texts[0], texts[99], texts[199]]), atol=1e-6)


async def test_vectors_have_unit_length(subject: Subject) -> None:
    vectors = await subject.embed(TEXTS)

    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)


async def test_tokens_are_counted_or_openly_not_and_no_more_than_bytes_and_one_each(subject: Subject) -> None:
    counts = [answer.tokens for answer in await subject.ask(TEXTS)]

    assert (None not in counts) is subject.counts_tokens
    total = sum(filter(None, counts)) if subject.counts_tokens else len(TEXTS)
    assert len(TEXTS) <= total <= sum(len(text.encode()) + 1 for text in TEXTS)


@pytest.mark.parametrize("input_type", InputType)
async def test_every_input_type_is_taken(subject: Subject, input_type: InputType) -> None:
    vectors = await subject.embed(["hello"], input_type=input_type)

    assert len(vectors) == 1


@pytest.mark.parametrize("texts", [[""], ["fine", ""]])
async def test_an_empty_text_is_the_callers_fault(subject: Subject, texts: list[str]) -> None:
    with pytest.raises(ProviderFailure) as caught:
        await subject.embed(texts)

    assert caught.value.meaning.callers_fault


async def test_half_a_surrogate_pair_raises_nothing_but_a_provider_failure(subject: Subject) -> None:
    with pytest.raises(ProviderFailure) as caught:
        await subject.embed(["\ud800"])

    assert caught.value.kind is FailureKind.TEXT_REFUSED


async def test_an_unknown_model_is_missing(subject: Subject) -> None:
    with pytest.raises(ProviderFailure) as caught:
        await subject.provider.embed(EmbedCall("no-such-model", ["hello"], subject.width), timeout_s=10)

    assert caught.value.kind is FailureKind.MODEL_MISSING


async def test_many_callers_at_once_each_get_their_own(subject: Subject) -> None:
    texts = [f"caller {number}" for number in range(64)]

    answers = await asyncio.gather(*(subject.embed([text]) for text in texts))

    np.testing.assert_allclose(np.concatenate(answers), await subject.embed(texts), atol=1e-6)


async def test_its_models_are_listed(subject: Subject) -> None:
    listed = await subject.provider.list_models()

    assert subject.identifier in [model.identifier for model in listed]


async def test_nothing_is_left_busy(subject: Subject) -> None:
    await subject.embed(TEXTS)

    assert subject.provider.statistics()["busy"] == 0
