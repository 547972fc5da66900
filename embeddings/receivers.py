"""What the house tells, as news for agents: each for the tenants it concerns and for nobody else.

Models and their sunsets → who has the model configured. Limits, budgets and other alerts → whose alert it is. Breakers
→ who has a model behind the route configured.

Failure: what cannot be told is logged; the signal's other receivers are told all the same (`news.publish`).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from django.dispatch import receiver

from alerts import kinds
from alerts.signals import alert_raised, alert_resolved
from catalog.loading import load_catalog
from catalog.services import find_model
from catalog.signals import model_moved, sunset_moved
from embeddings import news
from embeddings.breaker_copies import Change
from embeddings.messages import Topic
from embeddings.routes import parts, route_key
from tenants.selectors import tenants_with_model

_STATES = ("available", "deprecated", "unavailable", "removed")
_RAISED: Mapping[str, tuple[Topic, str]] = {
    kinds.QUOTA_WARNING: ("quotas", "quota.warning"),
    kinds.QUOTA_EXCEEDED: ("quotas", "quota.exceeded"),
    kinds.BUDGET_WARNING: ("budgets", "budget.warning"),
    kinds.BUDGET_EXCEEDED: ("budgets", "budget.exceeded"),
}
_RESET = (kinds.QUOTA_WARNING, kinds.QUOTA_EXCEEDED)


@receiver(model_moved)
def tell_of_model(sender: object, *, model_id: UUID, was: str, now: str, reason: str, **_: Any) -> None:
    if now not in _STATES:
        return
    _tell_of_model(model_id, was, now, reason)


@receiver(sunset_moved)
def tell_of_sunset(sender: object, *, model_id: UUID, reason: str, **_: Any) -> None:
    """Another end or another successor: deprecated as before, and told anew."""
    _tell_of_model(model_id, "deprecated", "deprecated", reason)


def _tell_of_model(model_id: UUID, was: str, now: str, reason: str) -> None:
    row = find_model(model_id)
    about = {
        "model": row.name,
        "provider": row.provider.slug,
        "was": was,
        "now": now,
        "reason": reason,
        "sunset": None if row.sunset_at is None else row.sunset_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "successor": None if row.successor is None else row.successor.name,
    }
    news.publish(tenants_with_model(model_id), "models", f"model.{now}", about)


@receiver(alert_raised)
def tell_of_alert(
    sender: object,
    *,
    tenant_id: UUID | None,
    alert_id: UUID,
    kind: str,
    severity: str,
    title: str,
    detail: Mapping[str, Any],
    threshold: int | None,
    period_start: datetime | None,
    **_: Any,
) -> None:
    if tenant_id is None:  # the operators', who have no agents
        return
    about = {"alert_id": str(alert_id), "title": title, "threshold": threshold, "detail": dict(detail)}
    if kind in _RAISED:
        news.publish([tenant_id], *_RAISED[kind], about)
    news.publish([tenant_id], "alerts", "alert.raised", {**about, "kind": kind, "severity": severity})


@receiver(alert_resolved)
def tell_of_reset(
    sender: object, *, tenant_id: UUID | None, alert_id: UUID, kind: str, detail: Mapping[str, Any], **_: Any
) -> None:
    if tenant_id is None:
        return
    if kind in _RESET:
        news.publish([tenant_id], "quotas", "quota.reset", {"alert_id": str(alert_id), "detail": dict(detail)})
    news.publish([tenant_id], "alerts", "alert.resolved", {"alert_id": str(alert_id), "kind": kind})


def tell_of_breaker(change: Change) -> None:
    """Of a route that is called no more, or again; to be called where that was decided, in a thread."""
    route = parts(change.route)
    concerned: set[UUID] = set()
    for deployment in load_catalog().deployments.values():
        if any(route_key(each, deployment.identifier) == change.route for each in deployment.endpoints):
            concerned |= tenants_with_model(deployment.model_id)
    name = "breaker.closed" if change.new.name == "CLOSED" else "breaker.opened"
    about = {
        "provider": route.provider,
        "model": route.model,
        "region": route.region,
        "state": change.new.name.lower(),
        "reason": change.reason,
    }
    news.publish(concerned, "breakers", name, about)
