"""With whose credentials a model is called, and in which order: the tenant's own, the platform's, or both. Pure.

Each way is an entry of its own in a plan, so that each is held, charged and explained by itself; that a tenant's own
credential failed never charges it the platform's price unless it said so (`TenantCredential.use`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from core import errors
from embeddings.finding import Eligible
from embeddings.snapshot import Choice, TenantSnapshot
from providers.base import Endpoint
from tenants.own_routes import OwnRoutes

OWN_WAY = "with the tenant's own credential"
PLATFORMS_WAY = "with the platform's credential, should the tenant's own fail"
BEHIND_WAY = "with the tenant's own credential, should the platform's fail"


def can_be_called(choice: Choice, snapshot: TenantSnapshot) -> bool:
    """Whether there is any credential at all."""
    own = snapshot.own.get(choice.deployment.provider)
    if own is None:
        return bool(choice.deployment.endpoints)
    return own.is_only or bool(own.first or own.last or choice.deployment.endpoints)


def by_ways(entries: Iterable[Eligible], snapshot: TenantSnapshot) -> Iterator[Eligible]:
    """Each entry once for each way in which it can be called, in the tenant's order."""
    for entry in entries:
        own = snapshot.own.get(entry.choice.deployment.provider)
        if own is None or entry.fault is not None:
            yield entry
        else:
            yield from _ways(entry, own)


def _ways(entry: Eligible, own: OwnRoutes) -> Iterator[Eligible]:
    deployment = entry.choice.deployment
    if own.first:
        yield _owned(entry, own.first, OWN_WAY)
    elif own.is_only:
        yield replace(entry, fault=_does_not_open(entry.choice))
    if deployment.endpoints:
        if own.is_only:
            yield replace(entry, fault=_left_out(entry.choice))
        else:
            yield replace(entry, way=PLATFORMS_WAY if own.first else "")
    if own.last:
        yield _owned(entry, own.last, BEHIND_WAY if deployment.endpoints and not own.is_only else OWN_WAY)


def _owned(entry: Eligible, endpoints: tuple[Endpoint, ...], way: str) -> Eligible:
    return replace(entry, choice=replace(entry.choice, own=endpoints), way=way)


def _does_not_open(choice: Choice) -> errors.QuiverError:
    return errors.NoModelAvailable(
        f"The tenant's own credential for the provider {choice.deployment.provider} cannot be opened; give it anew."
    )


def _left_out(choice: Choice) -> errors.QuiverError:
    deployment = choice.deployment
    return errors.NoModelAvailable(
        f"{deployment.name} at {deployment.provider} is not called with the platform's credential: the tenant has one "
        "of its own there, and said that nothing else may serve."
    )
