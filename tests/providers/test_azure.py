"""The Azure adapter against the fake: deployments, api-versions, and what it shares with OpenAI."""

from __future__ import annotations

import dataclasses

import numpy as np
import openai
import pytest

from providers.answers import check_vectors
from providers.azure import API_VERSION, AzureProvider
from providers.base import EmbedCall, Endpoint, EndpointRefused, Kind
from providers.failures import FailureKind, ProviderFailure
from tests.fakes.azure import FakeAzure
from tests.fakes.openai_model import expected_vector

LARGE = "text-embedding-3-large"
ONE = EmbedCall("search-eu", ["one"], 3072)


@pytest.fixture
def endpoint(azure: FakeAzure) -> Endpoint:
    return Endpoint("azure", Kind.AZURE, base_url=azure.base_url, secret=azure.secret)


async def failure_of(endpoint: Endpoint, call: EmbedCall = ONE) -> ProviderFailure:
    with pytest.raises(ProviderFailure) as caught:
        await AzureProvider(endpoint).embed(call, timeout_s=5)
    return caught.value


async def test_the_deployment_stands_in_the_path_and_the_key_in_a_header_of_its_own(
    endpoint: Endpoint, azure: FakeAzure
) -> None:
    answer = await AzureProvider(endpoint).embed(EmbedCall("search-eu", ["one", "two"], 3072), timeout_s=5)

    np.testing.assert_array_equal(answer.vectors, [expected_vector(LARGE, text) for text in ("one", "two")])
    assert (answer.tokens, answer.upstream_id) == (2, "req_1")
    [call] = azure.calls
    assert call.path == f"/openai/deployments/search-eu/embeddings?api-version={API_VERSION}"
    assert call.headers["api-key"] == azure.key
    assert "authorization" not in call.headers
    assert call.body == {"input": ["one", "two"], "model": "search-eu", "encoding_format": "base64"}


async def test_another_api_version_is_asked_for_where_the_endpoint_names_one(
    endpoint: Endpoint, azure: FakeAzure
) -> None:
    newer = dataclasses.replace(endpoint, api_version="2025-04-01-preview", base_url=azure.base_url + "/")

    await AzureProvider(newer).embed(ONE, timeout_s=5)

    assert azure.calls[0].path.endswith("/search-eu/embeddings?api-version=2025-04-01-preview")


async def test_a_deployment_keeps_to_its_place_in_the_path(endpoint: Endpoint, azure: FakeAzure) -> None:
    failure = await failure_of(endpoint, EmbedCall("a/../b?x=1#", ["one"], 3072))

    assert failure.kind is FailureKind.MODEL_MISSING
    assert azure.calls[0].path.startswith("/openai/deployments/a%2F..%2Fb%3Fx%3D1%23/embeddings?")


async def test_a_model_that_is_not_deployed_is_missing(endpoint: Endpoint) -> None:
    failure = await failure_of(endpoint, EmbedCall(LARGE, ["one"], 3072))

    assert (failure.kind, failure.detail) == (FailureKind.MODEL_MISSING, "HTTP 404 DeploymentNotFound")


async def test_an_unknown_api_version_speaks_against_the_route_and_not_against_the_caller(endpoint: Endpoint) -> None:
    failure = await failure_of(dataclasses.replace(endpoint, api_version="2019-01-01"))

    assert failure.kind is FailureKind.MODEL_MISSING


async def test_a_wrong_key_is_ours_to_mend_and_is_never_repeated(endpoint: Endpoint) -> None:
    wrong = dataclasses.replace(endpoint, secret={"api_key": "sk-wrong-and-secret"})

    failure = await failure_of(wrong)
    with pytest.raises(ProviderFailure) as listing:
        await AzureProvider(wrong).list_models()

    assert failure.kind is listing.value.kind is FailureKind.CREDENTIAL
    assert "sk-wrong" not in f"{failure} {listing.value} {wrong!r}"


async def test_dimensions_are_sent_and_base64_may_be_ignored(endpoint: Endpoint, azure: FakeAzure) -> None:
    azure.switch(fault="ignores_base64")

    answer = await AzureProvider(endpoint).embed(EmbedCall("search-eu", ["one"], 256, dimensions=256), timeout_s=5)

    np.testing.assert_array_equal(answer.vectors, [expected_vector(LARGE, "one", 256)])


async def test_dimensions_that_are_ignored_are_no_answer(endpoint: Endpoint, azure: FakeAzure) -> None:
    azure.switch(fault="ignores_dimensions")

    answer = await AzureProvider(endpoint).embed(EmbedCall("search-eu", ["one"], 256, dimensions=256), timeout_s=5)

    with pytest.raises(ProviderFailure):
        check_vectors(answer.vectors, count=1, width=256, cut=False)


async def test_a_wish_to_wait_is_passed_on(endpoint: Endpoint, azure: FakeAzure) -> None:
    azure.switch(fault="status", status=429, retry_after="7", body='{"error":{"code":"429","message":"Rate limit"}}')

    failure = await failure_of(endpoint)

    assert (failure.kind, failure.retry_after) == (FailureKind.CAPACITY, 7.0)


async def test_the_sdk_gets_the_same_vector(endpoint: Endpoint, azure: FakeAzure) -> None:
    sdk = openai.AzureOpenAI(api_key=azure.key, azure_endpoint=azure.base_url, api_version=API_VERSION)

    ours = await AzureProvider(endpoint).embed(ONE, timeout_s=5)
    theirs = sdk.embeddings.create(model="search-eu", input="one")

    np.testing.assert_array_equal(ours.vectors[0], np.float32(theirs.data[0].embedding))


@pytest.mark.parametrize(
    ("endpoint", "reason"),
    [
        (Endpoint("a", Kind.AZURE, secret={"api_key": "k"}), "resource's address"),
        (Endpoint("a", Kind.AZURE, base_url="https://r.openai.azure.com"), "no api_key"),
        (Endpoint("a", Kind.AZURE, base_url="r.openai.azure.com", secret={"api_key": "k"}), "must look like"),
        (Endpoint("a", Kind.AZURE, base_url="https://r", secret={"api_key": "k\r\nx: y"}), "must not hold"),
    ],
)
def test_an_unusable_endpoint_is_refused_when_it_is_built(endpoint: Endpoint, reason: str) -> None:
    with pytest.raises(EndpointRefused, match=reason):
        AzureProvider(endpoint)
