"""What a worker asks of PostgreSQL for limits: to open pools, and to grant them what they may spend.

A grant is one statement. It locks the pool, then the counters in the order of their keys (everybody does, so nobody
deadlocks), and gives a hard limit's counter no more than `settled + granted + n <= amount`, where `amount` is read from
the limit's row in that same statement. A pool that is closed is granted nothing.

Failure: PostgreSQL away or silent → `GrantsAway` within `patience_s`. A grant whose outcome is unknown is asked for
again; should it count twice, the pool's own total says so (Redis) or the reconciliation finds it (direct).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date
from typing import Any
from uuid import UUID

import msgspec
import psycopg

from billing.statements import cut

_CONNECTIONS = 4
_MOST_KNOWN = 10_000
_CONNECT_TIMEOUT_S = 3
_FAULTS = (psycopg.OperationalError, psycopg.InterfaceError, OSError)


class GrantsAway(Exception):
    """PostgreSQL cannot be reached, or does not answer in time."""


class PoolClosed(Exception):
    """The pool is granted nothing any more."""


@dataclass(frozen=True, slots=True)
class Wish:
    """Of one limit's period: at least `need`, better `wanted`; up to `block` while plenty is left."""

    limit_id: UUID
    start: date
    need: int
    wanted: int
    block: int = 0


class Granted(msgspec.Struct, frozen=True):
    """How a counter stands after a grant."""

    limit_id: UUID
    start: date
    given: int
    total: int  # of this pool
    base: int  # what all others account for
    left: int | None  # that could still be granted; None: any number (soft, shadow)
    fits: bool  # whether `need` was there


# The rows of what is asked for are locked in one order; `n` is decided on the locked rows. Everything that follows
# happens or fails with it. `whole`: nothing is given unless all of it fits.
_GRANT = """
WITH asked AS (
    SELECT * FROM json_to_recordset(%(wishes)s::json)
        AS r(limit_id uuid, start date, need bigint, wanted bigint, block bigint)
), pool AS (
    UPDATE billing_pool SET used_at = clock_timestamp() WHERE id = %(pool)s AND closed_at IS NULL RETURNING id
), locked AS (
    SELECT a.*, c.tenant_id, c.settled, c.granted, l.mode = 'hard' AS hard,
        least(CASE l.measure WHEN 'usd' THEN floor(l.amount * 1000000000) ELSE l.amount END, 9000000000000000)::bigint
            - c.settled - c.granted AS room
    FROM asked a
    JOIN billing_counter c ON c.limit_id = a.limit_id AND c.period_start = a.start
    JOIN billing_limit l ON l.id = c.limit_id
    WHERE EXISTS (SELECT FROM pool)
    ORDER BY c.limit_id, c.period_start
    FOR NO KEY UPDATE OF c
), judged AS (
    SELECT *, NOT hard OR room >= need AS fits, bool_and(NOT hard OR room >= need) OVER () AS all_fit FROM locked
), sized AS (
    SELECT *, CASE
        WHEN NOT fits OR (%(whole)s AND NOT all_fit) THEN 0
        WHEN NOT hard THEN greatest(wanted, block)
        ELSE least(room, greatest(wanted, least(block, room / 8))) END AS n
    FROM judged
), counted AS (
    UPDATE billing_counter c SET granted = c.granted + s.n FROM sized s
    WHERE c.limit_id = s.limit_id AND c.period_start = s.start AND s.n > 0
), noted AS (
    INSERT INTO billing_grant AS g (limit_id, period_start, pool_id, tenant_id, given)
    SELECT limit_id, start, %(pool)s, tenant_id, n FROM sized
    ON CONFLICT (limit_id, period_start, pool_id) DO UPDATE SET given = g.given + excluded.given
    RETURNING limit_id, period_start, given
)
SELECT (SELECT count(*) FROM pool), s.limit_id, s.start, s.n, g.given, s.settled + s.granted + s.n - g.given,
    CASE WHEN s.hard THEN s.room - s.n END, s.fits
FROM (SELECT) AS always LEFT JOIN sized s ON true
LEFT JOIN noted g ON g.limit_id = s.limit_id AND g.period_start = s.start
"""
_COUNTERS = """
INSERT INTO billing_counter (limit_id, period_start, tenant_id, settled, granted)
SELECT l.id, a.start, l.tenant_id, 0, 0
FROM json_to_recordset(%(wishes)s::json) AS a(limit_id uuid, start date) JOIN billing_limit l ON l.id = a.limit_id
ON CONFLICT DO NOTHING
"""
_GIVE_BACK = """
WITH back AS (
    SELECT * FROM json_to_recordset(%(back)s::json) AS r(limit_id uuid, start date, n bigint)
), pool AS (
    SELECT id FROM billing_pool WHERE id = %(pool)s FOR NO KEY UPDATE
), locked AS (
    SELECT c.limit_id, c.period_start, b.n FROM back b
    JOIN billing_counter c ON c.limit_id = b.limit_id AND c.period_start = b.start
    WHERE EXISTS (SELECT FROM pool)
    ORDER BY c.limit_id, c.period_start
    FOR NO KEY UPDATE OF c
), returned AS (
    UPDATE billing_grant g SET given = g.given - b.n FROM locked b
    WHERE g.limit_id = b.limit_id AND g.period_start = b.period_start AND g.pool_id = %(pool)s
    RETURNING g.limit_id, g.period_start, b.n
)
UPDATE billing_counter c SET granted = c.granted - r.n FROM returned r
WHERE c.limit_id = r.limit_id AND c.period_start = r.period_start
"""
_NEW_POOL = (
    "INSERT INTO billing_pool (tenant_id, kind, opened_at, used_at) "
    "VALUES (%s, %s, clock_timestamp(), clock_timestamp()) RETURNING id"
)
_CLOSE_REDIS_POOLS = """
UPDATE billing_pool SET closed_at = clock_timestamp() WHERE tenant_id = %s AND kind = 'redis' AND closed_at IS NULL
"""
_encode = msgspec.json.Encoder().encode


class Opening:
    """A tenant's turn to look at its Redis pool and open another one: no other worker has it meanwhile."""

    def __init__(self, connection: psycopg.AsyncConnection[Any], tenant_id: UUID) -> None:
        self._connection = connection
        self._tenant_id = tenant_id

    async def is_open(self, pool_id: int) -> bool:
        found = await self._connection.execute(
            "SELECT FROM billing_pool WHERE id = %s AND tenant_id = %s AND closed_at IS NULL",
            (pool_id, self._tenant_id),
        )
        return await found.fetchone() is not None

    async def new(self) -> int:
        """Closes the tenant's Redis pool and opens the next one."""
        async with self._connection.transaction():
            await self._connection.execute(_CLOSE_REDIS_POOLS, (self._tenant_id,))
            found = await self._connection.execute(_NEW_POOL, (self._tenant_id, "redis"))
            return int((await found.fetchone())[0])  # type: ignore[index]  # an INSERT returns its row


class Grants:
    """A few connections, made when they are needed."""

    def __init__(self, conninfo: str, *, patience_s: float = 2.0) -> None:
        self._conninfo = conninfo
        self._patience_s = patience_s
        self._slots = asyncio.Semaphore(_CONNECTIONS)
        self._idle: list[psycopg.AsyncConnection[Any]] = []
        self._known: set[tuple[UUID, date]] = set()  # counters that are there

    async def close(self) -> None:
        while self._idle:
            await self._idle.pop().close()

    async def grant(self, pool_id: int, wishes: Sequence[Wish], *, whole: bool = False) -> list[Granted]:
        """What was given, for each limit that is there; one that is missing has been removed. Raises `PoolClosed`."""
        keys = {(each.limit_id, each.start) for each in wishes}
        words = {"wishes": _encode(wishes).decode(), "pool": pool_id, "whole": whole}
        if not keys <= self._known:  # the first ones of a period
            await self._run(_COUNTERS, words)
            self._known = (self._known if len(self._known) < _MOST_KNOWN else set()) | keys
        rows = await self._run(_GRANT, words, fetch=True)
        if not rows[0][0]:
            raise PoolClosed
        granted = [Granted(*row[1:]) for row in rows if row[1] is not None]
        missing = keys - {(each.limit_id, each.start) for each in granted}
        if missing:
            self._known -= missing
            query = "SELECT count(*) FROM billing_limit WHERE id = ANY(%s)"
            if (await self._run(query, ([limit_id for limit_id, _ in missing],), fetch=True))[0][0]:
                raise GrantsAway("a counter was removed, but not its limit")
        return granted

    async def give_back(self, pool_id: int, back: Sequence[tuple[UUID, date, int]]) -> None:
        """Takes from a direct pool what a request did not use."""
        rows = [{"limit_id": limit_id, "start": start, "n": n} for limit_id, start, n in back]
        await self._run(_GIVE_BACK, {"back": _encode(rows).decode(), "pool": pool_id})

    async def open_direct(self, tenant_id: UUID) -> int:
        """A pool of this worker's own."""
        rows = await self._run(_NEW_POOL, (tenant_id, "direct"), fetch=True)
        return int(rows[0][0])

    async def counters(self, keys: Sequence[tuple[UUID, date]]) -> dict[tuple[UUID, date], tuple[int, int]]:
        """Settled and granted, where there is a counter."""
        query = "SELECT limit_id, period_start, settled, granted FROM billing_counter WHERE limit_id = ANY(%s)"
        rows = await self._run(query, ([limit_id for limit_id, _ in keys],), fetch=True)
        return {(row[0], row[1]): (row[2], row[3]) for row in rows if (row[0], row[1]) in set(keys)}

    async def closed(self, pool_ids: Sequence[int]) -> set[int]:
        """Which of these pools are closed or gone."""
        query = "SELECT id FROM billing_pool WHERE id = ANY(%s) AND closed_at IS NULL"
        rows = await self._run(query, (list(pool_ids),), fetch=True)
        return set(pool_ids) - {row[0] for row in rows}

    @asynccontextmanager
    async def opening(self, tenant_id: UUID) -> AsyncIterator[Opening]:
        """The turn to open a tenant's Redis pool."""
        async with self._connected() as connection:
            name = f"quiver-pool-{tenant_id}"
            await connection.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", (name,))
            yield Opening(connection, tenant_id)
            await connection.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", (name,))

    async def _run(self, query: str, words: Any, *, fetch: bool = False) -> list[tuple[Any, ...]]:
        try:
            return await self._once(query, words, fetch)
        except GrantsAway:  # perhaps a connection from before a restart: the next one is new
            return await self._once(query, words, fetch)

    async def _once(self, query: str, words: Any, fetch: bool) -> list[tuple[Any, ...]]:
        async with self._connected() as connection:
            found = await connection.execute(query, words, prepare=True)
            return await found.fetchall() if fetch else []

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        """A connection of one's own for at most `patience_s`; it is used again unless something went wrong."""
        try:
            async with asyncio.timeout(self._patience_s):
                await self._slots.acquire()
        except TimeoutError:
            raise GrantsAway("all connections wait") from None
        try:
            try:
                connection = self._idle.pop() if self._idle else await self._connect()
            except _FAULTS as error:
                raise GrantsAway(type(error).__name__) from error
            timer = asyncio.get_running_loop().call_later(self._patience_s, cut, connection)
            is_well = False
            try:
                yield connection
                is_well = True
            except _FAULTS as error:
                raise GrantsAway(type(error).__name__) from error
            finally:
                timer.cancel()
                if is_well and not connection.closed:
                    self._idle.append(connection)
                else:
                    with contextlib.suppress(*_FAULTS):
                        await connection.close()
        finally:
            self._slots.release()

    async def _connect(self) -> psycopg.AsyncConnection[Any]:
        return await psycopg.AsyncConnection.connect(
            self._conninfo, autocommit=True, connect_timeout=_CONNECT_TIMEOUT_S, application_name="quiver-limits"
        )
