"""Tells tenants of models that end, with their own figures, and then lets them end.

Decides who is concerned: who has the model configured, or used it in the last 30 days. Which notice is due is
`billing.notices`, what becomes of a model at its sunset `catalog.sunsets`.
Failure: what could not be told is told by the next look, an hour later: an alert is raised once.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

from alerts import kinds
from alerts.services import raise_alert
from billing.model_use import Use, use_by_tenant, used_since
from billing.notices import due_notice, severity
from catalog.lifecycle import USED_WITHIN
from catalog.models import EmbeddingModel
from catalog.selectors import deprecated_models, price_now
from catalog.sunsets import look_at_sunsets
from core.clock import utc_now
from tenants.selectors import names_of_keys, tenants_with_model

LOOKED_BACK = timedelta(days=30)


def look(*, now: datetime) -> int:
    """Tells first, then ends what has come to its end. Says how many alerts were raised."""
    told = sum(tell(row, now=now) for row in deprecated_models())
    look_at_sunsets(now=now, used_lately=lambda ids: used_since(ids, now - USED_WITHIN))
    return told


def tell(row: EmbeddingModel, *, now: datetime) -> int:
    """Raises the alert that is due for each tenant concerned."""
    days = None if row.sunset_at is None else due_notice(sunset_at=row.sunset_at, now=now)
    if days is None and row.sunset_at is not None:
        return 0
    uses = use_by_tenant(row.id, now - LOOKED_BACK)
    successor = row.successor
    title = f"{row.name} ends" + (f" on {row.sunset_at:%Y-%m-%d}" if row.sunset_at else "; its end has no date yet")
    price = None if successor is None else price_now(successor, utc_now())
    raised = 0
    for tenant_id in sorted({*tenants_with_model(row.id), *uses}):
        use = uses.get(tenant_id, Use())
        alert = raise_alert(
            tenant_id=tenant_id,
            kind=kinds.MODEL_DEPRECATED,
            subject=str(row.id),
            period_start=row.sunset_at,
            threshold=days,
            title=title,
            detail=_figures(tenant_id, use)
            | {"model": row.name, "provider": row.provider.slug, "successor": successor.name if successor else ""}
            | _of_successor(use, price),
            severity=None if days is None else severity(days),
        )
        raised += alert is not None
    return raised


def _figures(tenant_id: UUID, use: Use) -> dict[str, object]:
    return {
        "tokens_in_30_days": use.tokens,
        "requests_in_30_days": use.requests,
        "cost_usd_in_30_days": f"{use.cost_usd.normalize():f}",
        "agents": ", ".join(use.agents),
        "keys": ", ".join(names_of_keys(tenant_id, use.keys)),
    }


def _of_successor(use: Use, usd_per_million: Decimal | None) -> dict[str, object]:
    """What the same tokens would have cost at the successor's list price."""
    if usd_per_million is None:
        return {}
    cost = (usd_per_million * use.tokens / 1_000_000).quantize(Decimal("1e-9"))
    return {"successor_cost_usd_for_the_same_tokens": f"{cost.normalize():f}"}
