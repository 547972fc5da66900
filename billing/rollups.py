"""Usage rows added up by the hour, so that a year of a tenant's usage is read from thousands of rows and not millions.

The only writer of `HourlyUsage`, `LateHour` and `RolledUp`; what is read is `billing.usage`. An hour is added up once
it is an hour over: no request lives that long, so all of its rows are there. Who writes rows of an older time says so
(`mark_late`, in the same transaction), and the hour is added up anew. Each step is one transaction, may be repeated,
and of two at once one works.

Failure: while nobody runs this, readers take more from the ledger itself: slower, never wrong.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import connection, transaction

from billing.models import HourlyUsage, KeptFrom, LateHour, RolledUp, UsageRow
from billing.usage_parts import HOUR, floor_hour
from core.ids import uuid7_floor

_OVER = timedelta(hours=1)
_HOURS_AT_ONCE = 24
_MARKS_AT_ONCE = 1_000
_LOCK = 7_305_002

# Bounds on the ids too: they begin with the time, and their index serves all tenants together.
_ADD_UP = """
INSERT INTO billing_hourlyusage (tenant_id, hour, model_id, model, provider, agent_id, key_id, task_type,
    requests, failed, items, cached, tokens, cost_usd)
SELECT tenant_id, date_trunc('hour', created_at, 'UTC'), model_id, model, provider, agent_id, key_id, task_type,
    count(*) FILTER (WHERE source <> 'adjustment'), count(*) FILTER (WHERE status <> 'ok'),
    sum(items), sum(cached), sum(tokens), sum(cost_usd)
FROM billing_usagerow
WHERE created_at >= %(since)s AND created_at < %(until)s AND id >= %(first_id)s AND id < %(last_id)s
    AND (%(tenant)s::uuid IS NULL OR tenant_id = %(tenant)s)
GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
"""


def rolled_until() -> datetime | None:
    """Up to which hour everything is added up; None: nothing is."""
    return RolledUp.objects.values_list("until", flat=True).first()


def roll_up(*, now: datetime) -> int:
    """Adds up what is over, and anew what was late. Returns how many hours that were."""
    done = 0
    while step := _recount_late():
        done += step
    while step := _go_on(now):
        done += step
    return done


def mark_late(rows: Iterable[tuple[UUID, datetime]]) -> None:
    """Says that these tenants were given rows of these times; to be called in the transaction that writes them."""
    hours = {(tenant_id, floor_hour(at)) for tenant_id, at in rows}
    LateHour.objects.bulk_create(LateHour(tenant_id=tenant_id, hour=hour) for tenant_id, hour in sorted(hours))


def hold_still() -> None:
    """Until the transaction ends nothing is added up; waits for whoever is at it."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])


@transaction.atomic
def _go_on(now: datetime) -> int:
    if not _is_our_turn():
        return 0
    since, last = rolled_until() or _first_hour(), floor_hour(now - _OVER)
    if since is None or since >= last:
        return 0
    until = min(since + _HOURS_AT_ONCE * HOUR, last)
    _add_up(since, until, None)
    RolledUp.objects.update_or_create(id=1, defaults={"until": until})
    return (until - since) // HOUR


@transaction.atomic
def _recount_late() -> int:
    until = rolled_until()
    if until is None or not _is_our_turn():
        return 0
    # Before the rows are looked at: what is committed with a mark seen here is seen there.
    marks = list(LateHour.objects.order_by("id")[:_MARKS_AT_ONCE])
    kept = dict(
        KeptFrom.objects.filter(tenant_id__in={each.tenant_id for each in marks}).values_list("tenant_id", "since")
    )
    for tenant_id, hour in sorted({(each.tenant_id, each.hour) for each in marks if each.hour < until}):
        if hour < kept.get(tenant_id, hour):
            continue  # its rows are gone, or going: what was added up stays
        HourlyUsage.objects.filter(tenant_id=tenant_id, hour=hour).delete()
        _add_up(hour, hour + HOUR, tenant_id)
    LateHour.objects.filter(id__in=[each.id for each in marks]).delete()
    return len(marks)


def _add_up(since: datetime, until: datetime, tenant_id: UUID | None) -> None:
    words: dict[str, Any] = {
        "since": since,
        "until": until,
        "first_id": uuid7_floor(since),
        "last_id": uuid7_floor(until),
        "tenant": tenant_id,
    }
    with connection.cursor() as cursor:
        cursor.execute(_ADD_UP, words)


def _first_hour() -> datetime | None:
    oldest = UsageRow.objects.order_by("id").values_list("created_at", flat=True).first()
    return None if oldest is None else floor_hour(oldest)


def _is_our_turn() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [_LOCK])
        return bool(cursor.fetchone()[0])
