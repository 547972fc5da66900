"""Vertex AI's wire: Google's embedding models in a project and a region, for a service account.

Owns the address of a model and the life of the credential on a call. Requests and answers are `vertex_models.py`,
access tokens `vertex_tokens.py`.

The same model answers here as at the Gemini API: the words for input types are `google.task_type`.

Source of the wire: cloud.google.com/vertex-ai/generative-ai/docs/model-reference/text-embeddings-api.

Failure: every one is a `ProviderFailure`; nothing is retried here. An access token that Vertex refuses is forgotten,
so that the next call comes with a new one.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import quote

from providers.base import EmbedAnswer, EmbedCall, Endpoint, EndpointRefused, ListedModel
from providers.exchange import Read, exchange
from providers.failures import FailureKind, ProviderFailure
from providers.google import listed_by_sdk
from providers.http_client import HttpClient
from providers.vertex_models import method_of, read_embedded, read_predicted, read_predicted_cut, request_body
from providers.vertex_tokens import SCOPE, AccessTokens

if TYPE_CHECKING:
    from google.genai import types

API_VERSION = "v1"
LIST_API_VERSION = "v1beta1"  # Model Garden's list is not in v1
_REGION = re.compile(r"[a-z0-9-]{1,63}")  # it becomes a part of the host's name


class VertexProvider:
    """Adapter for the kind `vertex`. Raises `EndpointRefused` for an unusable endpoint."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._account = endpoint.secret.get("service_account", "")
        self._prepared: dict[str, tuple[str, bytes]] = {}  # by model: with which token, the request
        if not self._account:
            raise EndpointRefused(f"{endpoint.slug}: no service_account")
        if not _REGION.fullmatch(endpoint.region):
            raise EndpointRefused(f"{endpoint.slug}: Vertex needs a region, such as us-central1 or global")
        try:
            self._tokens = AccessTokens(self._account)
            self._client = HttpClient(
                endpoint.base_url or address_of(endpoint.region),
                headers={"content-type": "application/json", "user-agent": "quiver"},
                max_connections=endpoint.max_concurrency,
                max_answer_bytes=endpoint.max_answer_bytes,
            )
        except ValueError as error:
            raise EndpointRefused(f"{endpoint.slug}: {error}") from None
        self._project = endpoint.project or self._tokens.project
        if not self._project:
            raise EndpointRefused(f"{endpoint.slug}: neither the provider nor the service account names a project")

    async def embed(self, call: EmbedCall, *, timeout_s: float) -> EmbedAnswer:
        """One call to the vendor, and before it one to the token endpoint where no access token holds."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        body = request_body(call)
        token = await self._tokens.get(timeout_s=timeout_s)
        try:
            return await exchange(
                self._client,
                self._request(call.identifier, token),
                body,
                count=len(call.inputs),
                width=call.width,
                timeout_s=deadline - loop.time(),
                read=_reader(call),
                id_header=b"x-request-id",
            )
        except ProviderFailure as failure:
            if failure.kind is FailureKind.CREDENTIAL:
                self._tokens.forget(token)
            raise

    def _request(self, identifier: str, token: str) -> bytes:
        known = self._prepared.get(identifier)
        if known is None or known[0] != token:
            version, project = quote(self.endpoint.api_version or API_VERSION, safe=""), quote(self._project, safe="")
            path = (
                f"/{version}/projects/{project}/locations/{self.endpoint.region}"
                f"/publishers/google/models/{quote(identifier, safe='')}:{method_of(identifier)}"
            )
            prepared = self._client.prepare("POST", path, {"authorization": f"Bearer {token}"})
            known = self._prepared[identifier] = (token, prepared)
        return known[1]

    async def list_models(self) -> list[ListedModel]:
        """Google's embedding models, by the official SDK: imports it, so not for web workers."""
        return await asyncio.to_thread(self._list)

    def _list(self) -> list[ListedModel]:
        import json

        from google import genai
        from google.genai import types
        from google.oauth2.service_account import Credentials

        credentials = Credentials.from_service_account_info(json.loads(self._account), scopes=[SCOPE])  # type: ignore[no-untyped-call]
        options = types.HttpOptions(
            base_url=self.endpoint.base_url or None,
            api_version=LIST_API_VERSION,
            timeout=round(self.endpoint.timeout_s * 1000),
            retry_options=types.HttpRetryOptions(attempts=1),
            client_args={"follow_redirects": False},  # the credential goes nowhere else
        )
        client = genai.Client(
            vertexai=True,
            project=self._project,
            location=self.endpoint.region,
            credentials=credentials,
            http_options=options,
        )
        return listed_by_sdk(client, _embeds)

    async def close(self) -> None:
        self._client.close()
        self._tokens.close()

    def statistics(self) -> Mapping[str, int]:
        return self._client.statistics()


def address_of(region: str) -> str:
    """The region's own host; `global` and the multi-regions have names of another form."""
    if region == "global":
        return "https://aiplatform.googleapis.com"
    if region in ("us", "eu"):
        return f"https://aiplatform.{region}.rep.googleapis.com"
    return f"https://{region}-aiplatform.googleapis.com"


def _reader(call: EmbedCall) -> Read:
    if method_of(call.identifier) == "embedContent":
        return read_embedded
    return read_predicted if call.dimensions is None else read_predicted_cut


def _embeds(model: types.Model) -> bool:
    """The list says nothing about what a model does, but Google names all of these alike."""
    return "embedding" in (model.name or "")
