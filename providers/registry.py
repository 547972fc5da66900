"""Which adapter serves which kind, and the adapters alive in this process.

Imports an adapter only when an endpoint of its kind is built: a process pays for the vendors it uses.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from providers.base import Endpoint, Kind, Provider


def build(endpoint: Endpoint) -> Provider:
    """An adapter for the endpoint; opens no connection yet. Raises `EndpointRefused`, whose message says why."""
    match endpoint.kind:
        case Kind.OPENAI | Kind.OPENAI_COMPATIBLE:
            from providers.openai import OpenAIProvider

            return OpenAIProvider(endpoint)
        case Kind.AZURE:
            from providers.azure import AzureProvider

            return AzureProvider(endpoint)
        case Kind.BEDROCK:
            from providers.bedrock import BedrockProvider

            return BedrockProvider(endpoint)
        case Kind.GOOGLE:
            from providers.google import GoogleProvider

            return GoogleProvider(endpoint)
        case Kind.VERTEX:
            from providers.vertex import VertexProvider

            return VertexProvider(endpoint)
        case Kind.LOCAL:
            from providers.local import LocalProvider

            return LocalProvider(endpoint)


def max_items(kind: Kind, identifier: str) -> int | None:
    """Texts per call that the vendor takes for this model; None: as many for one model as for another, so that the
    provider's own cap says it."""
    match kind:
        case Kind.BEDROCK:
            from providers import bedrock_models

            return bedrock_models.max_items(identifier)
        case Kind.VERTEX:
            from providers import vertex_models

            return vertex_models.max_items(identifier)
        case _:
            return None


class ProviderPool:
    """One adapter for each different endpoint, kept while it is configured. Use inside one event loop."""

    def __init__(self) -> None:
        self._providers: dict[str, Provider] = {}

    def get(self, endpoint: Endpoint) -> Provider:
        """The endpoint's adapter, built on first use. Raises `EndpointRefused`."""
        provider = self._providers.get(endpoint.identity)
        if provider is None:
            provider = self._providers[endpoint.identity] = build(endpoint)
        return provider

    async def retire(self, *, in_use: Iterable[Endpoint]) -> int:
        """Closes the adapters of all endpoints not in use any more and says how many. Calls under way finish; who
        still holds a retired adapter may go on calling it, on connections that are not kept."""
        kept = {endpoint.identity for endpoint in in_use}
        unused = [self._providers.pop(identity) for identity in self._providers.keys() - kept]
        for provider in unused:
            await provider.close()
        return len(unused)

    async def close(self) -> None:
        """Retires all."""
        await self.retire(in_use=())

    def statistics(self) -> dict[str, Mapping[str, int]]:
        """Each adapter's figures by `slug` or, where it has one, `slug/credential`."""
        return {
            "/".join(filter(None, (provider.endpoint.slug, provider.endpoint.credential_id))): provider.statistics()
            for provider in self._providers.values()
        }
