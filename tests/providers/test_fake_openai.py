"""The fake OpenAI, proven by OpenAI's own client before anything of ours talks to it."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator

import httpx2
import numpy as np
import openai
import pytest

from embeddings.tokens import encoding
from tests.fakes.openai import FakeOpenAI
from tests.fakes.openai_model import expected_vector

SMALL = "text-embedding-3-small"


@pytest.fixture
def sdk(fake: FakeOpenAI) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key=fake.key, base_url=fake.base_url, max_retries=0) as client:
        yield client


def test_one_text_gives_the_vector_of_that_text(sdk: openai.OpenAI) -> None:
    answer = sdk.embeddings.create(model=SMALL, input="hello world")

    np.testing.assert_array_equal(np.float32(answer.data[0].embedding), expected_vector(SMALL, "hello world"))
    assert answer.usage.total_tokens == 2
    assert answer.model == SMALL


def test_a_batch_comes_in_order_and_unit_length(sdk: openai.OpenAI) -> None:
    answer = sdk.embeddings.create(model=SMALL, input=["one", "two", "three"])

    assert [item.index for item in answer.data] == [0, 1, 2]
    expected = [expected_vector(SMALL, text) for text in ("one", "two", "three")]
    np.testing.assert_array_equal(np.float32([item.embedding for item in answer.data]), expected)
    np.testing.assert_allclose(np.linalg.norm(expected, axis=1), 1, rtol=1e-6)


def test_tokens_give_the_vector_of_their_text(sdk: openai.OpenAI) -> None:
    tokens = encoding().encode_ordinary("hello world")

    one = sdk.embeddings.create(model=SMALL, input=tokens)
    listed = sdk.embeddings.create(model=SMALL, input=[tokens])

    expected = expected_vector(SMALL, "hello world")
    np.testing.assert_array_equal(np.float32(one.data[0].embedding), expected)
    np.testing.assert_array_equal(np.float32(listed.data[0].embedding), expected)


def test_fewer_dimensions_are_the_native_vector_cut(sdk: openai.OpenAI) -> None:
    answer = sdk.embeddings.create(model=SMALL, input="hello", dimensions=256)

    native = expected_vector(SMALL, "hello")[:256]
    np.testing.assert_allclose(answer.data[0].embedding, native / np.linalg.norm(native), rtol=1e-5)


def test_base64_and_float_are_the_same_vector(sdk: openai.OpenAI) -> None:
    floats = sdk.embeddings.create(model=SMALL, input="hello", encoding_format="float")
    encoded = sdk.embeddings.create(model=SMALL, input="hello", encoding_format="base64")

    raw = base64.b64decode(str(encoded.data[0].embedding))
    np.testing.assert_array_equal(np.frombuffer(raw, "<f4"), np.float32(floats.data[0].embedding))


def test_models_are_listed(sdk: openai.OpenAI) -> None:
    listed = [model.id for model in sdk.models.list()]

    assert listed == ["text-embedding-3-small", "text-embedding-3-large", "text-embedding-ada-002"]


def test_a_wrong_key_is_an_authentication_error(fake: FakeOpenAI) -> None:
    client = openai.OpenAI(api_key="sk-wrong", base_url=fake.base_url, max_retries=0)

    with pytest.raises(openai.AuthenticationError) as caught:
        client.embeddings.create(model=SMALL, input="hello")

    assert caught.value.code == "invalid_api_key"


def test_an_unknown_model_is_not_found(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        sdk.embeddings.create(model="text-embedding-9", input="hello")

    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("words", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["fine", ""]}, "input"),
        ({"input": ["x"] * 2049}, "input"),
        ({"input": "word " * 9000}, None),
        ({"input": "x", "dimensions": 1537}, "dimensions"),
        ({"input": "x", "dimensions": 256, "model": "text-embedding-ada-002"}, "dimensions"),
    ],
)
def test_bad_requests_are_refused(sdk: openai.OpenAI, words: dict[str, object], param: str | None) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.embeddings.create(**({"model": SMALL} | words))

    assert caught.value.param == param


def test_a_status_is_switched_on_for_a_number_of_calls(sdk: openai.OpenAI, fake: FakeOpenAI) -> None:
    fake.switch(fault="status", status=429, retry_after="7", times=1)

    with pytest.raises(openai.RateLimitError) as caught:
        sdk.embeddings.create(model=SMALL, input="hello")
    answer = sdk.embeddings.create(model=SMALL, input="hello")

    assert caught.value.response.headers["retry-after"] == "7"
    assert len(answer.data) == 1


def test_a_hanging_server_is_a_timeout(sdk: openai.OpenAI, fake: FakeOpenAI) -> None:
    fake.switch(fault="hang")

    with pytest.raises(openai.APITimeoutError):
        sdk.embeddings.create(model=SMALL, input="hello", timeout=0.2)


@pytest.mark.parametrize("fault", ["reset", "reset_after_headers", "short_body"])
def test_a_torn_answer_is_a_connection_error(sdk: openai.OpenAI, fake: FakeOpenAI, fault: str) -> None:
    fake.switch(fault=fault)

    with pytest.raises((openai.APIConnectionError, httpx2.HTTPError)):
        sdk.embeddings.create(model=SMALL, input="hello")


def test_it_keeps_what_it_was_asked(sdk: openai.OpenAI, fake: FakeOpenAI) -> None:
    sdk.embeddings.create(model=SMALL, input=["one", "two"])

    [call] = fake.calls
    assert call.items == 2
    assert call.body["input"] == ["one", "two"]
    assert call.headers["authorization"] == f"Bearer {fake.key}"


@pytest.mark.slow
def test_it_runs_as_a_process_and_is_switched_over_http() -> None:
    command = [sys.executable, "-m", "tests.fakes.openai"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ)) as process:
        assert process.stdout is not None
        base_url = process.stdout.readline().strip()
        control = base_url.removesuffix("/v1") + "/_control"
        urllib.request.urlopen(urllib.request.Request(control, json.dumps({"key": "other"}).encode()))
        client = openai.OpenAI(api_key="other", base_url=base_url, max_retries=0)

        answer = client.embeddings.create(model=SMALL, input="hello")
        calls = json.load(urllib.request.urlopen(control))["calls"]
        process.kill()

    assert len(answer.data[0].embedding) == 1536
    assert [call["items"] for call in calls] == [1]
