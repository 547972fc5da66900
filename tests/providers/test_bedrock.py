"""The Bedrock adapter against the fake: four families of models, two kinds of credential, AWS's types of error."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest

from providers.base import EmbedCall, Endpoint, EndpointRefused, InputType, Kind
from providers.bedrock import BedrockProvider
from providers.failures import FailureKind, ProviderFailure
from providers.registry import max_items
from tests.fakes.bedrock import (
    ACCESS_KEY_ID,
    API_KEY,
    COHERE_V3,
    COHERE_V4,
    REGION,
    TITAN_V1,
    TITAN_V2,
    FakeBedrock,
    expected_vector,
)

TITAN_CALL = EmbedCall(TITAN_V2, ["hello world"], 1024)


@pytest.fixture
def endpoint(bedrock: FakeBedrock) -> Endpoint:
    return Endpoint("bedrock", Kind.BEDROCK, base_url=bedrock.base_url, region=REGION, secret=bedrock.secret)


async def failure_of(endpoint: Endpoint, call: EmbedCall = TITAN_CALL) -> ProviderFailure:
    with pytest.raises(ProviderFailure) as caught:
        await BedrockProvider(endpoint).embed(call, timeout_s=5)
    return caught.value


@pytest.mark.parametrize(
    ("call", "body"),
    [
        (EmbedCall(TITAN_V1, ["x"], 1536, input_type=InputType.QUERY), {"inputText": "x"}),
        (TITAN_CALL, {"inputText": "hello world", "normalize": True, "embeddingTypes": ["float"]}),
        (
            EmbedCall(TITAN_V2, ["x"], 256, dimensions=256),
            {"inputText": "x", "normalize": True, "embeddingTypes": ["float"], "dimensions": 256},
        ),
        (
            EmbedCall(COHERE_V3, ["x", "y"], 1024, input_type=InputType.QUERY),
            {"texts": ["x", "y"], "input_type": "search_query", "truncate": "NONE"},
        ),
        (
            EmbedCall(COHERE_V4, ["x"], 512, dimensions=512, input_type=InputType.CLUSTERING),
            {
                "texts": ["x"],
                "input_type": "clustering",
                "truncate": "NONE",
                "embedding_types": ["float"],
                "output_dimension": 512,
            },
        ),
    ],
)
async def test_each_family_is_asked_in_its_own_form(
    endpoint: Endpoint, bedrock: FakeBedrock, call: EmbedCall, body: dict[str, object]
) -> None:
    answer = await BedrockProvider(endpoint).embed(call, timeout_s=5)

    task = str(body.get("input_type", ""))
    expected = [expected_vector(call.identifier, str(text), call.dimensions, task) for text in call.inputs]
    np.testing.assert_array_equal(answer.vectors, expected)
    assert bedrock.calls[0].body == body
    assert answer.upstream_id == "req_1"


@pytest.mark.parametrize("stated", [None, InputType.DOCUMENT, InputType.SIMILARITY])
async def test_an_unstated_input_type_is_a_document_to_cohere(
    endpoint: Endpoint, bedrock: FakeBedrock, stated: InputType | None
) -> None:
    await BedrockProvider(endpoint).embed(EmbedCall(COHERE_V3, ["x"], 1024, input_type=stated), timeout_s=5)

    assert bedrock.calls[0].body["input_type"] == "search_document"


@pytest.mark.parametrize("call", [TITAN_CALL, EmbedCall(COHERE_V3, ["hello", "world"], 1024)])
async def test_tokens_come_from_where_each_vendor_counts_them(endpoint: Endpoint, call: EmbedCall) -> None:
    answer = await BedrockProvider(endpoint).embed(call, timeout_s=5)

    assert answer.tokens in (3, 4)


@pytest.mark.parametrize("fault", ["tokens_missing", "tokens_negative", "tokens_huge", "tokens_text"])
@pytest.mark.parametrize("call", [TITAN_CALL, EmbedCall(COHERE_V3, ["x"], 1024), EmbedCall(COHERE_V4, ["x"], 1536)])
async def test_a_count_that_is_missing_or_cannot_be_is_no_count(
    endpoint: Endpoint, bedrock: FakeBedrock, call: EmbedCall, fault: str
) -> None:
    bedrock.switch(fault=fault)

    answer = await BedrockProvider(endpoint).embed(call, timeout_s=5)

    assert answer.tokens is None


@pytest.mark.parametrize("model", [TITAN_V1, COHERE_V3])
async def test_dimensions_are_never_sent_to_a_model_that_refuses_them(
    endpoint: Endpoint, bedrock: FakeBedrock, model: str
) -> None:
    failure = await failure_of(endpoint, EmbedCall(model, ["x"], 256, dimensions=256))

    assert failure.detail == "the model has no vectors of 256 dimensions"
    assert bedrock.calls == []


async def test_titan_takes_one_text_and_cohere_96(endpoint: Endpoint, bedrock: FakeBedrock) -> None:
    two = await failure_of(endpoint, EmbedCall(TITAN_V2, ["x", "y"], 1024))
    many = await failure_of(endpoint, EmbedCall(COHERE_V3, ["x"] * 97, 1024))

    assert not two.meaning.callers_fault
    assert not many.meaning.callers_fault
    assert bedrock.calls == []
    assert [max_items(Kind.BEDROCK, model) for model in (TITAN_V1, TITAN_V2, COHERE_V3, COHERE_V4)] == [1, 1, 96, 96]


@pytest.mark.parametrize(
    "identifier", [f"us.{COHERE_V4}", f"arn:aws:bedrock:{REGION}:123456789012:inference-profile/global.{COHERE_V4}"]
)
async def test_inference_profiles_are_known_by_the_model_in_their_name(endpoint: Endpoint, identifier: str) -> None:
    answer = await BedrockProvider(endpoint).embed(EmbedCall(identifier, ["x"], 1536), timeout_s=5)

    np.testing.assert_array_equal(answer.vectors[0], expected_vector(COHERE_V4, "x", task="search_document"))


async def test_a_session_token_is_sent_and_signed(endpoint: Endpoint, bedrock: FakeBedrock) -> None:
    secret = {**endpoint.secret, "aws_session_token": "IQoJ/session=="}

    await BedrockProvider(dataclasses.replace(endpoint, secret=secret)).embed(TITAN_CALL, timeout_s=5)

    assert bedrock.calls[0].headers["x-amz-security-token"] == "IQoJ/session=="
    assert "x-amz-security-token" in bedrock.calls[0].headers["authorization"]


async def test_an_api_key_is_a_bearer_for_lists_too(endpoint: Endpoint, bedrock: FakeBedrock) -> None:
    provider = BedrockProvider(dataclasses.replace(endpoint, secret={"api_key": API_KEY}))

    answer = await provider.embed(TITAN_CALL, timeout_s=5)
    listed = await provider.list_models()

    assert TITAN_V2 in [model.identifier for model in listed]
    np.testing.assert_array_equal(answer.vectors[0], expected_vector(TITAN_V2, "hello world"))
    assert bedrock.calls[0].headers["authorization"] == f"Bearer {API_KEY}"


async def test_with_an_api_key_the_sdk_looks_for_no_other_credential(
    endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config").write_text(f"[default]\ncredential_process = touch {tmp_path}/looked\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # it remembers what it found

    await BedrockProvider(dataclasses.replace(endpoint, secret={"api_key": API_KEY})).list_models()

    assert not (tmp_path / "looked").exists()


@pytest.mark.parametrize(
    "secret",
    [
        {"aws_access_key_id": "AKIDWRONGSECRET", "aws_secret_access_key": "k"},
        {"aws_access_key_id": ACCESS_KEY_ID, "aws_secret_access_key": "wrong-and-secret"},
        {"api_key": "wrong-and-secret"},
    ],
)
async def test_a_wrong_credential_is_ours_to_mend_and_is_never_repeated(
    endpoint: Endpoint, secret: dict[str, str]
) -> None:
    wrong = dataclasses.replace(endpoint, secret=secret)

    failure = await failure_of(wrong)
    with pytest.raises(ProviderFailure) as listing:
        await BedrockProvider(wrong).list_models()

    assert failure.kind is listing.value.kind is FailureKind.CREDENTIAL
    assert "SECRET" not in f"{failure} {listing.value} {wrong!r}"
    assert "secret" not in f"{failure} {listing.value}"


async def test_the_list_has_models_that_embed_texts(endpoint: Endpoint) -> None:
    listed = [model.identifier for model in await BedrockProvider(endpoint).list_models()]

    assert TITAN_V2 in listed
    assert "amazon.titan-embed-image-only" not in listed


async def test_a_list_that_nobody_answers_is_unreachable(endpoint: Endpoint) -> None:
    nobody = dataclasses.replace(endpoint, base_url="http://127.0.0.1:9")

    with pytest.raises(ProviderFailure) as caught:
        await BedrockProvider(nobody).list_models()

    assert caught.value.kind is FailureKind.UNREACHABLE


@pytest.mark.parametrize(
    ("status", "type", "message", "kind"),
    [
        (429, "ThrottlingException", "Too many requests", FailureKind.CAPACITY),
        (400, "ServiceQuotaExceededException", "", FailureKind.CAPACITY),
        (429, "ModelNotReadyException", "", FailureKind.CAPACITY),
        (403, "AccessDeniedException", "You don't have access to the model", FailureKind.CREDENTIAL),
        (403, "ExpiredTokenException", "", FailureKind.CREDENTIAL),
        (400, "IncompleteSignature", "", FailureKind.CREDENTIAL),
        (404, "ResourceNotFoundException", "", FailureKind.MODEL_MISSING),
        (408, "ModelTimeoutException", "", FailureKind.TIMEOUT),
        (424, "ModelErrorException", "", FailureKind.SERVER),
        (500, "InternalServerException", "", FailureKind.SERVER),
        (503, "ServiceUnavailableException", "", FailureKind.SERVER),
        (400, "ValidationException", "a text was bad", FailureKind.TEXT_REFUSED),
        (400, "ValidationException", "The provided model identifier is invalid.", FailureKind.MODEL_MISSING),
        (
            400,
            "ValidationException",
            "Invocation of model ID x with on-demand throughput isn't supported.",
            FailureKind.MODEL_MISSING,
        ),
        (400, "ValidationException", "Input is too long for requested model.", FailureKind.TOO_LONG),
    ],
)
async def test_awss_types_of_error_have_their_meaning(
    endpoint: Endpoint, bedrock: FakeBedrock, status: int, type: str, message: str, kind: FailureKind
) -> None:
    headers = {"x-amzn-errortype": f"{type}:http://internal.amazon.com/coral/com.amazon.bedrock/"}
    bedrock.switch(fault="status", status=status, headers=headers, body=json.dumps({"message": message}))

    failure = await failure_of(endpoint)

    assert (failure.kind, failure.detail) == (kind, f"HTTP {status} {type}")


async def test_a_type_in_the_body_alone_is_read_as_well(endpoint: Endpoint, bedrock: FakeBedrock) -> None:
    bedrock.switch(fault="status", status=400, body='{"__type":"com.amazon.coral.service#ExpiredTokenException"}')

    assert (await failure_of(endpoint)).kind is FailureKind.CREDENTIAL


@pytest.mark.parametrize(
    "call", [EmbedCall(TITAN_V2, ["x" * 40_000], 1024), EmbedCall(COHERE_V3, ["fine", "x" * 2049], 1024)]
)
async def test_a_text_that_is_too_long_says_so(endpoint: Endpoint, call: EmbedCall) -> None:
    assert (await failure_of(endpoint, call)).kind is FailureKind.TOO_LONG


async def test_one_refused_text_is_the_callers_and_stays_out_of_the_detail(
    endpoint: Endpoint, bedrock: FakeBedrock
) -> None:
    bedrock.switch(poison="hunter2")
    provider = BedrockProvider(endpoint)

    failure = await failure_of(endpoint, EmbedCall(COHERE_V3, ["fine", "my password is hunter2"], 1024))
    alone = await provider.embed(EmbedCall(COHERE_V3, ["fine"], 1024), timeout_s=5)

    assert (failure.kind, failure.detail) == (FailureKind.TEXT_REFUSED, "HTTP 400 ValidationException")
    assert len(alone.vectors) == 1


async def test_boto3_gets_the_same_vector(endpoint: Endpoint, bedrock: FakeBedrock) -> None:
    runtime: Any = boto3.client("bedrock-runtime", region_name=REGION, endpoint_url=bedrock.base_url, **endpoint.secret)

    ours = await BedrockProvider(endpoint).embed(TITAN_CALL, timeout_s=5)
    theirs = runtime.invoke_model(modelId=TITAN_V2, body=json.dumps({"inputText": "hello world"}))

    np.testing.assert_array_equal(ours.vectors[0], np.float32(json.loads(theirs["body"].read())["embedding"]))


@pytest.mark.parametrize(
    ("region", "secret", "reason"),
    [
        ("", {"api_key": "k"}, "needs a region"),
        ("evil.example.com/", {"api_key": "k"}, "needs a region"),
        ("us-east-1", {}, "neither aws_access_key_id"),
        ("us-east-1", {"aws_access_key_id": "k"}, "neither aws_access_key_id"),
        ("us-east-1", {"aws_access_key_id": "k\r\n", "aws_secret_access_key": "s"}, "must not hold"),
    ],
)
def test_an_unusable_endpoint_is_refused_when_it_is_built(region: str, secret: dict[str, str], reason: str) -> None:
    with pytest.raises(EndpointRefused, match=reason):
        BedrockProvider(Endpoint("b", Kind.BEDROCK, region=region, secret=secret))
