"""The Vertex adapter against the fake: addresses, methods, counts, and a credential that runs out."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from google import genai
from google.genai import types
from google.oauth2.service_account import Credentials

from providers.base import EmbedCall, Endpoint, EndpointRefused, InputType, Kind
from providers.failures import FailureKind, ProviderFailure
from providers.registry import max_items
from providers.vertex import VertexProvider, address_of
from providers.vertex_tokens import SCOPE
from tests.fakes.vertex import GEMINI_1, GEMINI_2, PROJECT, REGION, TEXT_5, FakeVertex, expected_vector

ONE = EmbedCall(TEXT_5, ["one"], 768)
MODELS = f"projects/{PROJECT}/locations/{REGION}/publishers/google/models"


@pytest.fixture
def endpoint(vertex: FakeVertex) -> Endpoint:
    return Endpoint("vertex", Kind.VERTEX, base_url=vertex.base_url, region=REGION, secret=vertex.secret)


async def failure_of(endpoint: Endpoint, call: EmbedCall = ONE) -> ProviderFailure:
    with pytest.raises(ProviderFailure) as caught:
        await VertexProvider(endpoint).embed(call, timeout_s=5)
    return caught.value


async def test_texts_become_instances_that_must_not_be_truncated(endpoint: Endpoint, vertex: FakeVertex) -> None:
    call = EmbedCall(TEXT_5, ["one", "a longer text"], 768, input_type=InputType.DOCUMENT)

    answer = await VertexProvider(endpoint).embed(call, timeout_s=5)

    expected = [expected_vector(TEXT_5, text, task="RETRIEVAL_DOCUMENT") for text in call.inputs]
    np.testing.assert_allclose(answer.vectors, expected, rtol=1e-6)
    assert (answer.tokens, answer.upstream_id) == (5, "req_1")
    [asked] = vertex.calls
    assert asked.path == f"/v1/{MODELS}/{TEXT_5}:predict"
    assert asked.body == {
        "instances": [{"content": text, "task_type": "RETRIEVAL_DOCUMENT"} for text in call.inputs],
        "parameters": {"autoTruncate": False},
    }


async def test_gemini_2_is_asked_by_the_method_that_it_has(endpoint: Endpoint, vertex: FakeVertex) -> None:
    call = EmbedCall(GEMINI_2, ["one"], 768, dimensions=768, input_type=InputType.DOCUMENT)

    answer = await VertexProvider(endpoint).embed(call, timeout_s=5)

    np.testing.assert_allclose(answer.vectors[0], expected_vector(GEMINI_2, "one", 768), rtol=1e-5)
    assert answer.tokens == 1
    assert vertex.calls[0].path == f"/v1/{MODELS}/{GEMINI_2}:embedContent"
    assert vertex.calls[0].body == {
        "content": {"parts": [{"text": "one"}]},
        "embedContentConfig": {"autoTruncate": False, "outputDimensionality": 768},
    }


async def test_narrower_vectors_are_brought_to_unit_length(endpoint: Endpoint) -> None:
    answer = await VertexProvider(endpoint).embed(EmbedCall(GEMINI_1, ["one"], 768, dimensions=768), timeout_s=5)

    np.testing.assert_allclose(answer.vectors[0], expected_vector(GEMINI_1, "one", 768), rtol=1e-5)


async def test_gemini_models_take_one_text_and_others_250(endpoint: Endpoint, vertex: FakeVertex) -> None:
    failure = await failure_of(endpoint, EmbedCall(GEMINI_1, ["one", "two"], 3072))

    assert not failure.meaning.callers_fault
    assert vertex.calls == []
    assert [max_items(Kind.VERTEX, model) for model in (TEXT_5, GEMINI_1, GEMINI_2)] == [250, 1, 1]


@pytest.mark.parametrize("call", [ONE, EmbedCall(GEMINI_2, ["one"], 3072)])
async def test_an_answer_that_admits_to_a_truncation_is_none(
    endpoint: Endpoint, vertex: FakeVertex, call: EmbedCall
) -> None:
    vertex.switch(truncates=True)

    failure = await failure_of(endpoint, call)

    assert (failure.kind, failure.detail) == (
        FailureKind.BAD_ANSWER,
        "a text was truncated, which was not asked for",
    )


@pytest.mark.parametrize("fault", ["tokens_missing", "tokens_negative", "tokens_huge", "tokens_text"])
@pytest.mark.parametrize("call", [ONE, EmbedCall(GEMINI_2, ["one"], 3072)])
async def test_a_count_that_is_missing_or_cannot_be_is_no_count(
    endpoint: Endpoint, vertex: FakeVertex, call: EmbedCall, fault: str
) -> None:
    vertex.switch(fault=fault)

    answer = await VertexProvider(endpoint).embed(call, timeout_s=5)

    assert answer.tokens is None


async def test_one_access_token_serves_many_calls(endpoint: Endpoint, vertex: FakeVertex) -> None:
    provider = VertexProvider(endpoint)

    await provider.embed(ONE, timeout_s=5)
    await provider.embed(ONE, timeout_s=5)

    assert vertex.assertions == 1


async def test_a_revoked_token_fails_one_call_and_the_next_comes_with_a_new_one(
    endpoint: Endpoint, vertex: FakeVertex
) -> None:
    provider = VertexProvider(endpoint)
    await provider.embed(ONE, timeout_s=5)
    vertex.revoke()

    with pytest.raises(ProviderFailure) as caught:
        await provider.embed(ONE, timeout_s=5)
    answer = await provider.embed(ONE, timeout_s=5)

    assert caught.value.kind is FailureKind.CREDENTIAL
    assert "ya29" not in str(caught.value)
    assert len(answer.vectors) == 1


async def test_a_refused_account_is_ours_to_mend_and_nothing_of_it_is_repeated(
    endpoint: Endpoint, vertex: FakeVertex
) -> None:
    account = json.loads(vertex.service_account) | {"client_email": "other@example.com"}
    wrong = dataclasses.replace(endpoint, secret={"service_account": json.dumps(account)})

    failure = await failure_of(wrong)
    with pytest.raises(ProviderFailure) as listing:
        await VertexProvider(wrong).list_models()

    assert failure.kind is listing.value.kind is FailureKind.CREDENTIAL
    assert failure.detail == "token endpoint: HTTP 400 invalid_grant"
    assert "PRIVATE" not in f"{failure} {listing.value} {wrong!r}"
    assert vertex.calls == []


@pytest.mark.parametrize(
    "call", [EmbedCall(TEXT_5, ["x" * 9000], 768), EmbedCall(TEXT_5, ["x" * 8000] * 11, 768)], ids=["one", "all"]
)
async def test_texts_that_are_too_long_say_so(endpoint: Endpoint, call: EmbedCall) -> None:
    assert (await failure_of(endpoint, call)).kind is FailureKind.TOO_LONG


async def test_one_refused_text_is_the_callers_and_stays_out_of_the_detail(
    endpoint: Endpoint, vertex: FakeVertex
) -> None:
    vertex.switch(poison="hunter2")

    failure = await failure_of(endpoint, EmbedCall(TEXT_5, ["fine", "my password is hunter2"], 768))

    assert (failure.kind, failure.detail) == (FailureKind.TEXT_REFUSED, "HTTP 400 INVALID_ARGUMENT")


async def test_the_list_has_models_that_embed(endpoint: Endpoint) -> None:
    listed = [model.identifier for model in await VertexProvider(endpoint).list_models()]

    assert TEXT_5 in listed
    assert "gemini-9-pro" not in listed


@pytest.mark.parametrize("model", [TEXT_5, GEMINI_1, GEMINI_2])
async def test_the_sdk_gets_the_same_vector(endpoint: Endpoint, vertex: FakeVertex, model: str) -> None:
    account = Credentials.from_service_account_info(json.loads(vertex.service_account), scopes=[SCOPE])
    options = types.HttpOptions(base_url=vertex.base_url)

    ours = await VertexProvider(endpoint).embed(EmbedCall(model, ["one"], 768), timeout_s=5)
    with genai.Client(
        vertexai=True, project=PROJECT, location=REGION, credentials=account, http_options=options
    ) as sdk:
        stated = None if model == GEMINI_2 else types.EmbedContentConfig(task_type="RETRIEVAL_DOCUMENT")
        theirs = sdk.models.embed_content(model=model, contents="one", config=stated).embeddings or []

    np.testing.assert_array_equal(ours.vectors[0], np.float32(theirs[0].values))


@pytest.mark.parametrize(
    ("region", "address"),
    [
        ("us-central1", "https://us-central1-aiplatform.googleapis.com"),
        ("global", "https://aiplatform.googleapis.com"),
        ("eu", "https://aiplatform.eu.rep.googleapis.com"),
    ],
)
def test_a_region_has_its_own_host(region: str, address: str) -> None:
    assert address_of(region) == address


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"secret": {}}, "no service_account"),
        ({"region": ""}, "needs a region"),
        ({"region": "evil.example.com/"}, "needs a region"),
        ({"secret": {"service_account": "{not json"}}, "not a JSON object"),
        ({"secret": {"service_account": '{"client_email":"e"}'}}, "lacks client_email or private_key"),
        ({"secret": {"service_account": '{"client_email":"e","private_key":"hunter2"}'}}, "no RSA key"),
    ],
)
def test_an_unusable_endpoint_is_refused_when_it_is_built(
    endpoint: Endpoint, changes: dict[str, object], reason: str
) -> None:
    with pytest.raises(EndpointRefused, match=reason) as caught:
        VertexProvider(dataclasses.replace(endpoint, **changes))

    assert "hunter2" not in str(caught.value)


def test_somebody_must_name_the_project(endpoint: Endpoint, vertex: FakeVertex) -> None:
    account = json.loads(vertex.service_account) | {"project_id": ""}

    with pytest.raises(EndpointRefused, match="names a project"):
        VertexProvider(dataclasses.replace(endpoint, secret={"service_account": json.dumps(account)}))
