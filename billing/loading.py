"""Reads a tenant's limits for the data plane."""

from __future__ import annotations

from uuid import UUID

from billing.limit_terms import LimitTerms
from billing.models import Limit
from core.money import nano_from_usd


def load_limits(tenant_id: UUID) -> tuple[LimitTerms, ...]:
    """All limits of a tenant, in whole units (one query)."""
    return tuple(
        LimitTerms(
            limit_id=row.id,
            scope=row.scope,
            scope_id=row.scope_id,
            measure=row.measure,
            period=row.period,
            mode=row.mode,
            amount=nano_from_usd(row.amount) if row.measure == Limit.Measure.USD else int(row.amount),
        )
        for row in Limit.objects.filter(tenant_id=tenant_id)
    )
