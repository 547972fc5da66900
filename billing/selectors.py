"""Reads of usage and limits that have a name. What is a tenant's takes the tenant first."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

from django.db.models import QuerySet

from billing.models import Limit, ProviderCall, UsageRow
from billing.services import MODEL_LIMITS
from core.errors import NotFound
from core.ids import uuid7_time

_LAST = datetime(9999, 12, 30, tzinfo=UTC)
# A request lives at most ten minutes (`QUIVER_DEADLINE_MS`); its calls begin within.
_CALLS_WITHIN = timedelta(hours=1)


def limits_of_models(tenant_id: UUID, tenant_model_ids: Collection[UUID]) -> Mapping[UUID, Mapping[str, Decimal]]:
    """The hard limits of configured models, by the names that a configured model has for them (one query)."""
    names = {terms: name for name, terms in MODEL_LIMITS.items()}
    found: dict[UUID, dict[str, Decimal]] = {each: {} for each in tenant_model_ids}
    rows = Limit.objects.filter(
        tenant_id=tenant_id,
        scope=Limit.Scope.MODEL,
        scope_id__in=[str(each) for each in tenant_model_ids],
        mode=Limit.Mode.HARD,
    )
    for row in rows:
        name = names.get((row.measure, row.period))
        if name is not None:
            found[UUID(row.scope_id)][name] = row.amount
    return found


def usage_rows(tenant_id: UUID) -> QuerySet[UsageRow]:
    """A tenant's usage rows."""
    return UsageRow.objects.filter(tenant_id=tenant_id)


def at_request(found: QuerySet[UsageRow], request_id: UUID) -> QuerySet[UsageRow]:
    """The row of one request: the time in its id tells PostgreSQL which month to look in."""
    began = _time_in(request_id)
    if began is None:
        return found.none()
    return found.filter(id=request_id, created_at__gte=began, created_at__lt=began + timedelta(milliseconds=1))


def find_usage(tenant_id: UUID, request_id: UUID) -> tuple[UsageRow, list[ProviderCall]]:
    """The tenant's own row with its provider calls in order, or `NotFound`."""
    row = at_request(usage_rows(tenant_id), request_id).first()
    if row is None:
        raise NotFound(f"There is no usage record {request_id}.")
    calls = ProviderCall.objects.filter(
        tenant_id=tenant_id,
        request_id=request_id,
        created_at__gte=row.created_at,
        created_at__lt=row.created_at + _CALLS_WITHIN,
    )
    return row, list(calls)


def _time_in(request_id: UUID) -> datetime | None:
    """None for an id that is not of our making."""
    if request_id.version != 7 or request_id.int >> 80 > _LAST.timestamp() * 1000:
        return None
    return uuid7_time(request_id)
