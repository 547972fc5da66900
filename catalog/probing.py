"""Whether a model embeds: one probe text through its provider, checked like any answer.

Owns the probe and its report; what follows from it is `catalog.services.activate_model`. Calls a provider, so it never
runs inside a transaction; the call may be billed (a few tokens).
Failure: whatever a provider does wrong is a probe that failed, never an exception.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from catalog.deployments import Deployment
from providers import registry
from providers.answers import check_vectors
from providers.base import EmbedCall, Endpoint, EndpointRefused
from providers.failures import ProviderFailure

TEXT = "The river meets the sea where the old lighthouse stands."
TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class FailedProbe:
    """What was expected, and what came instead."""

    probe: str
    expected: str
    got: str


def probe(deployment: Deployment) -> list[FailedProbe]:
    """The probes that failed; empty: the model embeds."""
    expected = f"one finite vector of {deployment.dimensions} floats, not zero"
    if not deployment.endpoints:
        return [FailedProbe("one text", expected, f"no credential was added for {deployment.provider} yet")]
    try:
        asyncio.run(_embed(deployment, deployment.endpoints[0]))
    except EndpointRefused as error:
        return [FailedProbe("one text", expected, str(error))]
    except ProviderFailure as failure:
        return [FailedProbe("one text", expected, f"{failure.kind.value}: {failure.detail}")]
    return []


async def _embed(deployment: Deployment, endpoint: Endpoint) -> None:
    provider = registry.build(endpoint)
    call = EmbedCall(deployment.identifier, [TEXT], width=deployment.dimensions)
    try:
        answer = await provider.embed(call, timeout_s=min(endpoint.timeout_s, TIMEOUT_S))
        check_vectors(answer.vectors, count=1, width=deployment.dimensions, cut=False)
    finally:
        await provider.close()
