"""The fake Azure, proven by OpenAI's own client before anything of ours talks to it."""

from __future__ import annotations

import numpy as np
import openai
import pytest

from tests.fakes.azure import FakeAzure
from tests.fakes.openai_model import expected_vector
from tests.fakes.server import KEY


def client(fake: FakeAzure, *, key: str = KEY, api_version: str = "2024-10-21") -> openai.AzureOpenAI:
    return openai.AzureOpenAI(api_key=key, azure_endpoint=fake.base_url, api_version=api_version, max_retries=0)


def test_a_deployment_answers_with_the_vectors_of_its_model(azure: FakeAzure) -> None:
    answer = client(azure).embeddings.create(model="search-eu", input=["one", "two"])

    expected = [expected_vector("text-embedding-3-large", text) for text in ("one", "two")]
    np.testing.assert_array_equal(np.float32([each.embedding for each in answer.data]), expected)
    assert answer.usage.total_tokens == 2


def test_a_model_that_is_not_deployed_is_not_found(azure: FakeAzure) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client(azure).embeddings.create(model="text-embedding-3-large", input="one")

    assert caught.value.code == "DeploymentNotFound"


def test_a_wrong_key_is_an_authentication_error(azure: FakeAzure) -> None:
    with pytest.raises(openai.AuthenticationError):
        client(azure, key="wrong").embeddings.create(model="search-eu", input="one")


def test_an_unknown_api_version_is_not_found(azure: FakeAzure) -> None:
    with pytest.raises(openai.NotFoundError):
        client(azure, api_version="2019-01-01").embeddings.create(model="search-eu", input="one")


def test_models_are_listed(azure: FakeAzure) -> None:
    assert "text-embedding-3-small" in [model.id for model in client(azure).models.list()]


def test_a_status_is_switched_on(azure: FakeAzure) -> None:
    azure.switch(fault="status", status=429, retry_after="7")

    with pytest.raises(openai.RateLimitError) as caught:
        client(azure).embeddings.create(model="search-eu", input="one")

    assert caught.value.response.headers["retry-after"] == "7"
