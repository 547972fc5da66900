"""Usage of a moment, counted as the data plane would have counted it: rows in the ledger, and what counters say."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from billing.counters import ledger_sums
from billing.models import Counter, Limit, UsageRow
from billing.periods import start_of
from tests.billing import test_dashboard


def used(at: datetime, tenant_id: UUID, **facts: Any) -> UsageRow:
    """A usage row of that moment, and the counters of the days and months it lies in."""
    row = test_dashboard.used(at, tenant_id, **facts)
    count(tenant_id, at)
    return row


def count(tenant_id: UUID, at: datetime) -> None:
    """Has the counters of all limits say what the ledger says for the periods of that moment."""
    for limit in Limit.objects.filter(tenant_id=tenant_id).exclude(period=Limit.Period.MINUTE):
        key = (limit.id, start_of(limit.period, at).date())
        Counter.objects.filter(limit_id=key[0], period_start=key[1]).delete()
        Counter.objects.create(
            limit_id=key[0], period_start=key[1], tenant_id=tenant_id, settled=ledger_sums([key])[key]
        )
