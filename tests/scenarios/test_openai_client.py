"""Programs written for OpenAI work with only the address and the key changed, and get the vendor's own vectors."""

from __future__ import annotations

import numpy as np
import openai
import pytest
import tiktoken
from langchain_openai import OpenAIEmbeddings

from embeddings import tokens
from tests.fakes.openai_model import expected_vector
from tests.up.processes import CHECKOUT

MODEL = "text-embedding-3-small"
TEXTS = ["hello world", "zwölf Boxkämpfer", "👩‍👩‍👧", "a\x00b", " "]
pytestmark = pytest.mark.slow


@pytest.fixture
def client(platform, acme_key):
    with openai.OpenAI(base_url=f"http://127.0.0.1:{platform.port}/v1", api_key=acme_key) as client:
        yield client


def are_expected(answer, inputs, dimensions=None) -> bool:
    """Float for float."""
    expected = [expected_vector(MODEL, each, dimensions) for each in inputs]
    return [each.index for each in answer.data] == list(range(len(inputs))) and all(
        np.array_equal(np.array(each.embedding, np.float32), vector)
        for each, vector in zip(answer.data, expected, strict=True)
    )


def test_one_text_as_the_client_asks_by_itself(client):
    answer = client.embeddings.create(model=MODEL, input="hello world")
    assert are_expected(answer, ["hello world"])
    assert (answer.model, answer.usage.total_tokens, answer.usage.prompt_tokens) == (MODEL, 2, 2)


@pytest.mark.parametrize("encoding_format", ["float", "base64"])
def test_both_formats_hold_the_same_floats(client, encoding_format):
    raw = client.embeddings.with_raw_response.create(model=MODEL, input=TEXTS, encoding_format=encoding_format)
    assert raw.status_code == 200
    floats = client.embeddings.create(model=MODEL, input=TEXTS, encoding_format="float")
    assert are_expected(floats, TEXTS)
    assert are_expected(client.embeddings.create(model=MODEL, input=TEXTS), TEXTS)


def test_token_arrays(client):
    arrays = [[15339, 1917], [7]]
    assert are_expected(client.embeddings.create(model=MODEL, input=arrays), arrays)
    assert are_expected(client.embeddings.create(model=MODEL, input=arrays[0]), arrays[:1])


def test_dimensions(client):
    assert are_expected(client.embeddings.create(model=MODEL, input="a", dimensions=256), ["a"], 256)


def test_models(client):
    listed = client.models.list().data
    assert [each.id for each in listed] == [MODEL]
    assert client.models.retrieve(MODEL).owned_by == "fake"


def test_errors_are_the_clients_own(client, platform):
    with pytest.raises(openai.NotFoundError) as unknown:
        client.embeddings.create(model="gpt", input="a")
    with pytest.raises(openai.BadRequestError) as empty:
        client.embeddings.create(model=MODEL, input="")
    stranger = openai.OpenAI(base_url=f"http://127.0.0.1:{platform.port}/v1", api_key="sk-wrong")
    with pytest.raises(openai.AuthenticationError):
        stranger.models.list()
    assert (unknown.value.code, unknown.value.param) == ("model_not_configured", "model")
    assert (empty.value.code, empty.value.param) == ("invalid_request", "input")


def test_langchain_untouched(platform, acme_key, monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(CHECKOUT / "embeddings" / "data"))
    store = OpenAIEmbeddings(model=MODEL, base_url=f"http://127.0.0.1:{platform.port}/v1", api_key=acme_key)
    found = store.embed_documents(TEXTS[:3])
    assert isinstance(tokens.encoding(), tiktoken.Encoding)
    for text, vector in zip(TEXTS, found, strict=False):
        # LangChain averages the parts of a text and norms the sum: no longer float for float.
        assert np.allclose(vector, expected_vector(MODEL, text), atol=1e-6)
    assert np.allclose(store.embed_query("hello world"), expected_vector(MODEL, "hello world"), atol=1e-6)
