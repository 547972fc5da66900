"""Single requests that a tenant has no wish to keep: deleted with their provider calls, in small steps.

Owns `KeptFrom` and the deleting; from when on rows are kept is `billing.retention`. First it is written down from when
on they are: from then on no older hour is added up anew and no older row is adjusted, so that sums and bills stay as
they are while rows go and after. Then they go, the oldest first, some thousands in each transaction, by an index; rows
that somebody else holds are left out, so of two at once each deletes others, and whoever is stopped left nothing half
done. As the platform's role: tenants may not delete usage.

Failure: PostgreSQL gone → the task fails, and the next run goes on with the oldest row that is left.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import connection, transaction
from django.db.models import Min

from audit.services import record
from billing.models import KeptFrom, LateHour
from billing.periods import end_of
from billing.retention import STAYS, kept_from
from billing.rollups import hold_still, rolled_until
from tenants.selectors import retentions

log = logging.getLogger(__name__)

_ROWS_AT_ONCE = 5_000
_LONGEST_CALL = timedelta(days=1)  # longer than a call can begin after its request
_MAY_GO = f"tenant_id = %(tenant)s AND created_at >= %(since)s AND created_at < %(until)s AND NOT ({STAYS})"
_OLDEST = f"""SELECT created_at FROM billing_usagerow
WHERE tenant_id = %(tenant)s AND created_at < %(until)s AND NOT ({STAYS}) ORDER BY created_at LIMIT 1"""
# Within one month, which is one partition: a `ctid` says nothing of which partition it is in.
_FORGET = f"""
WITH gone AS (
    DELETE FROM billing_usagerow WHERE {_MAY_GO} AND ctid = ANY(ARRAY(
        SELECT ctid FROM billing_usagerow WHERE {_MAY_GO} ORDER BY created_at LIMIT %(most)s FOR UPDATE SKIP LOCKED
    ))
    RETURNING id
), calls AS (
    DELETE FROM billing_providercall c USING gone
    WHERE c.tenant_id = %(tenant)s AND c.request_id = gone.id
        AND c.created_at >= %(calls_since)s AND c.created_at < %(calls_until)s
    RETURNING c.id
)
SELECT (SELECT count(*) FROM gone), (SELECT count(*) FROM calls)
"""


@dataclass(slots=True)
class Forgotten:
    """What one run deleted of a tenant, in how many steps."""

    requests: int = 0
    provider_calls: int = 0
    steps: int = 0


def forget_usage(*, now: datetime, steps: int, rows_at_once: int = _ROWS_AT_ONCE) -> bool:
    """One run over all tenants, of at most so many steps. Returns whether there may be more to do."""
    for tenant_id, days in retentions().items():
        steps -= _forget_of(tenant_id, days, now, steps, rows_at_once).steps
        if steps <= 0:
            return True
    return False


def _forget_of(tenant_id: UUID, days: int, now: datetime, steps: int, rows_at_once: int) -> Forgotten:
    found = Forgotten()
    until = _keep_from(tenant_id, days, now)
    if until is None:
        return found
    try:
        while found.steps < steps and (oldest := _oldest(tenant_id, until)) is not None:
            requests, calls = _forget_some(tenant_id, oldest, until, rows_at_once)
            if not requests:
                break  # somebody else is at these
            found.requests += requests
            found.provider_calls += calls
            found.steps += 1
    finally:
        if found.requests:
            counts = {"requests": found.requests, "provider_calls": found.provider_calls, "before": until.isoformat()}
            record("usage.forgotten", tenant_id=tenant_id, subject="tenant", subject_id=tenant_id, after=counts)
            log.info("usage of tenant %s before %s is forgotten: %d requests", tenant_id, until, found.requests)
    return found


@transaction.atomic
def _keep_from(tenant_id: UUID, days: int, now: datetime) -> datetime | None:
    """Writes down from when on rows are kept, while no hour is being added up."""
    hold_still()
    late = LateHour.objects.filter(tenant_id=tenant_id).aggregate(first=Min("hour"))["first"]
    until = kept_from(days=days, now=now, added_up_until=rolled_until(), late=late)
    if until is None:
        return None
    row, is_new = KeptFrom.objects.get_or_create(tenant_id=tenant_id, defaults={"since": until})
    if not is_new and row.since < until:
        KeptFrom.objects.filter(tenant_id=tenant_id).update(since=until)
    return until


def _oldest(tenant_id: UUID, until: datetime) -> datetime | None:
    with connection.cursor() as cursor:
        cursor.execute(_OLDEST, {"tenant": tenant_id, "until": until})
        found = cursor.fetchone()
    return None if found is None else found[0]


def _forget_some(tenant_id: UUID, oldest: datetime, until: datetime, rows_at_once: int) -> tuple[int, int]:
    until = min(until, end_of("month", oldest))
    words: dict[str, Any] = {
        "tenant": tenant_id,
        "since": oldest,
        "until": until,
        "calls_since": oldest - _LONGEST_CALL,
        "calls_until": until + _LONGEST_CALL,
        "most": rows_at_once,
    }
    with connection.cursor() as cursor:
        cursor.execute(_FORGET, words)
        requests, calls = cursor.fetchone()
    return requests, calls
