"""The fake Bedrock, proven by boto3 before anything of ours talks to it."""

from __future__ import annotations

import json
from typing import Any

import boto3
import numpy as np
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ReadTimeoutError

from tests.fakes.bedrock import (
    ACCESS_KEY_ID,
    COHERE_V3,
    COHERE_V4,
    REGION,
    TITAN_V1,
    TITAN_V2,
    FakeBedrock,
    expected_vector,
)
from tests.fakes.server import KEY


def client(fake: FakeBedrock, service: str = "bedrock-runtime", *, secret: str = KEY) -> Any:
    return boto3.client(
        service,
        region_name=REGION,
        endpoint_url=fake.base_url,
        aws_access_key_id=ACCESS_KEY_ID,
        aws_secret_access_key=secret,
        config=Config(retries={"total_max_attempts": 1}, read_timeout=0.5),
    )


def invoke(fake: FakeBedrock, model: str, **body: object) -> tuple[dict[str, Any], dict[str, str]]:
    answer = client(fake).invoke_model(modelId=model, body=json.dumps(body))
    return json.loads(answer["body"].read()), answer["ResponseMetadata"]["HTTPHeaders"]


def refusal(fake: FakeBedrock, model: str, **body: object) -> dict[str, str]:
    with pytest.raises(ClientError) as caught:
        invoke(fake, model, **body)
    return caught.value.response["Error"]


@pytest.mark.parametrize(
    ("model", "fields", "dimensions"),
    [(TITAN_V1, {}, None), (TITAN_V2, {}, None), (TITAN_V2, {"dimensions": 256, "normalize": True}, 256)],
)
def test_titan_gives_the_vector_and_counts_tokens(
    bedrock: FakeBedrock, model: str, fields: dict[str, object], dimensions: int | None
) -> None:
    answer, _ = invoke(bedrock, model, inputText="hello world", **fields)

    np.testing.assert_array_equal(np.float32(answer["embedding"]), expected_vector(model, "hello world", dimensions))
    assert answer["inputTextTokenCount"] == 3


def test_titan_v1_takes_no_parameters(bedrock: FakeBedrock) -> None:
    error = refusal(bedrock, TITAN_V1, inputText="hello", normalize=True)

    assert error["Code"] == "ValidationException"
    assert "extraneous key [normalize]" in error["Message"]


def test_cohere_v3_gives_a_list_and_counts_in_a_header(bedrock: FakeBedrock) -> None:
    answer, headers = invoke(bedrock, COHERE_V3, texts=["one", "two"], input_type="search_query")

    expected = [expected_vector(COHERE_V3, text, task="search_query") for text in ("one", "two")]
    np.testing.assert_array_equal(np.float32(answer["embeddings"]), expected)
    assert headers["x-amzn-bedrock-input-token-count"] == "2"


def test_cohere_v4_gives_lists_by_type(bedrock: FakeBedrock) -> None:
    answer, _ = invoke(
        bedrock,
        COHERE_V4,
        texts=["one"],
        input_type="search_document",
        embedding_types=["float"],
        output_dimension=512,
    )

    expected = [expected_vector(COHERE_V4, "one", 512, task="search_document")]
    np.testing.assert_array_equal(np.float32(answer["embeddings"]["float"]), expected)


def test_cohere_demands_an_input_type_and_takes_96_texts_of_2048_characters(bedrock: FakeBedrock) -> None:
    untyped = refusal(bedrock, COHERE_V3, texts=["one"])
    many = refusal(bedrock, COHERE_V3, texts=["x"] * 97, input_type="clustering")
    long = refusal(bedrock, COHERE_V3, texts=["x" * 2049], input_type="clustering")

    assert "input_type" in untyped["Message"]
    assert "maximum item count: 96" in many["Message"]
    assert "expected maxLength: 2048" in long["Message"]


def test_a_wrong_secret_is_a_wrong_signature(bedrock: FakeBedrock) -> None:
    with pytest.raises(ClientError) as caught:
        client(bedrock, secret="wrong").invoke_model(modelId=TITAN_V1, body="{}")

    assert caught.value.response["Error"]["Code"] == "InvalidSignatureException"


def test_an_unknown_model_is_no_valid_identifier(bedrock: FakeBedrock) -> None:
    assert "model identifier is invalid" in refusal(bedrock, "no-such-model", inputText="x")["Message"]


def test_a_model_id_with_a_colon_and_an_arn_are_signed_as_they_are_sent(bedrock: FakeBedrock) -> None:
    arn = f"arn:aws:bedrock:{REGION}::foundation-model/{TITAN_V2}"

    answer, _ = invoke(bedrock, arn, inputText="hello")

    assert len(answer["embedding"]) == 1024
    assert bedrock.calls[0].path.count("%3A") == 6


def test_embedding_models_are_listed(bedrock: FakeBedrock) -> None:
    listed = client(bedrock, "bedrock").list_foundation_models(byOutputModality="EMBEDDING")

    assert TITAN_V2 in [each["modelId"] for each in listed["modelSummaries"]]


def test_faults_are_switched_on(bedrock: FakeBedrock) -> None:
    bedrock.switch(fault="status", status=429, headers={"x-amzn-errortype": "ThrottlingException"}, times=1)
    throttled = refusal(bedrock, TITAN_V1, inputText="x")
    bedrock.switch(fault="hang", times=None)

    with pytest.raises(ReadTimeoutError):
        invoke(bedrock, TITAN_V1, inputText="x")
    assert throttled["Code"] == "ThrottlingException"
