"""Our Signature Version 4 beside AWS's own, over what changes a signature."""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import quote

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from providers.bedrock_signing import Signer

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
ARN = "arn:aws:bedrock:eu-west-1:123456789012:inference-profile/eu.cohere.embed-v4:0"


def botocores(address: str, path: str, body: bytes, signed: dict[str, str], region: str, token: str | None) -> str:
    """The signature that AWS's code gives for the same request at the same moment."""
    headers = {"content-type": "application/json", "x-amz-date": signed["x-amz-date"]}
    headers |= {"x-amz-security-token": token} if token else {}
    request = AWSRequest("POST", address + path, headers=headers, data=body)
    request.context["timestamp"] = signed["x-amz-date"]
    signer = SigV4Auth(Credentials("AKID", "the/secret+key", token), "bedrock", region)
    return signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request)


@pytest.mark.parametrize("token", [None, "a/session+token=="])
@pytest.mark.parametrize("model", ["amazon.titan-embed-text-v1", "amazon.titan-embed-text-v2:0", ARN, "a~b_c.d é"])
@pytest.mark.parametrize(
    ("address", "region"),
    [
        ("https://bedrock-runtime.us-east-1.amazonaws.com", "us-east-1"),
        ("http://127.0.0.1:8000", "eu-central-1"),
        ("https://vpce-1.bedrock-runtime.eu-west-1.vpce.amazonaws.com", "eu-west-1"),
    ],
)
@pytest.mark.parametrize("body", [b"", '{"inputText":"日本語"}'.encode()])
def test_both_sign_alike(address: str, region: str, model: str, body: bytes, token: str | None) -> None:
    path = f"/model/{quote(model, safe='')}/invoke"
    signer = Signer(
        access_key_id="AKID",
        secret_access_key="the/secret+key",
        session_token=token or "",
        region=region,
        service="bedrock",
        host=address.partition("//")[2],
    )

    signed = signer.headers(path, body, content_type="application/json", now=NOON)

    expected = botocores(address, path, body, signed, region, token)
    assert signed["authorization"].endswith(f"Signature={expected}")
    assert signed["x-amz-date"] == "20260301T120000Z"
    assert signed.get("x-amz-security-token") == token


def test_the_next_day_is_signed_with_its_own_key() -> None:
    signer = Signer(access_key_id="AKID", secret_access_key="the/secret+key", region="r", service="bedrock", host="h")
    signer.headers("/", b"", content_type="application/json", now=NOON)

    signed = signer.headers("/", b"", content_type="application/json", now=NOON.replace(day=2))

    expected = botocores("https://h", "/", b"", signed, "r", None)
    assert signed["authorization"].endswith(f"Signature={expected}")
    assert "/20260302/r/bedrock/aws4_request" in signed["authorization"]
