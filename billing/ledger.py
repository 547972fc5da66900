"""The ledger's writer: usage rows are committed before their answers leave.

Owns group commit: while one INSERT runs, the rows of other requests gather; the next INSERT takes them all, so nobody
waits for a timer and every row shares its transaction with those that came while the last one ran. Rows of calls to
providers travel in the same statement.

Failure: PostgreSQL away. Waiting answers are held back for `wait_s`, then `LedgerUnavailable`; `ready()` makes new
requests wait likewise, before any provider is called. A connection that broke in mid-commit leaves the outcome unknown:
the same rows are sent again, and their key (the id and its time) makes the second one a no-op. A row whose caller got a
503 is rewritten as uncharged before it is sent again; should the first, charged one have been committed after all, it
stands (the provider was paid), and shows as a row without an answer. A row that PostgreSQL refuses for itself fails
alone: its batch is sent again row by row.

A request with an `Idempotency-Key` carries its claim (`billing.idempotency`), which the same statement marks as
charged. A claim that is gone or charged already is not charged: the row is written with source `replay` and cost 0.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping
from uuid import UUID

import msgspec
import psycopg

from billing.statements import Statements
from core.errors import InternalError, LedgerUnavailable

log = logging.getLogger(__name__)

REPLAY = "replay"  # source of a row that repeats, at the platform's cost, what was charged already
MOST_ROWS_PER_COMMIT = 500
MOST_PENDING = 20_000  # rows that wait for PostgreSQL; beyond it, requests are refused, never rows dropped
_CONNECT_TIMEOUT_S = 3
# What a row brings upon itself. A ValueError is Python's, of text that is no UTF-8.
_REFUSALS = (psycopg.DataError, psycopg.IntegrityError, ValueError)
_FIRST_RETRY_S, _LONGEST_RETRY_S = 0.05, 0.5


class CallRecord(msgspec.Struct, frozen=True, gc=False):
    """One call to a provider, as `billing.models.ProviderCall` keeps it."""

    id: str
    created_ms: int
    tenant_id: UUID
    request_id: str
    model_id: UUID
    model: str
    provider: str
    credential_id: str
    items: int
    tokens: int | None
    outcome: str
    status: int | None
    detail: str
    upstream_id: str
    latency_ms: float


class UsageRecord(msgspec.Struct, frozen=True, gc=False):
    """One request, as `billing.models.UsageRow` keeps it; `created_ms` is the time in `id`, money in nano-dollars."""

    id: str
    created_ms: int
    tenant_id: UUID
    key_id: UUID
    agent_id: str
    model_id: UUID | None
    model: str
    provider: str
    space: str
    dimensions: int
    items: int
    cached: int
    tokens: int
    held_tokens: int
    provider_tokens: int | None
    estimated: bool
    cost_nano: int
    source: str
    status: str
    task_type: str
    latency_ms: float
    provider_latency_ms: float
    attempts: int
    pool: int | None = None  # that the charge was spent from (`billing.limits.Hold.pool`)
    own_price: bool = False
    paid_by: str = "platform"  # who pays the provider: the platform, or the tenant with a credential of its own


class _Entry:
    """A usage row with its calls, the claim that it charges, and who waits for it."""

    __slots__ = ("calls", "claim_id", "done", "due", "usage")

    def __init__(
        self,
        usage: UsageRecord,
        calls: tuple[CallRecord, ...],
        due: float,
        done: asyncio.Future[None] | None,
        claim_id: UUID | None = None,
    ) -> None:
        self.usage = usage
        self.calls = calls
        self.claim_id = claim_id
        self.due = due
        self.done = done

    def uncharge(self, status: str) -> None:
        """For a row whose caller gets no answer. In vain for one that is being committed at this moment."""
        self.done = self.claim_id = None
        self.usage = msgspec.structs.replace(self.usage, tokens=0, cost_nano=0, status=status)


def _columns(record: type[msgspec.Struct]) -> tuple[str, str, str]:
    """Column list, select list and record definition for a struct of the same names."""
    types: Mapping[object, str] = {UUID: "uuid", int: "bigint", str: "text", bool: "boolean", float: "float8"}
    names, selects, definitions = [], [], []
    for field in msgspec.structs.fields(record):
        plain = next(t for t in types if t is field.type or t in getattr(field.type, "__args__", ()))
        column, select = {
            "id": ("id", "id::uuid"),
            "request_id": ("request_id", "request_id::uuid"),
            "created_ms": ("created_at", "'epoch'::timestamptz + created_ms * interval '1 millisecond'"),
            "cost_nano": ("cost_usd", "cost_nano * 0.000000001"),
        }.get(field.name, (field.name, field.name))
        names.append(column)
        selects.append(select)
        definitions.append(f"{field.name} {types[plain]}")
    return ", ".join(names), ", ".join(selects), ", ".join(definitions)


def _statement(*, claims: bool) -> str:
    """The common one, or that for batches in which rows carry claims (one more parameter, the first)."""
    usage, calls = _columns(UsageRecord), _columns(CallRecord)
    # JSON because one parameter of any length costs the worker least (measured: 3 µs a row, arrays 19).
    # No conflict target: with one, a role that may only INSERT would need SELECT as well.
    start, selected, source = "WITH ", usage[1], f"json_to_recordset(%s::json) AS r({usage[2]})"
    if claims:
        # Two that race for one claim meet on its row: the second waits, and then finds it charged.
        start = (
            "WITH asked AS (SELECT * FROM json_to_recordset(%s::json) AS a(request text, claim uuid)), "
            "charged AS (UPDATE billing_idempotencyclaim c SET charged = true FROM asked a "
            "WHERE c.id = a.claim AND NOT c.charged RETURNING a.request), "
            "late AS (SELECT request FROM asked EXCEPT SELECT request FROM charged), "
        )
        source += " LEFT JOIN late ON late.request = r.id"
        for column, free in (("tokens", "0"), ("cost_nano * 0.000000001", "0"), ("source", f"'{REPLAY}'")):
            case = f"CASE WHEN late.request IS NULL THEN {column} ELSE {free} END"
            selected = ", ".join(case if each == column else each for each in selected.split(", "))
    return (
        f"{start}calls AS (INSERT INTO billing_providercall ({calls[0]}) SELECT {calls[1]} "
        f"FROM json_to_recordset(%s::json) AS r({calls[2]}) ON CONFLICT DO NOTHING) "
        f"INSERT INTO billing_usagerow ({usage[0]}) SELECT {selected} FROM {source} ON CONFLICT DO NOTHING"
    )


class Ledger:
    """One writer per process, on one connection of its own."""

    def __init__(self, conninfo: str, *, wait_s: float) -> None:
        self._conninfo = conninfo
        self._wait_s = wait_s
        self._pending: list[_Entry] = []
        self._wake = asyncio.Event()
        self._up = asyncio.Event()
        self._connection: psycopg.AsyncConnection[object] | None = None
        self._statements: Statements | None = None
        self._writer: asyncio.Task[None] | None = None
        self._rows = 0
        self._commits = 0
        self._is_closing = False
        self.commit_seconds = 0.0  # of the last commit
        self._encode = msgspec.json.Encoder().encode
        self._sql, self._sql_with_claims = _statement(claims=False), _statement(claims=True)

    def start(self) -> None:
        self._writer = asyncio.get_running_loop().create_task(self._write(), name="ledger")

    async def close(self) -> None:
        """Writes what is pending, for at most `wait_s`, then stops."""
        self._is_closing = True
        self._wake.set()
        if self._writer is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._writer), self._wait_s)
            self._writer.cancel()
            await asyncio.gather(self._writer, return_exceptions=True)
        if self._pending:
            log.error("ledger closed with %d rows unwritten", len(self._pending))
        await self._disconnect()

    async def ready(self, *, within_s: float) -> None:
        """Returns when rows can be written as far as is known. Raises `LedgerUnavailable` after `wait_s`, or
        `within_s` if that is less."""
        if self._up.is_set() and len(self._pending) < MOST_PENDING:
            return
        try:
            async with asyncio.timeout(min(self._wait_s, within_s)):
                await self._up.wait()
        except TimeoutError:
            raise self._unavailable() from None
        if len(self._pending) >= MOST_PENDING:
            raise self._unavailable()

    @property
    def is_up(self) -> bool:
        return self._up.is_set()

    async def commit(self, usage: UsageRecord, calls: tuple[CallRecord, ...], claim_id: UUID | None = None) -> None:
        """Returns once the row is committed. Raises `LedgerUnavailable` after `wait_s`; nothing is charged then."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = _Entry(usage, calls, time.monotonic() + self._wait_s, done, claim_id)
        self._pending.append(entry)
        self._wake.set()
        try:
            await done
        except asyncio.CancelledError:
            entry.uncharge("cancelled")
            raise

    def note(self, usage: UsageRecord, calls: tuple[CallRecord, ...]) -> None:
        """Writes a row that no answer waits for (a request that failed)."""
        if len(self._pending) < MOST_PENDING:
            self._pending.append(_Entry(usage, calls, 0.0, None))
            self._wake.set()
        else:
            log.error("ledger full: the row of failed request %s is lost", usage.id)

    def statistics(self) -> dict[str, float]:
        return {"pending": len(self._pending), "rows": self._rows, "commits": self._commits, "up": self._up.is_set()}

    async def _write(self) -> None:
        """The writer's life: connect, then commit whatever gathered, until closed."""
        pause = _FIRST_RETRY_S
        while not (self._is_closing and not self._pending):
            try:
                if self._connection is None:
                    self._connection = await self._connect()
                    self._statements = Statements(self._connection)
                    self._up.set()
                    pause = _FIRST_RETRY_S
                if not self._pending:
                    self._wake.clear()
                    if not self._is_closing:
                        await self._wake.wait()
                    continue
                await self._commit_pending()
            except Exception as error:  # noqa: BLE001  without a writer every answer would wait for ever
                if self._up.is_set():
                    log.warning("ledger: %s; %d rows wait", type(error).__name__, len(self._pending))
                self._up.clear()
                await self._disconnect()
                self._give_up_on_overdue()
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_RETRY_S)

    async def _commit_pending(self) -> None:
        batch = self._pending[:MOST_ROWS_PER_COMMIT]
        try:
            await self._insert(batch)
        except _REFUSALS:
            await self._commit_one_by_one(batch)
        else:
            self._settle(batch)

    async def _commit_one_by_one(self, batch: list[_Entry]) -> None:
        for entry in batch:
            try:
                await self._insert([entry])
            except _REFUSALS as error:
                log.error("ledger: the row of request %s is refused: %s", entry.usage.id, type(error).__name__)
                if entry.done is not None and not entry.done.done():
                    entry.done.set_exception(InternalError("The usage of this request could not be recorded."))
                self._pending.remove(entry)
            else:
                self._settle([entry])

    async def _insert(self, batch: list[_Entry]) -> None:
        started = time.monotonic()
        assert self._statements is not None
        calls = self._encode([call for entry in batch for call in entry.calls])
        usage = self._encode([entry.usage for entry in batch])
        sql = self._sql
        parameters: tuple[bytes, ...] = (calls, usage)
        if any(entry.claim_id is not None for entry in batch):
            asked = [{"request": e.usage.id, "claim": e.claim_id} for e in batch if e.claim_id is not None]
            sql, parameters = self._sql_with_claims, (self._encode(asked), *parameters)
        timer = asyncio.get_running_loop().call_later(self._wait_s, self._statements.give_up)
        try:
            await self._statements.run(sql, parameters)
        finally:
            timer.cancel()
        self.commit_seconds = time.monotonic() - started

    def _settle(self, batch: list[_Entry]) -> None:
        """Takes committed rows (the oldest pending) off and lets their answers go."""
        del self._pending[: len(batch)]
        self._rows += len(batch)
        self._commits += 1
        for entry in batch:
            if entry.done is not None and not entry.done.done():
                entry.done.set_result(None)

    async def _connect(self) -> psycopg.AsyncConnection[object]:
        return await psycopg.AsyncConnection.connect(
            self._conninfo,
            autocommit=True,
            connect_timeout=_CONNECT_TIMEOUT_S,
            application_name="quiver-ledger",
            client_encoding="utf8",  # of the rows' JSON
        )

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            if self._statements is not None:
                self._statements.close()
            with contextlib.suppress(psycopg.Error, OSError):
                await connection.close()

    def _give_up_on_overdue(self) -> None:
        now = time.monotonic()
        for entry in self._pending:
            if entry.done is not None and entry.due <= now:
                if not entry.done.done():
                    entry.done.set_exception(self._unavailable())
                entry.uncharge(LedgerUnavailable.code)

    @staticmethod
    def _unavailable() -> LedgerUnavailable:
        return LedgerUnavailable("The ledger cannot be written now; nothing was charged. Try again.", retry_after=1)
