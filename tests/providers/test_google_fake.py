"""The fake Gemini API, proven by google-genai before anything of ours talks to it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from google import genai
from google.genai import errors, types

from tests.fakes.google import GEMINI_1, GEMINI_2, FakeGoogle
from tests.fakes.server import KEY
from tests.fakes.vectors import native_vector


def client(fake: FakeGoogle, *, key: str = KEY) -> genai.Client:
    options = types.HttpOptions(base_url=fake.base_url, retry_options=types.HttpRetryOptions(attempts=1))
    return genai.Client(api_key=key, vertexai=False, http_options=options)


@pytest.fixture
def sdk(google: FakeGoogle) -> Iterator[genai.Client]:
    with client(google) as held:  # it closes when it is forgotten
        yield held


def test_texts_give_their_vectors_in_order(sdk: genai.Client) -> None:
    answer = sdk.models.embed_content(model=GEMINI_1, contents=["one", "two"])

    expected = [native_vector(GEMINI_1, text, 3072) for text in ("one", "two")]
    np.testing.assert_array_equal(np.float32([each.values for each in answer.embeddings or []]), expected)


def test_the_task_changes_the_vector_and_fewer_dimensions_come_as_they_were_cut(sdk: genai.Client) -> None:
    config = types.EmbedContentConfig(task_type="RETRIEVAL_QUERY", output_dimensionality=768)

    answer = sdk.models.embed_content(model=GEMINI_1, contents="one", config=config)

    [embedding] = answer.embeddings or []
    np.testing.assert_array_equal(
        np.float32(embedding.values), native_vector(GEMINI_1, "one", 3072, "RETRIEVAL_QUERY")[:768]
    )
    assert np.linalg.norm(np.float32(embedding.values)) < 0.9


def test_a_list_of_texts_to_the_multimodal_model_becomes_one_vector(sdk: genai.Client) -> None:
    answer = sdk.models.embed_content(model=GEMINI_2, contents=["one", "two"])

    assert len(answer.embeddings or []) == 1


@pytest.mark.parametrize(
    ("contents", "message"), [(["x"] * 101, "at most 100"), (["x" * 9000], "input token count"), ([""], "empty")]
)
def test_bad_requests_are_refused(sdk: genai.Client, contents: list[str], message: str) -> None:
    with pytest.raises(errors.ClientError, match=message) as caught:
        sdk.models.embed_content(model=GEMINI_1, contents=contents)

    assert (caught.value.code, caught.value.status) == (400, "INVALID_ARGUMENT")


def test_a_wrong_key_is_a_bad_request_with_a_reason(google: FakeGoogle) -> None:
    with pytest.raises(errors.ClientError) as caught, client(google, key="wrong") as sdk:
        sdk.models.embed_content(model=GEMINI_1, contents="x")

    assert caught.value.code == 400
    assert "API_KEY_INVALID" in str(caught.value.details)


def test_models_are_listed(sdk: genai.Client) -> None:
    listed = list(sdk.models.list())

    assert "models/gemini-embedding-001" in [model.name for model in listed]


def test_an_outage_is_switched_on(sdk: genai.Client, google: FakeGoogle) -> None:
    google.switch(fault="status", status=503)

    with pytest.raises(errors.ServerError):
        sdk.models.embed_content(model=GEMINI_1, contents="x")
