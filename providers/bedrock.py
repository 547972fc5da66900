"""Bedrock's wire: `POST /model/{id}/invoke`, signed, for Amazon's Titan and Cohere's embedding models.

Owns the address, the credential on a call (SigV4 with access keys, or a Bedrock API key as bearer) and what may be
asked of which family. Bodies are `bedrock_models.py`, the signature `bedrock_signing.py`, the meaning of AWS's error
types `failures.py`.

Source of the wire: docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_InvokeModel.html.

Failure: every one is a `ProviderFailure`; nothing is retried here.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec

from core.clock import utc_now
from providers.base import EmbedAnswer, EmbedCall, Endpoint, EndpointRefused, ListedModel
from providers.bedrock_models import family_of
from providers.bedrock_signing import Signer
from providers.exchange import bad_answer, encode, exchange, texts_of
from providers.failures import FailureKind, ProviderFailure, classify_status
from providers.http_client import HttpClient

CONTENT_TYPE = "application/json"
ERROR_HEADER = b"x-amzn-errortype"
_REGION = re.compile(r"[a-z0-9-]{1,63}")  # it becomes a part of the host's name


class BedrockProvider:
    """Adapter for the kind `bedrock`. Raises `EndpointRefused` for an unusable endpoint."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._prepared: dict[str, bytes] = {}  # by path, for an API key, which needs no signature
        if not _REGION.fullmatch(endpoint.region):
            raise EndpointRefused(f"{endpoint.slug}: Bedrock needs a region, such as us-east-1")
        address = endpoint.base_url or f"https://bedrock-runtime.{endpoint.region}.amazonaws.com"
        self._signer, headers = _credential(endpoint, urlsplit(address).netloc)
        self._path = urlsplit(address).path.rstrip("/")
        try:
            self._client = HttpClient(
                address,
                headers={"content-type": CONTENT_TYPE, "user-agent": "quiver", **headers},
                max_connections=endpoint.max_concurrency,
                max_answer_bytes=endpoint.max_answer_bytes,
            )
            self._request("/", b"")  # a secret that no header may hold shows now, not at the first call
        except ValueError as error:
            raise EndpointRefused(f"{endpoint.slug}: {error}") from None

    async def embed(self, call: EmbedCall, *, timeout_s: float) -> EmbedAnswer:
        """One call to the vendor. Titan takes one text, Cohere 96."""
        texts = texts_of(call)
        family = family_of(call.identifier)
        if family is None:
            raise ProviderFailure(FailureKind.MODEL_MISSING, "no family of embedding models on Bedrock has this id")
        if len(texts) > family.max_items:
            detail = f"the model takes {family.max_items} texts per call, {len(texts)} were to be sent"
            raise ProviderFailure(FailureKind.MODEL_MISSING, detail)
        if call.dimensions is not None and not family.takes_dimensions:
            raise ProviderFailure(FailureKind.TEXT_REFUSED, f"the model has no vectors of {call.dimensions} dimensions")
        body = encode(family.body(texts, call))
        path = f"/model/{quote(call.identifier, safe='')}/invoke"
        return await exchange(
            self._client,
            self._request(path, body),
            body,
            count=len(texts),
            width=call.width,
            timeout_s=timeout_s,
            read=family.read,
            id_header=b"x-amzn-requestid",
            word_header=ERROR_HEADER,
        )

    def _request(self, path: str, body: bytes) -> bytes:
        if self._signer is not None:
            signed = self._signer.headers(self._path + path, body, content_type=CONTENT_TYPE, now=utc_now())
            return self._client.prepare("POST", path, signed)
        prepared = self._prepared.get(path)
        if prepared is None:
            prepared = self._prepared[path] = self._client.prepare("POST", path)
        return prepared

    async def list_models(self) -> list[ListedModel]:
        """The region's models that embed texts, by the official SDK: imports it, so not for web workers."""
        return await asyncio.to_thread(self._list)

    def _list(self) -> list[ListedModel]:
        from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]

        try:
            client = _sdk_client(self.endpoint)
            found: list[dict[str, Any]] = client.list_foundation_models(byOutputModality="EMBEDDING")["modelSummaries"]
        except ClientError as error:
            told = error.response
            status, body = told["ResponseMetadata"]["HTTPStatusCode"], msgspec.json.encode(told["Error"])
            raise classify_status(status, body, word=told["Error"]["Code"], now=utc_now()) from None
        except BotoCoreError as error:
            raise ProviderFailure(FailureKind.UNREACHABLE, type(error).__name__) from None
        except (KeyError, ValueError) as error:
            raise bad_answer(f"no list of models: {type(error).__name__}") from None
        return [
            ListedModel(
                each["modelId"],
                each.get("modelName", ""),
                is_deprecated=each.get("modelLifecycle", {}).get("status") == "LEGACY",
            )
            for each in found
            if "TEXT" in each.get("inputModalities", ())
        ]

    async def close(self) -> None:
        self._client.close()

    def statistics(self) -> Mapping[str, int]:
        return self._client.statistics()


def _sdk_client(endpoint: Endpoint) -> Any:
    """The official client of what there is in a region, with the endpoint's own credential and no other."""
    import boto3  # type: ignore[import-untyped]
    from botocore import UNSIGNED  # type: ignore[import-untyped]
    from botocore.config import Config  # type: ignore[import-untyped]

    secret, seconds = endpoint.secret, endpoint.timeout_s
    api_key = secret.get("api_key")
    config = Config(
        connect_timeout=seconds,
        read_timeout=seconds,
        retries={"total_max_attempts": 1},
        # The SDK's own way with an API key is its environment's, one for all providers, and never over plain HTTP.
        signature_version=UNSIGNED if api_key else "v4",
    )
    client = boto3.client(
        "bedrock",
        region_name=endpoint.region,
        endpoint_url=endpoint.base_url or None,
        aws_access_key_id=secret.get("aws_access_key_id"),
        aws_secret_access_key=secret.get("aws_secret_access_key"),
        aws_session_token=secret.get("aws_session_token") or None,
        config=config,
    )
    if api_key:

        def carry(request: Any, **_: Any) -> None:
            request.headers["Authorization"] = f"Bearer {api_key}"

        client.meta.events.register("request-created.bedrock", carry)
    return client


def _credential(endpoint: Endpoint, host: str) -> tuple[Signer | None, dict[str, str]]:
    """A signer, or the header that does without one."""
    secret = endpoint.secret
    if secret.get("api_key"):
        return None, {"authorization": f"Bearer {secret['api_key']}"}
    if not secret.get("aws_access_key_id") or not secret.get("aws_secret_access_key"):
        raise EndpointRefused(f"{endpoint.slug}: neither aws_access_key_id and aws_secret_access_key nor api_key")
    signer = Signer(
        access_key_id=secret["aws_access_key_id"],
        secret_access_key=secret["aws_secret_access_key"],
        session_token=secret.get("aws_session_token", ""),
        region=endpoint.region,
        service="bedrock",
        host=host,
    )
    return signer, {}
