"""Reads a tenant's limits for the data plane. A key's limit is there that of its line: whatever replaced the key, and
what these keys minted, is counted together."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

from billing.limit_terms import MOST, LimitTerms
from billing.models import Limit
from core.money import nano_from_usd
from tenants.selectors import lines_of_keys


def load_limits(tenant_id: UUID) -> tuple[LimitTerms, ...]:
    """All limits of a tenant (one query; two where keys have some)."""
    rows = list(Limit.objects.filter(tenant_id=tenant_id))
    of_keys = {row.id: UUID(row.scope_id) for row in rows if row.scope == Limit.Scope.KEY}
    lines = lines_of_keys(tenant_id, set(of_keys.values())) if of_keys else {}
    found = [terms_of(row) for row in rows]
    return tuple(
        replace(each, scope_id=str(lines[of_keys[each.limit_id]])) if each.limit_id in of_keys else each
        for each in found
    )


def terms_of(row: Limit) -> LimitTerms:
    """The row as a value, its amount in tokens, requests or nano-dollars."""
    amount = nano_from_usd(row.amount) if row.measure == Limit.Measure.USD else int(row.amount)
    return LimitTerms(row.id, row.scope, row.scope_id, row.measure, row.period, row.mode, min(amount, MOST))
