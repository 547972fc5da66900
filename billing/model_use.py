"""Which tenants use a model, and how much: read from the ledger, for models that end."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from django.db.models import Count, QuerySet, Sum

from billing.models import UsageRow
from core.ids import uuid7_floor

MOST_NAMED = 20  # agents and keys in one alert


@dataclass(frozen=True, slots=True)
class Use:
    """One tenant's own figures."""

    tokens: int = 0
    requests: int = 0
    cost_usd: Decimal = Decimal(0)
    agents: tuple[str, ...] = ()
    keys: tuple[UUID, ...] = ()


def used_since(model_ids: Collection[UUID], since: datetime) -> set[UUID]:
    """Those of the models that answered somebody since then."""
    found = _answered(since).filter(model_id__in=model_ids)
    return {each for each in found.values_list("model_id", flat=True).distinct() if each is not None}


def use_by_tenant(model_id: UUID, since: datetime) -> dict[UUID, Use]:
    """What each tenant used of a model since then; the agents and keys that used most come first."""
    rows = _answered(since).filter(model_id=model_id)
    found = {
        each["tenant_id"]: each
        for each in rows.order_by().values("tenant_id").annotate(t=Sum("tokens"), r=Count("id"), c=Sum("cost_usd"))
    }
    named: dict[str, dict[UUID, list[object]]] = {"agent_id": {}, "key_id": {}}
    for field, by_tenant in named.items():
        used = rows.order_by().values("tenant_id", field).annotate(t=Sum("tokens")).order_by("-t")
        for each in used:
            if each[field]:
                by_tenant.setdefault(each["tenant_id"], []).append(each[field])
    return {
        tenant_id: Use(
            tokens=int(each["t"]),
            requests=int(each["r"]),
            cost_usd=each["c"],
            agents=tuple(map(str, named["agent_id"].get(tenant_id, [])[:MOST_NAMED])),
            keys=tuple(UUID(str(key)) for key in named["key_id"].get(tenant_id, [])[:MOST_NAMED]),
        )
        for tenant_id, each in found.items()
    }


def _answered(since: datetime) -> QuerySet[UsageRow]:
    """Of all tenants; the time in the ids lets their index find them."""
    return UsageRow.objects.filter(created_at__gte=since, id__gte=uuid7_floor(since), status="ok")
