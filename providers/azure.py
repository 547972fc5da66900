"""Azure OpenAI's wire: OpenAI's, under another address, key header and name for a model.

Owns what differs: the deployment stands in the path (`EmbedCall.identifier` is its name, which need not be the
model's), `api-version` in the query, the key in `api-key`. The request's form and the reading of answers are
`openai.py`. A resource that is used through Azure's `/openai/v1` address speaks plain OpenAI: kind `openai_compatible`.

Source of the wire: learn.microsoft.com/azure/ai-services/openai/reference.

Failure: every one is a `ProviderFailure`; nothing is retried here.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

from providers.base import EmbedAnswer, EmbedCall, Endpoint, EndpointRefused, ListedModel
from providers.http_client import HttpClient
from providers.openai import ask, list_by_sdk

API_VERSION = "2024-10-21"  # the latest that is not a preview; the endpoint may name another


class AzureProvider:
    """Adapter for the kind `azure`. Raises `EndpointRefused` for an unusable endpoint."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._key = endpoint.secret.get("api_key", "")
        self._api_version = endpoint.api_version or API_VERSION
        self._prepared: dict[str, bytes] = {}  # by deployment: as many as the catalogue has
        if not endpoint.base_url:
            raise EndpointRefused(f"{endpoint.slug}: Azure needs the resource's address as base_url")
        if not self._key:
            raise EndpointRefused(f"{endpoint.slug}: no api_key")
        try:
            self._client = HttpClient(
                endpoint.base_url,
                headers={"content-type": "application/json", "user-agent": "quiver", "api-key": self._key},
                max_connections=endpoint.max_concurrency,
                max_answer_bytes=endpoint.max_answer_bytes,
            )
        except ValueError as error:
            raise EndpointRefused(f"{endpoint.slug}: {error}") from None

    async def embed(self, call: EmbedCall, *, timeout_s: float) -> EmbedAnswer:
        """One call to the deployment `call.identifier`."""
        prepared = self._prepared.get(call.identifier)
        if prepared is None:
            deployment, version = quote(call.identifier, safe=""), quote(self._api_version, safe="")
            path = f"/openai/deployments/{deployment}/embeddings?api-version={version}"
            prepared = self._prepared[call.identifier] = self._client.prepare("POST", path)
        return await ask(self._client, prepared, call, timeout_s=timeout_s)

    async def list_models(self) -> list[ListedModel]:
        """The models that the resource may deploy, by the official SDK; a key cannot list what it has deployed."""
        import openai

        client = openai.AsyncAzureOpenAI(
            api_key=self._key,
            azure_endpoint=self.endpoint.base_url,
            api_version=self._api_version,
            max_retries=0,
            timeout=self.endpoint.timeout_s,
            http_client=openai.DefaultAsyncHttpxClient(follow_redirects=False),  # the key goes nowhere else
        )
        return await list_by_sdk(client, {})

    async def close(self) -> None:
        self._client.close()

    def statistics(self) -> Mapping[str, int]:
        return self._client.statistics()
