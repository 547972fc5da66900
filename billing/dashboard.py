"""The figures of the admin's first page: what was used today, this month and on each of the last 30 days; what failed.

Owns the questions, not how the answers look. A tenant's function takes the tenant; the platform's are other functions,
so that nothing is unscoped by leaving something out. Figures are sums of hours that were added up, and of the ledger
what no such hour holds yet (`billing.usage`): one question for a tenant, two for the platform, kept for half a minute.

Failure: what takes PostgreSQL longer than four seconds is given up and None; the page says so and shows the rest.
Redis gone means that the platform's are asked anew each time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from heapq import merge
from itertools import islice
from typing import TypedDict, TypeVar
from uuid import UUID

from django.core.cache import cache
from django.db import OperationalError, connection, transaction
from django.db.models import QuerySet

from billing.models import ProviderCall, UsageRow
from billing.usage import Used, sum_everybodys, sum_usage

DAYS = 30
_FAILURES = 10
_FAILED_WITHIN = timedelta(hours=24)
_TOP = 8
_KEEP_S = 30
_PATIENCE_MS = 4_000
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Total:
    """What was used in some time."""

    requests: int = 0
    tokens: int = 0
    cost_usd: Decimal = Decimal(0)

    def __add__(self, other: Total) -> Total:
        return Total(self.requests + other.requests, self.tokens + other.tokens, self.cost_usd + other.cost_usd)


@dataclass(frozen=True, slots=True)
class Figures:
    today: Total
    month: Total
    days: tuple[tuple[date, Total], ...]  # the last 30, today last


@dataclass(frozen=True, slots=True)
class TopTenant:
    """What a tenant used this month."""

    tenant_id: UUID
    total: Total


@dataclass(frozen=True, slots=True)
class Failure:
    """A request that failed, or a provider call that did (its request may have been answered all the same)."""

    at: datetime
    tenant_id: UUID
    request_id: UUID
    is_call: bool
    model: str
    provider: str
    reason: str
    detail: str


def tenant_figures(tenant_id: UUID, *, now: datetime) -> Figures | None:
    """One tenant's."""
    return _patiently(lambda: _figures(sum_usage(tenant_id, **_days(now), step="day"), now))


def platform_figures(*, now: datetime) -> tuple[Figures, list[TopTenant]] | None:
    """All tenants' together, and who used most this month, the dearest first; at most half a minute old."""
    key = f"dashboard:platform:{now:%Y-%m-%d}"
    found: tuple[Figures, list[TopTenant]] | None = cache.get(key)
    if found is None:
        found = _patiently(lambda: (_figures(sum_everybodys(**_days(now), step="day"), now), _top(now)))
        cache.set(key, found, _KEEP_S)
    return found


def tenant_failures(tenant_id: UUID, *, now: datetime) -> list[Failure] | None:
    """The newest of one tenant's last 24 hours."""
    return _failures(
        UsageRow.objects.filter(tenant_id=tenant_id), ProviderCall.objects.filter(tenant_id=tenant_id), now
    )


def platform_failures(*, now: datetime) -> list[Failure] | None:
    """The newest of everybody's last 24 hours."""
    return _failures(UsageRow.objects.all(), ProviderCall.objects.all(), now)


class _Time(TypedDict):
    since: datetime
    until: datetime


def _days(now: datetime) -> _Time:
    """The last 30, and this month's where that began before them."""
    today = _today(now)
    first = min(today - timedelta(days=DAYS - 1), today.replace(day=1))
    return {"since": _midnight(first), "until": _midnight(today + timedelta(days=1))}


def _figures(used: list[Used], now: datetime) -> Figures:
    today = _today(now)
    first = today - timedelta(days=DAYS - 1)
    by_day = {each.start.astimezone(UTC).date(): _total(each) for each in used if each.start is not None}
    days = [first + timedelta(days=number) for number in range(DAYS)]
    month = sum((total for day, total in by_day.items() if day >= today.replace(day=1)), Total())
    return Figures(
        today=by_day.get(today, Total()), month=month, days=tuple((day, by_day.get(day, Total())) for day in days)
    )


def _top(now: datetime) -> list[TopTenant]:
    month = _days(now) | {"since": _midnight(_today(now).replace(day=1))}
    used = sum_everybodys(**month, by_tenant=True, most=_TOP)
    return [TopTenant(each.of["tenant_id"], _total(each)) for each in used[:_TOP]]


def _total(used: Used) -> Total:
    return Total(used.requests, used.tokens, used.cost_usd)


def _failures(rows: QuerySet[UsageRow], calls: QuerySet[ProviderCall], now: datetime) -> list[Failure] | None:
    since = now - _FAILED_WITHIN
    # Ids begin with their time: with it there is an index for the platform's question as well.
    oldest = UUID(int=int(since.timestamp() * 1000) << 80)
    requests = rows.filter(created_at__gte=since, id__gte=oldest).exclude(status="ok").order_by("-created_at", "-id")
    failed = calls.filter(created_at__gte=since, request_id__gte=oldest).exclude(outcome="ok").order_by("-created_at")
    found = _patiently(lambda: (list(requests[:_FAILURES]), list(failed[:_FAILURES])))
    if found is None:
        return None
    newest = merge(
        (Failure(r.created_at, r.tenant_id, r.id, False, r.model, r.provider, r.status, "") for r in found[0]),
        (
            Failure(c.created_at, c.tenant_id, c.request_id, True, c.model, c.provider, c.outcome, c.detail)
            for c in found[1]
        ),
        key=lambda failure: failure.at,
        reverse=True,
    )
    return list(islice(newest, _FAILURES))


def _patiently(ask: Callable[[], T]) -> T | None:
    """The answer, or None when it takes too long: a page must not keep a connection while a huge month is summed."""
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL statement_timeout TO {_PATIENCE_MS}")
            found = ask()
            cursor.execute("SET LOCAL statement_timeout TO DEFAULT")
            return found
    except OperationalError as error:
        if getattr(error.__cause__, "sqlstate", None) != "57014":  # cancelled by the time limit
            raise
        return None


def _today(now: datetime) -> date:
    return now.astimezone(UTC).date()


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)
