"""The Gemini adapter against the fake: one vector for each text, in Google's words, at unit length."""

from __future__ import annotations

import dataclasses
import json

import msgspec
import numpy as np
import pytest
from google import genai
from google.genai import types

from providers.base import EmbedCall, Endpoint, EndpointRefused, InputType, Kind
from providers.failures import FailureKind, ProviderFailure
from providers.google import GoogleProvider
from tests.fakes.google import GEMINI_1, GEMINI_2, FakeGoogle, expected_vector

TEXTS = ["one", "two", "three"]
ONE = EmbedCall(GEMINI_1, ["one"], 3072)


@pytest.fixture
def endpoint(google: FakeGoogle) -> Endpoint:
    return Endpoint("gemini", Kind.GOOGLE, base_url=google.base_url, secret=google.secret)


async def failure_of(endpoint: Endpoint, call: EmbedCall = ONE) -> ProviderFailure:
    with pytest.raises(ProviderFailure) as caught:
        await GoogleProvider(endpoint).embed(call, timeout_s=5)
    return caught.value


async def test_one_text_is_asked_for_like_many(endpoint: Endpoint, google: FakeGoogle) -> None:
    answer = await GoogleProvider(endpoint).embed(ONE, timeout_s=5)

    [call] = google.calls
    assert call.path == "/v1beta/models/gemini-embedding-001:batchEmbedContents"
    assert call.headers["x-goog-api-key"] == google.key
    content = {"parts": [{"text": "one"}]}
    asked = {"model": f"models/{GEMINI_1}", "taskType": "RETRIEVAL_DOCUMENT", "content": content}
    assert call.body == {"requests": [asked]}
    assert (answer.tokens, answer.upstream_id) == (None, "req_1")


@pytest.mark.parametrize("model", [GEMINI_1, GEMINI_2])
async def test_as_many_texts_as_vectors_where_the_sdk_makes_one_of_a_list(
    endpoint: Endpoint, google: FakeGoogle, model: str
) -> None:
    answer = await GoogleProvider(endpoint).embed(EmbedCall(model, TEXTS, 3072), timeout_s=5)

    np.testing.assert_allclose(answer.vectors, [expected_vector(model, text) for text in TEXTS], rtol=1e-6)
    assert google.calls[0].items == 3


async def test_fewer_vectors_than_texts_are_no_answer(endpoint: Endpoint, google: FakeGoogle) -> None:
    google.switch(fault="fewer")

    failure = await failure_of(endpoint, EmbedCall(GEMINI_2, TEXTS, 3072))

    assert (failure.kind, failure.detail) == (FailureKind.BAD_ANSWER, "3 vectors expected, 2 came")


async def test_narrower_vectors_are_brought_to_unit_length(endpoint: Endpoint, google: FakeGoogle) -> None:
    answer = await GoogleProvider(endpoint).embed(EmbedCall(GEMINI_1, TEXTS, 768, dimensions=768), timeout_s=5)

    np.testing.assert_allclose(np.linalg.norm(answer.vectors, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(answer.vectors, [expected_vector(GEMINI_1, text, 768) for text in TEXTS], rtol=1e-5)
    assert google.calls[0].body["requests"][0]["outputDimensionality"] == 768


@pytest.mark.parametrize(
    ("stated", "word"),
    [
        (InputType.QUERY, "RETRIEVAL_QUERY"),
        (InputType.DOCUMENT, "RETRIEVAL_DOCUMENT"),
        (InputType.CLASSIFICATION, "CLASSIFICATION"),
        (InputType.CLUSTERING, "CLUSTERING"),
        (InputType.SIMILARITY, "SEMANTIC_SIMILARITY"),
        (None, "RETRIEVAL_DOCUMENT"),
    ],
)
async def test_an_input_type_is_sent_in_googles_words(
    endpoint: Endpoint, google: FakeGoogle, stated: InputType | None, word: str
) -> None:
    call = msgspec.structs.replace(ONE, input_type=stated)

    answer = await GoogleProvider(endpoint).embed(call, timeout_s=5)

    np.testing.assert_allclose(answer.vectors[0], expected_vector(GEMINI_1, "one", task=word), rtol=1e-6)
    assert google.calls[0].body["requests"][0]["taskType"] == word


async def test_a_model_without_task_types_is_sent_none(endpoint: Endpoint, google: FakeGoogle) -> None:
    call = EmbedCall(GEMINI_2, ["one"], 3072, input_type=InputType.QUERY)

    await GoogleProvider(endpoint).embed(call, timeout_s=5)

    assert "taskType" not in google.calls[0].body["requests"][0]


async def test_a_wrong_key_comes_as_a_bad_request_and_is_ours_all_the_same(endpoint: Endpoint) -> None:
    wrong = dataclasses.replace(endpoint, secret={"api_key": "AIza-wrong-and-secret"})

    failure = await failure_of(wrong)
    with pytest.raises(ProviderFailure) as listing:
        await GoogleProvider(wrong).list_models()

    assert (failure.kind, failure.status) == (FailureKind.CREDENTIAL, 400)
    assert failure.detail == listing.value.detail == "HTTP 400 INVALID_ARGUMENT API_KEY_INVALID"
    assert "AIza" not in f"{failure} {listing.value} {wrong!r}"


async def test_the_wait_that_google_asks_for_stands_in_the_body(endpoint: Endpoint, google: FakeGoogle) -> None:
    details = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "37s"}]
    error = {"code": 429, "message": "Quota exceeded", "status": "RESOURCE_EXHAUSTED", "details": details}
    google.switch(fault="status", status=429, body=json.dumps({"error": error}))

    failure = await failure_of(endpoint)

    assert (failure.kind, failure.retry_after) == (FailureKind.CAPACITY, 37.0)


@pytest.mark.parametrize(
    ("status", "word", "kind"),
    [
        (400, "INVALID_ARGUMENT", FailureKind.TEXT_REFUSED),
        (400, "FAILED_PRECONDITION", FailureKind.CREDENTIAL),
        (403, "PERMISSION_DENIED", FailureKind.CREDENTIAL),
        (404, "NOT_FOUND", FailureKind.MODEL_MISSING),
        (429, "RESOURCE_EXHAUSTED", FailureKind.CAPACITY),
        (499, "CANCELLED", FailureKind.SERVER),
        (500, "INTERNAL", FailureKind.SERVER),
        (503, "UNAVAILABLE", FailureKind.SERVER),
        (504, "DEADLINE_EXCEEDED", FailureKind.SERVER),
    ],
)
async def test_googles_words_have_their_meaning(
    endpoint: Endpoint, google: FakeGoogle, status: int, word: str, kind: FailureKind
) -> None:
    google.switch(fault="status", status=status, body=json.dumps({"error": {"code": status, "status": word}}))

    failure = await failure_of(endpoint)

    assert (failure.kind, failure.detail) == (kind, f"HTTP {status} {word}")


async def test_a_text_that_is_too_long_says_so(endpoint: Endpoint) -> None:
    assert (await failure_of(endpoint, EmbedCall(GEMINI_1, ["x" * 9000], 3072))).kind is FailureKind.TOO_LONG


async def test_one_refused_text_is_the_callers_and_stays_out_of_the_detail(
    endpoint: Endpoint, google: FakeGoogle
) -> None:
    google.switch(poison="hunter2")

    failure = await failure_of(endpoint, EmbedCall(GEMINI_1, ["fine", "my password is hunter2"], 3072))

    assert (failure.kind, failure.detail) == (FailureKind.TEXT_REFUSED, "HTTP 400 INVALID_ARGUMENT")


async def test_token_arrays_are_not_taken(endpoint: Endpoint, google: FakeGoogle) -> None:
    failure = await failure_of(endpoint, EmbedCall(GEMINI_1, [[1, 2]], 3072))

    assert (failure.kind, google.calls) == (FailureKind.TEXT_REFUSED, [])


async def test_the_list_has_models_that_embed(endpoint: Endpoint) -> None:
    listed = await GoogleProvider(endpoint).list_models()

    assert [(each.identifier, each.max_tokens) for each in listed] == [(GEMINI_1, 2048), (GEMINI_2, 8192)]


async def test_a_list_that_nobody_answers_is_unreachable(endpoint: Endpoint) -> None:
    with pytest.raises(ProviderFailure) as caught:
        await GoogleProvider(dataclasses.replace(endpoint, base_url="http://127.0.0.1:9")).list_models()

    assert caught.value.kind is FailureKind.UNREACHABLE


async def test_the_sdk_gets_the_same_vector(endpoint: Endpoint, google: FakeGoogle) -> None:
    ours = await GoogleProvider(endpoint).embed(ONE, timeout_s=5)
    with genai.Client(api_key=google.key, http_options=types.HttpOptions(base_url=google.base_url)) as sdk:
        stated = types.EmbedContentConfig(task_type="RETRIEVAL_DOCUMENT")
        theirs = sdk.models.embed_content(model=GEMINI_1, contents="one", config=stated).embeddings or []

    np.testing.assert_array_equal(ours.vectors[0], np.float32(theirs[0].values))


def test_a_key_is_needed() -> None:
    with pytest.raises(EndpointRefused, match="no api_key"):
        GoogleProvider(Endpoint("g", Kind.GOOGLE))
