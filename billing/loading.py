"""Reads a tenant's limits for the data plane."""

from __future__ import annotations

from uuid import UUID

from billing.limit_terms import MOST, LimitTerms
from billing.models import Limit
from core.money import nano_from_usd


def load_limits(tenant_id: UUID) -> tuple[LimitTerms, ...]:
    """All limits of a tenant (one query)."""
    return tuple(terms_of(row) for row in Limit.objects.filter(tenant_id=tenant_id))


def terms_of(row: Limit) -> LimitTerms:
    """The row as a value, its amount in tokens, requests or nano-dollars."""
    amount = nano_from_usd(row.amount) if row.measure == Limit.Measure.USD else int(row.amount)
    return LimitTerms(row.id, row.scope, row.scope_id, row.measure, row.period, row.mode, min(amount, MOST))
