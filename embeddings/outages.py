"""Which models a provider has stopped serving, and which it serves again, by what the breakers saw. Pure.

A model is out when no route of it has been closed for `after_s`: it is shown as unavailable (cause `provider`), tenants
are told, and real traffic goes on trying it as its breakers allow. It is back when one route is closed again. One that
its vendor's lists lack stays out all the same, for as long as they do: it may answer until it is switched off.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from uuid import UUID

from catalog.deployments import Deployment
from catalog.lifecycle import Cause


@dataclass(frozen=True, slots=True)
class Judged:
    """`out` and `back` are to be moved; `since` is when each model that is not well was first seen so."""

    out: list[UUID]
    back: list[UUID]
    since: dict[UUID, float]


def judge(
    deployments: Iterable[Deployment],
    states: Mapping[tuple[str, str], Collection[str]],
    since: Mapping[UUID, float],
    *,
    now: float,
    after_s: float,
) -> Judged:
    """`states` are those of all routes, by provider's slug and vendor's identifier; a model without any was not called
    lately, and nothing is concluded. Times are in seconds."""
    found = Judged([], [], {})
    for deployment in deployments:
        routes = states.get((deployment.provider, deployment.identifier))
        if not routes:
            continue
        is_out = deployment.state == "unavailable" and deployment.unavailable_cause == Cause.PROVIDER
        if "closed" in routes:
            if is_out and not deployment.is_delisted:
                found.back.append(deployment.model_id)
            continue
        began = found.since[deployment.model_id] = since.get(deployment.model_id, now)
        if deployment.state == "available" and now - began >= after_s:
            found.out.append(deployment.model_id)
    return found
