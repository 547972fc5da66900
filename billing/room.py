"""How much is left of what a request would count against, read from the ledger. For looking ahead in the control plane:
it sums usage rows, so it is never on a request's way, and it holds nothing.

Decides which limits apply: the hard ones per day and month of the tenant, the model, the agent and the key. Rates per
minute are over before anybody has read the answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from django.db.models import Count, Q, Sum

from billing.models import Limit
from billing.selectors import usage_rows

_MEASURES = {"tokens": Sum("tokens"), "requests": Count("id"), "usd": Sum("cost_usd")}


@dataclass(frozen=True, slots=True)
class Use:
    """Whose use is asked about."""

    tenant_id: UUID
    tenant_model_id: UUID
    model_id: UUID  # of the catalogue, which usage rows name
    agent_id: str = ""
    key_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Room:
    """What is left of each measure, the least of all limits; None: no limit. Never below zero."""

    tokens: Decimal | None
    requests: Decimal | None
    usd: Decimal | None

    def takes(self, *, tokens: int, usd: Decimal) -> bool:
        """Whether one request of this size fits."""
        wanted = ((self.tokens, Decimal(tokens)), (self.requests, Decimal(1)), (self.usd, usd))
        return all(left is None or left >= amount for left, amount in wanted)


def room_for(use: Use, *, now: datetime) -> Room:
    """One query for the limits, and one for each of them that applies."""
    left: dict[str, Decimal] = {}
    for limit in Limit.objects.filter(_applying(use), tenant_id=use.tenant_id, mode=Limit.Mode.HARD):
        rows = usage_rows(use.tenant_id).filter(_counted(limit, use), created_at__gte=_began(limit, now))
        used = rows.order_by().aggregate(used=_MEASURES[limit.measure])["used"] or 0
        remaining = max(limit.amount - Decimal(used), Decimal(0))
        left[limit.measure] = min(left.get(limit.measure, remaining), remaining)
    return Room(left.get("tokens"), left.get("requests"), left.get("usd"))


def _applying(use: Use) -> Q:
    found = Q(scope=Limit.Scope.TENANT) | Q(scope=Limit.Scope.MODEL, scope_id=str(use.tenant_model_id))
    if use.agent_id:
        found |= Q(scope=Limit.Scope.AGENT, scope_id=use.agent_id)
    if use.key_id is not None:
        found |= Q(scope=Limit.Scope.KEY, scope_id=str(use.key_id))
    return found & Q(period__in=[Limit.Period.DAY, Limit.Period.MONTH])


def _counted(limit: Limit, use: Use) -> Q:
    of_scope: Mapping[str, Q] = {
        Limit.Scope.TENANT: Q(),
        Limit.Scope.MODEL: Q(model_id=use.model_id),
        Limit.Scope.AGENT: Q(agent_id=use.agent_id),
        Limit.Scope.KEY: Q(key_id=use.key_id),
    }
    return of_scope[limit.scope] & ~Q(model="")


def _began(limit: Limit, now: datetime) -> datetime:
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight if limit.period == Limit.Period.DAY else midnight.replace(day=1)
