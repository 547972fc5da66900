"""Reads a tenant's limits for the data plane. A key's limit is there that of its line: whatever replaced the key, and
what these keys minted, is counted together."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

from django.db.models import Case, OuterRef, UUIDField, When
from django.db.models.functions import Cast

from billing.limit_terms import MOST, LimitTerms
from billing.models import Limit
from core.money import nano_from_usd
from tenants.selectors import line_of


def load_limits(tenant_id: UUID) -> tuple[LimitTerms, ...]:
    """All limits of a tenant (one query)."""
    line = Case(When(scope=Limit.Scope.KEY, then=line_of(Cast(OuterRef("scope_id"), UUIDField()))))
    rows = Limit.objects.filter(tenant_id=tenant_id).annotate(line=line)
    return tuple(replace(terms_of(row), scope_id=str(row.line)) if row.line else terms_of(row) for row in rows)


def terms_of(row: Limit) -> LimitTerms:
    """The row as a value, its amount in tokens, requests or nano-dollars."""
    amount = nano_from_usd(row.amount) if row.measure == Limit.Measure.USD else int(row.amount)
    return LimitTerms(row.id, row.scope, row.scope_id, row.measure, row.period, row.mode, min(amount, MOST))
