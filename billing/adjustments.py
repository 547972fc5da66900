"""What a corrected price makes of the past: rows for the difference, beside usage rows that stay as they are.

Owns the writing of adjustments: one for each tenant, key, agent and UTC day in which the correction makes a difference,
booked at the moment of the correction, so that a period that was closed stays closed. A run books what is missing: the
second adds nothing, unless requests that were under way were booked meanwhile. It may stop and go on anywhere; of two
at once one books, because the ids follow from what is adjusted.

Adjusted are answered requests that were charged at the catalogue's price, by their own tokens, each rounded as it was
when it was charged. A tenant's own price is its own matter, and so is what it pays its provider itself. Requests that
a tenant no longer keeps (`billing.forgetting`) are not adjusted any more, and what was adjusted of them stays.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.db import connection, transaction

from billing.models import KeptFrom, UsageRow
from billing.rollups import mark_late
from catalog.corrections import Correction
from core.ids import uuid7_of, uuid7_time
from core.money import usd_from_nano

log = logging.getLogger(__name__)

ADJUSTMENT = "adjustment"  # source of these rows
_ROWS_PER_INSERT = 500

# `div` is exact where `/` and `ceil` would lose digits; the same rule as `core.money.cost_nano`.
_DIFFERENCES = """
SELECT tenant_id, key_id, agent_id,
    sum(div(tokens::numeric * %(right)s + 999999, 1000000) - div(tokens::numeric * %(wrong)s + 999999, 1000000)) AS nano
FROM billing_usagerow
WHERE model_id = %(model_id)s AND id >= %(first_id)s AND id < %(last_id)s
    AND created_at >= %(starts)s AND created_at < %(ends)s
    AND status = 'ok' AND tokens > 0 AND NOT own_price AND paid_by = 'platform'
    AND NOT EXISTS (SELECT FROM billing_keptfrom k
        WHERE k.tenant_id = billing_usagerow.tenant_id AND billing_usagerow.created_at < k.since)
GROUP BY tenant_id, key_id, agent_id
"""
# All of a correction have its moment as their time.
_BOOKED = """
SELECT tenant_id, key_id, agent_id, sum(cost_usd) * 1000000000, count(*)
FROM billing_usagerow
WHERE source = 'adjustment' AND model_id = %(model_id)s AND corrects_day = %(day)s
    AND id >= %(booked_id)s AND id < %(after_booked_id)s AND created_at = %(booked_at)s
GROUP BY tenant_id, key_id, agent_id
"""


def first_day(correction: Correction) -> date | None:
    """The first day with any usage that the correction could touch."""
    found = UsageRow.objects.filter(id__gte=_id_at(correction.starts), created_at__gte=correction.starts)
    oldest = found.order_by("id").values_list("id", flat=True).first()
    at = None if oldest is None else uuid7_time(oldest)
    return at.date() if at is not None and at < correction.ends else None


def adjust(correction: Correction, *, day: date, days: int) -> date | None:
    """Adjusts so many days from `day` on, each in a transaction of its own. Returns the day to go on with, if any."""
    last = correction.ends.astimezone(UTC).date()
    begins = max(correction.starts, datetime.combine(day, time(), UTC))
    if left_out := KeptFrom.objects.filter(since__gt=begins).count():
        log.warning(
            "price correction %s of %s from %s on: %d tenants keep no requests of some days, which are not adjusted",
            correction.price_id,
            correction.model,
            day,
            left_out,
        )
    for _ in range(days):
        rows = list(_adjustments(correction, day))
        with transaction.atomic():
            UsageRow.objects.bulk_create(rows, batch_size=_ROWS_PER_INSERT, ignore_conflicts=True)
            mark_late((row.tenant_id, row.created_at) for row in rows)
        if rows:
            log.info(
                "price correction %s of %s: %s of %s done, %d adjustments, %s USD",
                correction.price_id,
                correction.model,
                day,
                last,
                len(rows),
                sum((row.cost_usd for row in rows), Decimal(0)),
            )
        if day >= last:
            return None
        day += timedelta(days=1)
    return day


def _adjustments(correction: Correction, day: date) -> Iterator[UsageRow]:
    """What is missing of a day."""
    midnight = datetime.combine(day, time(), UTC)
    starts, ends = max(midnight, correction.starts), min(midnight + timedelta(days=1), correction.ends)
    booked_id = _id_at(correction.posted_at)
    terms: dict[str, Any] = {
        "right": correction.right,
        "wrong": correction.wrong,
        "model_id": correction.model_id,
        "day": day,
        "starts": starts,
        "ends": ends,
        # The ids begin with the time: with them there is an index for all tenants together.
        "first_id": _id_at(starts),
        "last_id": _id_at(ends + timedelta(milliseconds=1)),
        "booked_at": uuid7_time(booked_id),
        "booked_id": booked_id,
        "after_booked_id": UUID(int=booked_id.int + (1 << 80)),
    }
    with connection.cursor() as cursor:
        cursor.execute(_BOOKED, terms)
        booked = {(tenant, key, agent): (int(nano), count) for tenant, key, agent, nano, count in cursor.fetchall()}
        cursor.execute(_DIFFERENCES, terms)
        found = cursor.fetchall()
    for tenant_id, key_id, agent_id, nano in found:
        before, count = booked.get((tenant_id, key_id, agent_id), (0, 0))
        if int(nano) != before:
            row_id = _id_of(correction, f"{tenant_id}|{key_id}|{day}|{count}|{agent_id}")
            yield UsageRow(
                id=row_id,
                created_at=uuid7_time(row_id),
                tenant_id=tenant_id,
                key_id=key_id,
                agent_id=agent_id,
                model_id=correction.model_id,
                model=correction.model,
                provider=correction.provider,
                cost_usd=usd_from_nano(int(nano) - before),
                source=ADJUSTMENT,
                corrects_day=day,
                reason=correction.reason,
            )


def _id_of(correction: Correction, what: str) -> UUID:
    digest = hashlib.sha256(f"{correction.price_id}|{what}".encode()).digest()
    return uuid7_of(_ms(correction.posted_at), digest)


def _id_at(moment: datetime) -> UUID:
    """The least id of a moment."""
    return UUID(int=_ms(moment) << 80)


def _ms(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
