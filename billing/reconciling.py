"""What nobody else sees to: holds whose worker died, pools that are gone with what they were granted, old periods.

The ledger decides. A hold that expired is settled with what its usage row charged. Where there is no row, one is
written that charges nothing (`unresolved`): it takes the request's id, so that a worker that only slept cannot charge
it any more. A pool that was closed for longer than any request lives is counted from the ledger, and what it did not
spend can be granted again.

Runs in the control plane, every few seconds, on any number of machines at once. Failure: Redis away → holds wait, they
take nothing from anybody but their own tenant; PostgreSQL away → everything waits.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import redis
from django.db import connection, transaction
from django.db.models import F
from django_redis import get_redis_connection

from billing import counters
from billing.counters import CHARGED, Key
from billing.limit_plans import Member, calendar_field, charge_of, keys_of, read_member
from billing.limit_scripts import BUCKET_MS, CREDIT, INSTALL, SETTLE, TIDY
from billing.models import Counter, Grant, Limit, Pool
from catalog.models import EmbeddingModel
from core import metrics
from core.clock import utc_now
from core.ids import uuid7_time
from tenants.selectors import tenant_ids

log = logging.getLogger(__name__)

UNRESOLVED = "unresolved"
_TENANTS_AT_ONCE = 200
_HOLDS_AT_ONCE = 500
_LATE = timedelta(hours=1)  # a request is over that long after its period, and its fields in Redis may go
_KEPT = "interval '2 days'"  # counters, after the end of their period

# The row claims the request's id. What was charged is asked in a statement of its own: it sees whoever was faster.
# It may be of any time ago, so its hour is added up anew.
_CLAIM = """
WITH claimed AS (
    INSERT INTO billing_usagerow (id, created_at, tenant_id, model_id, model, held_tokens, status, pool)
    SELECT r.id, 'epoch'::timestamptz + r.ms * interval '1 millisecond', %(tenant)s, r.model_id, r.model, r.tokens,
        %(status)s, r.pool
    FROM unnest(%(ids)s::uuid[], %(ms)s::bigint[], %(models)s::uuid[], %(names)s::text[], %(tokens)s::bigint[],
        %(pools)s::bigint[]) AS r(id, ms, model_id, model, tokens, pool)
    ON CONFLICT DO NOTHING
    RETURNING created_at
)
INSERT INTO billing_latehour (tenant_id, hour)
SELECT DISTINCT %(tenant)s::uuid, date_trunc('hour', created_at, 'UTC') FROM claimed
"""
_CHARGES = f"""
SELECT id::text, pool, status, ({CHARGED} AND held_tokens > 0)::int, tokens,
    (cost_usd * 1000000000)::bigint
FROM billing_usagerow
WHERE tenant_id = %(tenant)s AND id = ANY(%(ids)s::uuid[]) AND created_at >= %(first)s AND created_at <= %(last)s
"""


@dataclass(slots=True)
class Reconciled:
    """What one run found."""

    settled: int = 0
    released: int = 0
    unresolved: int = 0
    pools: int = 0


def reconcile(*, lease_s: float, bucket_ms: int = BUCKET_MS) -> Reconciled:
    """One run over all tenants. `lease_s` is the longest lease that any worker uses."""
    found = Reconciled()
    ids = tenant_ids()
    for start in range(0, len(ids), _TENANTS_AT_ONCE):
        some = ids[start : start + _TENANTS_AT_ONCE]
        try:
            _look_into_redis(some, found, bucket_ms)
        except redis.RedisError as error:
            log.warning("limits: holds wait for Redis: %s", type(error).__name__)
        for tenant_id in some:
            _count_done_pools(tenant_id, timedelta(seconds=lease_s), found)
    _forget_old_periods()
    return found


def rotate(tenant_id: UUID) -> None:
    """Closes the tenant's pool, in Redis first: the next request opens another one. Raises `redis.RedisError`."""
    with _turn(tenant_id):
        key = keys_of(tenant_id)[0]
        client: Any = get_redis_connection("default")
        epoch = client.hget(key, "e")
        if epoch is not None:
            client.eval(INSTALL.source, 1, key, epoch, b"")
        _close(tenant_id)


def recount(tenant_id: UUID) -> None:
    """Has all counters of a tenant counted anew from the ledger, as soon as that is certain (about a lease later)."""
    Counter.objects.filter(tenant_id=tenant_id).update(recount_at=utc_now())


def _look_into_redis(ids: Sequence[UUID], found: Reconciled, bucket_ms: int) -> None:
    client: Any = get_redis_connection("default")
    seconds, micros = client.time()
    now_ms = seconds * 1000 + micros // 1000
    run_id = client.info("server")["run_id"]
    today = utc_now() - _LATE
    with client.pipeline(transaction=False) as pipe:
        for tenant_id in ids:
            key, zkey = keys_of(tenant_id)
            pipe.zrangebyscore(zkey, 0, now_ms, start=0, num=_HOLDS_AT_ONCE)
            pipe.hget(key, "e")
            pipe.eval(TIDY.source, 2, key, zkey, f"{today:%Y%m%d}", f"{today:%Y%m}01")
        answers = pipe.execute()
    open_pools = dict(
        Pool.objects.filter(tenant_id__in=ids, kind=Pool.Kind.REDIS, closed_at=None).values_list("tenant_id", "id")
    )
    for number, tenant_id in enumerate(ids):
        members, epoch, is_stuck = answers[number * 3 : number * 3 + 3]
        if members:
            _settle(client, tenant_id, [read_member(each) for each in members], found, bucket_ms)
        if is_stuck:
            log.warning("limits: tenant %s holds something without a hold; its pool is closed", tenant_id)
            rotate(tenant_id)
        elif tenant_id in open_pools and epoch != f"{run_id}:{open_pools[tenant_id]}".encode():
            _close_lost(client, tenant_id, run_id)


def _settle(client: Any, tenant_id: UUID, members: Sequence[Member], found: Reconciled, bucket_ms: int) -> None:
    """Deals with holds that expired, as the ledger says."""
    charges = _charges(tenant_id, members)
    key, zkey = keys_of(tenant_id)
    for each in members:
        pool, status, requests, tokens, nano = charges[each.request_id]
        if pool is None or pool != _pool_of(each):  # nothing of this hold was charged
            requests = tokens = nano = 0
        charge = charge_of(0, tokens, nano, requests)
        if client.eval(SETTLE.source, 2, key, zkey, bucket_ms, each.plan, each.head, charge):
            outcome = UNRESOLVED if status == UNRESOLVED else "settled" if requests else "released"
            metrics.holds_expired.labels(outcome).inc()
            setattr(found, outcome, getattr(found, outcome) + 1)


def _charges(tenant_id: UUID, members: Sequence[Member]) -> dict[str, tuple[int | None, str, int, int, int]]:
    """By request: from which pool, the row's status, then requests, tokens and nano-dollars."""
    ids = [UUID(each.request_id) for each in members]
    names = dict(EmbeddingModel.objects.filter(id__in={each.model_id for each in members}).values_list("id", "name"))
    words: dict[str, Any] = {
        "tenant": tenant_id,
        "status": UNRESOLVED,
        "ids": ids,
        "ms": [each.int >> 80 for each in ids],
        "models": [UUID(each.model_id) for each in members],
        "names": [names.get(UUID(each.model_id), "") for each in members],
        "tokens": [each.tokens for each in members],
        "pools": [_pool_of(each) for each in members],
        "first": min(map(uuid7_time, ids)),
        "last": max(map(uuid7_time, ids)),
    }
    with connection.cursor() as cursor:
        cursor.execute(_CLAIM, words)
        cursor.execute(_CHARGES, words)
        return {row[0]: row[1:] for row in cursor.fetchall()}


def _pool_of(member: Member) -> int | None:
    return int(member.epoch.rpartition(":")[2]) if member.epoch else None


def _close_lost(client: Any, tenant_id: UUID, run_id: str) -> None:
    """Redis has lost the tenant's pool, and nobody has come to open another one. Looks again while nobody may."""
    with _turn(tenant_id):
        epoch = client.hget(keys_of(tenant_id)[0], "e") or b":0"
        run, _, pool = epoch.decode().rpartition(":")
        if run != run_id or not Pool.objects.filter(id=pool, closed_at=None).exists():
            _close(tenant_id)


def _close(tenant_id: UUID) -> None:
    Pool.objects.filter(tenant_id=tenant_id, kind=Pool.Kind.REDIS, closed_at=None).update(closed_at=utc_now())


@contextmanager
def _turn(tenant_id: UUID) -> Iterator[None]:
    """The turn to close or open the tenant's pool in Redis; `billing.granting` takes the same."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [f"quiver-pool-{tenant_id}"])
        yield


def _count_done_pools(tenant_id: UUID, lease: timedelta, found: Reconciled) -> None:
    """Counts pools anew whose requests are all over, and gives back what they did not spend."""
    now = utc_now()
    over = now - lease * 2  # a worker may go on for half a lease before it sees that its pool is closed
    pools = Pool.objects.filter(tenant_id=tenant_id)
    idle = pools.filter(kind=Pool.Kind.DIRECT, closed_at=None, used_at__lt=over)
    if not pools.filter(closed_at__lt=over).exists() and not idle.exists():
        due = Counter.objects.filter(tenant_id=tenant_id, recount_at__lte=now)
        if not due.exists():
            return
    idle.update(closed_at=F("used_at"))
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(hashtextextended(%s, 0))", [f"quiver-count-{tenant_id}"])
        if not cursor.fetchone()[0]:
            return  # somebody else is at it
        done = list(pools.filter(closed_at__lt=over).values_list("id", flat=True))
        touched = _touched(tenant_id, done, now)
        since = [each for each in touched.values() if each is not None]
        if since and max(since) > now:
            return  # a limit is new, and there may be requests that do not know of it
        older = pools.exclude(id__in=done).filter(opened_at__lt=max(since)) if since else pools.none()
        if not older.exists():
            _count(tenant_id, done, list(touched), found)
            transaction.on_commit(lambda: _tell_base(tenant_id))
            return
        open_kinds = set(older.filter(closed_at=None).values_list("kind", flat=True))
        older.filter(kind=Pool.Kind.DIRECT, closed_at=None).update(closed_at=now)
    if Pool.Kind.REDIS in open_kinds:
        rotate(tenant_id)  # what it spends does not count on a limit that was not there when it was opened


def _touched(tenant_id: UUID, done: Sequence[int], now: datetime) -> dict[Key, datetime | None]:
    """The counters that are to be counted anew, and from when that is possible."""
    keys = set(Grant.objects.filter(pool_id__in=done).values_list("limit_id", "period_start"))
    rows = Counter.objects.filter(tenant_id=tenant_id)
    return {
        key: each.recount_at
        for each in rows
        if (key := (each.limit_id, each.period_start)) in keys or (each.recount_at and each.recount_at <= now)
    }


def _count(tenant_id: UUID, done: Sequence[int], keys: Sequence[Key], found: Reconciled) -> None:
    Pool.objects.filter(id__in=done).delete()
    live = list(Pool.objects.filter(tenant_id=tenant_id).values_list("id", flat=True))
    # Before the counters are locked: rows of dead pools are all there, so the sums can only miss what names no pool.
    sums = counters.ledger_sums(keys, live=live)
    ids = {limit_id for limit_id, _ in keys}
    rows = list(
        Counter.objects.select_for_update(no_key=True).filter(limit_id__in=ids).order_by("limit_id", "period_start")
    )
    Grant.objects.filter(tenant_id=tenant_id, pool_id__in=done).delete()
    granted: dict[Key, int] = {}
    for each in Grant.objects.filter(limit_id__in=ids):
        key = (each.limit_id, each.period_start)
        granted[key] = granted.get(key, 0) + each.given
    for row in rows:
        key = (row.limit_id, row.period_start)
        if key in sums:
            Counter.objects.filter(pk=row.pk).update(settled=sums[key], granted=granted.get(key, 0), recount_at=None)
    found.pools += len(done)


def _tell_base(tenant_id: UUID) -> None:
    """Tells the tenant's pool in Redis what all others account for now: until it draws its next block it would go on
    showing what was given back as used. Redis away → that draw tells it."""
    client: Any = get_redis_connection("default")
    key = keys_of(tenant_id)[0]
    try:
        epoch: bytes = client.hget(key, "e") or b""
        pool = Pool.objects.filter(tenant_id=tenant_id, kind=Pool.Kind.REDIS, closed_at=None).first()
        if pool is None or epoch.rpartition(b":")[2] != str(pool.pk).encode():
            return
        words: list[bytes | int] = []
        for grant, period, settled, granted in _grants_of(pool):
            words += [calendar_field(grant.limit_id, period, grant.period_start), grant.given]
            words.append(settled + granted - grant.given)
        if words:
            client.eval(CREDIT.source, 1, key, epoch, *words)
    except redis.RedisError as error:
        log.warning("limits: a pool is told by its next draw what others use: %s", type(error).__name__)


def _grants_of(pool: Pool) -> list[tuple[Grant, str, int, int]]:
    """Each grant of a pool with its limit's period, and what its counter has settled and granted."""
    of_limits = {each.pk: each.period for each in Limit.objects.filter(tenant_id=pool.tenant_id)}
    of_counters = {
        (each.limit_id, each.period_start): each for each in Counter.objects.filter(tenant_id=pool.tenant_id)
    }
    return [
        (grant, of_limits[grant.limit_id], counter.settled, counter.granted)
        for grant in Grant.objects.filter(pool_id=pool.pk)
        if grant.limit_id in of_limits
        and (counter := of_counters.get((grant.limit_id, grant.period_start))) is not None
    ]


def _forget_old_periods() -> None:
    with connection.cursor() as cursor:
        for table in ("billing_counter", "billing_grant"):
            cursor.execute(
                f"DELETE FROM {table} c WHERE NOT EXISTS (SELECT FROM billing_limit l WHERE l.id = c.limit_id "
                "AND (c.period_start + CASE l.period WHEN 'day' THEN interval '1 day' ELSE interval '1 month' END "
                f"+ {_KEPT}) AT TIME ZONE 'UTC' > now())"
            )
