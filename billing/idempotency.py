"""Claims on idempotency keys: the same request again is charged once and answered alike.

A claim is a row, one for each tenant and key, that lives for a day. Owns who may go on with a request (`claim`), what
is kept of its answer (`keep`) and when a key is free again (`forget`). That a claim is charged once is the ledger's
(`billing.ledger`): it marks the claim in the statement that books the request.

Whoever holds a claim has a lease. When it has run out (the worker died), the next one with the same request takes the
claim over by one conditional update; if the dead one had been charged already, at the platform's cost. An answer that
is too large to be kept ends its lease at once: the next one embeds again, likewise without a charge.

Failure: PostgreSQL away → `claim` waits for `wait_s`, then `LedgerUnavailable`, before any provider is called. An
answer that cannot be kept goes out all the same and is embedded again when it is asked for; a key that cannot be freed
frees itself when its lease runs out. Redis plays no part.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, LiteralString
from uuid import UUID

import psycopg
from psycopg.types.json import Json

from billing.statements import cut
from core.errors import IdempotencyInProgress, IdempotencyMismatch, LedgerUnavailable
from core.ids import uuid7

log = logging.getLogger(__name__)

LONGEST_KEY = 255
MOST_KEPT_BYTES = 1024 * 1024
KEPT_S = 24 * 3600.0
_MOST_CONNECTIONS = 4
_CONNECT_TIMEOUT_S = 3
_FIRST_RETRY_S, _LONGEST_RETRY_S = 0.05, 0.5

# The clock is PostgreSQL's: workers on several machines must agree on when a lease has run out.
# A claim with this request's own id is one that was made by a try whose outcome was lost.
_CLAIM: LiteralString = """
INSERT INTO billing_idempotencyclaim AS c
    (id, tenant_id, key_digest, body_digest, request_id, created_at, lease_until, expires_at, charged, headers)
VALUES (%(id)s, %(tenant_id)s, %(key)s, %(body)s, %(request_id)s, now(), now() + %(lease_s)s * interval '1 second',
    now() + %(kept_s)s * interval '1 second', false, '[]')
ON CONFLICT (tenant_id, key_digest) DO UPDATE SET
    id = CASE WHEN c.expires_at <= now() THEN excluded.id ELSE c.id END,
    charged = c.charged AND c.expires_at > now(),
    created_at = CASE WHEN c.expires_at <= now() THEN excluded.created_at ELSE c.created_at END,
    expires_at = CASE WHEN c.expires_at <= now() THEN excluded.expires_at ELSE c.expires_at END,
    body_digest = excluded.body_digest, request_id = excluded.request_id, lease_until = excluded.lease_until,
    status = NULL, headers = '[]', answer = NULL
WHERE c.request_id = excluded.request_id
    OR c.lease_until <= now() AND (c.expires_at <= now() OR c.status IS NULL AND c.body_digest = excluded.body_digest)
RETURNING id, charged
"""
_LOOK: LiteralString = """
SELECT body_digest, status, headers, answer FROM billing_idempotencyclaim WHERE tenant_id = %s AND key_digest = %s
"""
# Both let go of the lease, and only of one's own: after a takeover they change nothing.
_KEEP: LiteralString = """
UPDATE billing_idempotencyclaim
SET status = %(status)s, headers = %(headers)s, answer = %(answer)s, lease_until = now()
WHERE id = %(id)s AND request_id = %(request_id)s
"""
_FORGET: LiteralString = """
WITH kept AS (
    UPDATE billing_idempotencyclaim SET lease_until = now()
    WHERE id = %(id)s AND request_id = %(request_id)s AND charged
)
DELETE FROM billing_idempotencyclaim WHERE id = %(id)s AND request_id = %(request_id)s AND NOT charged
"""

Headers = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Fresh:
    """The caller goes on. `is_charged`: it was charged before, this time is at the platform's cost."""

    id: UUID
    request_id: str
    is_charged: bool


@dataclass(frozen=True, slots=True)
class Replay:
    """The answer as it went out the first time."""

    status: int
    headers: Headers
    body: bytes


def digest_of(body: bytes, others: Iterable[bytes]) -> bytes:
    """What makes two requests the same: the body as it came, and `others` that change its answer."""
    digest = hashlib.sha256(body)
    for each in others:
        digest.update(b"\0%d:%b" % (len(each), each))
    return digest.digest()


class Claims:
    """One per process, on a few connections of its own. `lease_s` must be longer than a request can take."""

    def __init__(self, conninfo: str, *, lease_s: float, wait_s: float, kept_s: float = KEPT_S) -> None:
        self._conninfo = conninfo
        self._lease_s = lease_s
        self._wait_s = wait_s
        self._kept_s = kept_s
        self._idle: list[psycopg.AsyncConnection[Any]] = []
        self._slots = asyncio.Semaphore(_MOST_CONNECTIONS)

    async def close(self) -> None:
        while self._idle:
            await _close(self._idle.pop())

    async def claim(
        self, *, tenant_id: UUID, key: bytes, body_digest: bytes, request_id: str, within_s: float
    ) -> Fresh | Replay:
        """Raises `IdempotencyInProgress`, `IdempotencyMismatch` or `LedgerUnavailable`."""
        key_digest = hashlib.sha256(key).digest()
        asked = {
            "id": uuid7(),
            "tenant_id": tenant_id,
            "key": key_digest,
            "body": body_digest,
            "request_id": request_id,
            "lease_s": self._lease_s,
            "kept_s": self._kept_s,
        }
        rows = await self._run(_CLAIM, asked, within_s)
        if rows:
            return Fresh(rows[0][0], request_id, rows[0][1])
        found = await self._run(_LOOK, (tenant_id, key_digest), within_s)
        # Nothing found: it was freed a moment ago. Asking again is as good as being told to.
        if found and found[0][0] != body_digest:
            raise IdempotencyMismatch(
                "This `Idempotency-Key` was used for another request; send a new key.", param="Idempotency-Key"
            )
        if not found or found[0][1] is None:
            raise IdempotencyInProgress(
                "The request with this `Idempotency-Key` is still under way; ask again for its answer.",
                param="Idempotency-Key",
                retry_after=1,
            )
        _, status, headers, answer = found[0]
        return Replay(status, [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers], answer)

    async def keep(self, claim: Fresh, *, status: int, headers: Headers, body: bytes) -> None:
        """Keeps the answer for who asks again, if it is small enough. Never raises what PostgreSQL does."""
        is_kept = len(body) <= MOST_KEPT_BYTES
        await self._try(
            _KEEP,
            {
                "id": claim.id,
                "request_id": claim.request_id,
                "status": status if is_kept else None,
                "headers": Json([(n.decode("latin-1"), v.decode("latin-1")) for n, v in headers] if is_kept else []),
                "answer": body if is_kept else None,
            },
        )

    async def forget(self, claim: Fresh) -> None:
        """Frees the key of a request that failed; what was charged all the same is not charged again."""
        await self._try(_FORGET, {"id": claim.id, "request_id": claim.request_id})

    async def _try(self, sql: LiteralString, parameters: dict[str, Any]) -> None:
        try:
            await self._run(sql, parameters)
        except LedgerUnavailable:
            log.warning("idempotency: request %s keeps its claim until its lease runs out", parameters["request_id"])

    async def _run(
        self, sql: LiteralString, parameters: dict[str, Any] | tuple[Any, ...], within_s: float = inf
    ) -> list[tuple[Any, ...]]:
        """The rows of one statement, tried again on a new connection until `wait_s` is over."""
        deadline = time.monotonic() + min(self._wait_s, within_s)
        pause = _FIRST_RETRY_S
        async with self._slots:
            while time.monotonic() < deadline:
                try:
                    return await self._once(sql, parameters, deadline)
                except (psycopg.OperationalError, psycopg.InterfaceError) as error:
                    log.info("idempotency: %s; trying again", type(error).__name__)
                    await self.close()  # what one connection lost, the idle ones have lost as well
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_RETRY_S)
        raise LedgerUnavailable(
            "Idempotency keys cannot be claimed now; nothing was charged. Try again.", retry_after=1
        )

    async def _once(
        self, sql: LiteralString, parameters: dict[str, Any] | tuple[Any, ...], deadline: float
    ) -> list[tuple[Any, ...]]:
        connection = self._idle.pop() if self._idle else await self._connect()
        # A server that says nothing any more would hold the request for ever.
        timer = asyncio.get_running_loop().call_later(max(0.0, deadline - time.monotonic()), cut, connection)
        is_whole = False
        try:
            cursor = await connection.execute(sql, parameters, prepare=True)
            rows = await cursor.fetchall() if cursor.description else []
            is_whole = True
            return rows
        finally:
            timer.cancel()
            if is_whole:
                self._idle.append(connection)
            else:
                await _close(connection)

    async def _connect(self) -> psycopg.AsyncConnection[Any]:
        return await psycopg.AsyncConnection.connect(
            self._conninfo, autocommit=True, connect_timeout=_CONNECT_TIMEOUT_S, application_name="quiver-claims"
        )


async def _close(connection: psycopg.AsyncConnection[Any]) -> None:
    with contextlib.suppress(psycopg.Error, OSError):
        await connection.close()
