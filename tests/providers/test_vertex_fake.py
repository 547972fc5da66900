"""The fake Vertex AI and its token endpoint, proven by google-genai and google-auth before anything of ours."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
from google import genai
from google.auth.exceptions import RefreshError
from google.genai import errors, types
from google.oauth2.service_account import Credentials

from providers.vertex_tokens import SCOPE
from tests.fakes.vectors import native_vector
from tests.fakes.vertex import GEMINI_1, GEMINI_2, PROJECT, REGION, TEXT_5, FakeVertex


def client(fake: FakeVertex, **changes: str) -> genai.Client:
    account = json.loads(fake.service_account) | changes
    options = types.HttpOptions(base_url=fake.base_url, retry_options=types.HttpRetryOptions(attempts=1))
    return genai.Client(
        vertexai=True,
        project=PROJECT,
        location=REGION,
        credentials=Credentials.from_service_account_info(account, scopes=[SCOPE]),
        http_options=options,
    )


@pytest.fixture
def sdk(vertex: FakeVertex) -> Iterator[genai.Client]:
    with client(vertex) as held:  # it closes when it is forgotten
        yield held


def test_texts_give_their_vectors_and_token_counts(sdk: genai.Client) -> None:
    answer = sdk.models.embed_content(model=TEXT_5, contents=["one", "a longer text"])

    expected = [native_vector(TEXT_5, text, 768, "RETRIEVAL_QUERY") for text in ("one", "a longer text")]
    found = answer.embeddings or []
    np.testing.assert_array_equal(np.float32([each.values for each in found]), expected)
    assert [each.statistics.token_count for each in found if each.statistics] == [1, 4]


def test_the_account_is_proven_by_a_signed_assertion(sdk: genai.Client, vertex: FakeVertex) -> None:
    sdk.models.embed_content(model=TEXT_5, contents="one")

    [claims] = vertex.grants
    assert claims["scope"] == SCOPE


def test_another_accounts_key_gets_no_token(vertex: FakeVertex) -> None:
    other = client(vertex, client_email="other@example.com")

    with pytest.raises(RefreshError, match="invalid_grant"), other as sdk:
        sdk.models.embed_content(model=TEXT_5, contents="one")


def test_a_task_and_dimensions(sdk: genai.Client) -> None:
    config = types.EmbedContentConfig(task_type="CLUSTERING", output_dimensionality=256, auto_truncate=False)

    answer = sdk.models.embed_content(model=TEXT_5, contents="one", config=config)

    [embedding] = answer.embeddings or []
    np.testing.assert_array_equal(np.float32(embedding.values), native_vector(TEXT_5, "one", 768, "CLUSTERING")[:256])


@pytest.mark.parametrize(("model", "task"), [(GEMINI_1, "RETRIEVAL_QUERY"), (GEMINI_2, "")])
def test_the_sdk_asks_gemini_models_one_text_at_a_time(
    sdk: genai.Client, vertex: FakeVertex, model: str, task: str
) -> None:
    answer = sdk.models.embed_content(model=model, contents="one")

    [embedding] = answer.embeddings or []
    np.testing.assert_array_equal(np.float32(embedding.values), native_vector(model, "one", 3072, task))
    assert vertex.calls[0].path.endswith(f"{model}:embedContent")


@pytest.mark.parametrize(
    ("contents", "message"),
    [(["x"] * 251, "250 instance"), (["x" * 9000], "supports up to 2048"), (["x" * 8000] * 11, "up to 20000")],
)
def test_what_is_too_much_is_refused_unless_it_may_be_truncated(
    sdk: genai.Client, contents: list[str], message: str
) -> None:
    config = types.EmbedContentConfig(auto_truncate=False)

    with pytest.raises(errors.ClientError, match=message):
        sdk.models.embed_content(model=TEXT_5, contents=contents, config=config)


def test_models_are_listed(sdk: genai.Client) -> None:
    listed = sdk.models.list(config={"query_base": True})

    assert f"publishers/google/models/{TEXT_5}" in [model.name for model in listed]


def test_an_outage_is_switched_on(sdk: genai.Client, vertex: FakeVertex) -> None:
    vertex.switch(fault="status", status=503)

    with pytest.raises(errors.ServerError):
        sdk.models.embed_content(model=TEXT_5, contents="one")
