"""Background work of the data plane's own figures, and the erasing of tenants.

Failure: Redis away → the breakers cannot be asked, nothing is moved, the next run tries again. What Redis loses of when
a model was first seen out begins anew.
"""

from __future__ import annotations

from collections import defaultdict
from uuid import UUID

from celery import shared_task
from django.conf import settings
from django.core.cache import cache
from django.db import DatabaseError
from redis.exceptions import RedisError

from catalog.lifecycle import Cause, Proof
from catalog.loading import load_catalog
from catalog.moves import move_model
from core.clock import utc_now
from core.errors import IllegalTransition
from embeddings import erasing
from embeddings.breaker_control import BreakersAway, route_health
from embeddings.outages import judge
from embeddings.routes import is_own

_SINCE = "outages-since"


@shared_task(expires=60)  # type: ignore[untyped-decorator]  # Celery has no types
def follow_breakers() -> dict[str, int]:
    """Shows models whose provider has stopped serving as unavailable, and back; beat runs it every minute."""
    try:
        health = route_health()
    except BreakersAway:
        return {"out": 0, "back": 0}
    states: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for route in health:
        if is_own(route.credential_id):  # says something of one tenant's account, not of the provider
            continue
        states[route.provider, route.model].append(route.state)
    now = utc_now().timestamp()
    since: dict[UUID, float] = cache.get(_SINCE) or {}
    after_s = settings.QUIVER.outage_seconds
    found = judge(load_catalog().deployments.values(), states, since, now=now, after_s=after_s)
    cache.set(_SINCE, found.since, timeout=None)
    for model_id in found.out:
        _move(model_id, "unavailable", f"no call to it succeeded for {after_s:.0f} s", cause=Cause.PROVIDER)
    for model_id in found.back:
        _move(model_id, "available", "calls of real traffic pass again", proof=Proof.TRIALS)
    return {"out": len(found.out), "back": len(found.back)}


# A database or a Redis that is away: 1, 2, 4 … minutes, some hours in all. What was begun is done again.
@shared_task(autoretry_for=(DatabaseError, RedisError), retry_backoff=60, retry_backoff_max=3600, max_retries=10)  # type: ignore[untyped-decorator]
def erase_tenant(tenant_id: str) -> None:
    """Erases a tenant that an operator has given up."""
    erasing.erase(UUID(tenant_id))


def _move(model_id: UUID, to: str, reason: str, *, cause: Cause = Cause.OPERATOR, proof: Proof = Proof.HAND) -> None:
    try:
        move_model(model_id=model_id, to=to, reason=reason, cause=cause, proof=proof)
    except IllegalTransition:  # somebody else moved it meanwhile, and knows why
        return
