"""The counters of limits in PostgreSQL, as the control plane sees them: begun, read, counted anew from the ledger.

A counter is derived: `settled` is what the usage rows of its scope and period charge, but for those that name a live
pool; these are in `granted`, with what the pool may still spend. What a request is charged counts, adjustments of
prices do not: they correct a bill, nobody spends them.

Failure: Redis away → what its pool has spent is not known apart from what it may spend: `count` shows it as held.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from datetime import date, datetime
from typing import Any
from uuid import UUID

import redis
from django.db import connection
from django.db.models import OuterRef, Subquery
from django_redis import get_redis_connection

from billing.limit_plans import Plan, field_of, read_calendar, read_rate, refused_key
from billing.limit_scripts import BUCKET_MS
from billing.limit_terms import LimitTerms
from billing.models import Counter, Grant, Limit, Pool
from billing.periods import start_of

log = logging.getLogger(__name__)

Key = tuple[UUID, date]
# What a usage row adds to a limit of its scope; the same for a hold that is settled from its row.
CHARGED = "status = 'ok' AND source NOT IN ('adjustment', 'replay')"
# %(live)s: the pools whose rows are left out.
_SUMS = f"""
SELECT k.limit_id, k.start, coalesce((
    SELECT sum(CASE l.measure WHEN 'tokens' THEN u.tokens WHEN 'usd' THEN u.cost_usd * 1000000000
        WHEN 'requests' THEN (u.held_tokens > 0)::int END)  -- one answered by the cache alone counts in no limit
    FROM billing_usagerow u
    WHERE u.tenant_id = l.tenant_id AND {CHARGED}
        AND u.created_at >= k.start::timestamp AT TIME ZONE 'UTC'
        AND u.created_at < (k.start + CASE l.period WHEN 'day' THEN interval '1 day' ELSE interval '1 month' END)
            AT TIME ZONE 'UTC'
        AND (u.pool IS NULL OR NOT u.pool = ANY(%(live)s))
        AND CASE l.scope WHEN 'tenant' THEN true WHEN 'agent' THEN u.agent_id = l.scope_id
            WHEN 'key' THEN u.key_id = ANY(c.keys)
            ELSE u.model_id = (SELECT m.model_id FROM tenants_tenantmodel m WHERE m.id = l.scope_id::uuid) END
), 0)::bigint
FROM unnest(%(limits)s::uuid[], %(starts)s::date[]) AS k(limit_id, start) JOIN billing_limit l ON l.id = k.limit_id
LEFT JOIN LATERAL (  -- the keys whose use a key's limit counts: those of its line, and those that they made
    SELECT array_agg(m.id) AS keys FROM tenants_apikey o JOIN tenants_apikey m ON m.lines @> ARRAY[o.lines[1]]
    WHERE o.id = CASE l.scope WHEN 'key' THEN l.scope_id::uuid END AND o.tenant_id = l.tenant_id
        AND m.tenant_id = l.tenant_id
) c ON true
"""


def ledger_sums(keys: Sequence[Key], *, live: Collection[int] = ()) -> dict[Key, int]:
    """What the ledger says was charged in these limits' periods, without the rows of these pools."""
    words: dict[str, Any] = {
        "limits": [each[0] for each in keys],
        "starts": [each[1] for each in keys],
        "live": list(live),
    }
    with connection.cursor() as cursor:
        cursor.execute(_SUMS, words)
        return {(limit_id, start): total for limit_id, start, total in cursor.fetchall()}


def begin(row: Limit, *, now: datetime, recount_at: datetime) -> None:
    """The counter of a new limit's present period: what was used before counts. Requests under way count when it is
    counted anew, at `recount_at`."""
    if row.period == Limit.Period.MINUTE:
        return
    key = (row.id, start_of(row.period, now).date())
    Counter.objects.bulk_create(
        [
            Counter(
                limit_id=key[0],
                period_start=key[1],
                tenant_id=row.tenant_id,
                settled=ledger_sums([key])[key],
                recount_at=recount_at,
            )
        ],
        ignore_conflicts=True,
    )


def forget(limit_ids: Collection[UUID]) -> None:
    """The counters of limits that are removed, in the order in which grants lock them."""
    Counter.objects.filter(limit_id__in=limit_ids).delete()
    Grant.objects.filter(limit_id__in=limit_ids).delete()


def count(tenant_id: UUID, limits: Sequence[LimitTerms], moment: datetime) -> dict[UUID, tuple[int, int]]:
    """Used and held of each limit in the period that holds `moment`, in the limit's own unit."""
    plan = Plan(tenant_id, limits, int(moment.timestamp() * 1000))
    epoch, values = _in_redis(plan)
    pool = Pool.objects.filter(tenant_id=tenant_id, kind=Pool.Kind.REDIS, closed_at=None).values("id")
    given = Grant.objects.filter(
        limit_id=OuterRef("limit_id"), period_start=OuterRef("period_start"), pool_id=OuterRef("pool")
    )
    rows = Counter.objects.filter(limit_id__in=[each.limit_id for each in limits]).annotate(
        pool=Subquery(pool[:1]), given=Subquery(given.values("given"))
    )
    counters = {(each.limit_id, each.period_start): each for each in rows}
    found: dict[UUID, tuple[int, int]] = {}
    for terms, start, raw in zip(plan.limits, plan.starts, values, strict=True):
        if terms.is_rate:
            found[terms.limit_id] = (read_rate(raw, time.time() * 1000, BUCKET_MS) if raw is not None else 0, 0)
            continue
        counter = counters.get((terms.limit_id, start))
        if counter is None:
            found[terms.limit_id] = (0, 0)  # nothing was granted yet
            continue
        used, held = counter.settled, counter.granted
        if raw is not None and counter.pool is not None and epoch.endswith(f":{counter.pool}"):
            _, _, spent, holding = read_calendar(raw)
            # Of this pool it is known what is spent and what is held; of the others only what they may spend.
            used, held = used + spent, held - (counter.given or 0) + holding
        found[terms.limit_id] = (used, max(0, held))
    return found


def last_refused(tenant_id: UUID, limits: Sequence[LimitTerms], moment: datetime) -> dict[UUID, tuple[int, int]]:
    """What each day or month that refused somebody was asked for last, and what was used and held of it then."""
    fields = {each.limit_id: field_of(each, moment) for each in limits if each.is_hard and not each.is_rate}
    if not fields:
        return {}
    try:
        client: Any = get_redis_connection("default")
        found = client.mget([refused_key(tenant_id, field) for field in fields.values()])
    except redis.RedisError as error:
        log.warning("limits: shown without what was refused: %s", type(error).__name__)
        return {}
    pairs = {limit_id: raw.split() for limit_id, raw in zip(fields, found, strict=True) if raw is not None}
    return {limit_id: (int(need), int(used)) for limit_id, (need, used) in pairs.items()}


def _in_redis(plan: Plan) -> tuple[str, Sequence[bytes | None]]:
    try:
        client: Any = get_redis_connection("default")
        epoch, *values = client.hmget(plan.key, [b"e", *plan.fields])
    except redis.RedisError as error:
        log.warning("limits: shown without what Redis knows: %s", type(error).__name__)
        return "", [None] * len(plan.fields)
    return (epoch or b"").decode(), values


def differences(tenant_id: UUID) -> Mapping[Key, tuple[int, int]]:
    """For operators and tests: the counters that differ from the ledger, with what each should say (`settled`) and
    says. Empty is right."""
    live = list(Pool.objects.filter(tenant_id=tenant_id).values_list("id", flat=True))
    rows = {(each.limit_id, each.period_start): each.settled for each in Counter.objects.filter(tenant_id=tenant_id)}
    sums = ledger_sums(list(rows), live=live)
    return {key: (total, rows[key]) for key, total in sums.items() if rows[key] != total}
