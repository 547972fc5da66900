"""A tenant with limits, a Valkey that may be harmed, and workers that hold and settle: for the tests of limits."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Coroutine, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID, uuid4

from django.db import connection
from psycopg.conninfo import make_conninfo

from billing.ledger import Ledger
from billing.limits import SCRIPTS, Hold, HoldAsk, Limits, LimitTerms
from billing.loading import terms_of
from billing.models import Limit
from billing.redis_pipe import RedisPipe
from billing.services import add_limit
from config.up.ports import free_port
from config.up.valkey import EmbeddedValkey
from core.clock import unix_ms
from core.ids import uuid7_text
from tests.billing.records import usage
from tests.up.processes import eventually

T = TypeVar("T")
ROOT = Path(__file__).resolve().parent.parent.parent
MODEL = UUID(int=7)
PRICE = 3  # nano-dollars a token
SECONDS = 30.0  # for what must happen, however busy the machine is


def conninfo() -> str:
    """The test's own database, for those who do not go through Django."""
    words = connection.settings_dict
    return make_conninfo(
        host=words["HOST"], port=words["PORT"], user=words["USER"], password=words["PASSWORD"], dbname=words["NAME"]
    )


def start_valkey(home: Path, *, durable: bool = False) -> EmbeddedValkey:
    server = EmbeddedValkey(home, free_port(), "secret", durable=durable)
    server.start()
    server.wait_until_ready()
    return server


def limit(tenant_id: UUID, measure: str, period: str, amount: int, mode: str = "hard", **scope: str) -> LimitTerms:
    """A limit that is older than anything that happens; an amount of money in nano-dollars."""
    value = Decimal(amount).scaleb(-9) if measure == Limit.Measure.USD else Decimal(amount)
    words = {"scope": "tenant", "scope_id": "", **scope}
    row = add_limit(tenant_id=tenant_id, measure=measure, period=period, mode=mode, amount=value, **words)
    with connection.cursor() as cursor:  # nothing is under way that does not know of it
        cursor.execute("UPDATE billing_counter SET recount_at = NULL WHERE limit_id = %s", [row.id])
    return terms_of(row)


def ask(tenant_id: UUID, limits: tuple[LimitTerms, ...], tokens: int = 1, *, created_ms: int | None = None) -> HoldAsk:
    """A request at the price of the house."""
    ms = unix_ms() if created_ms is None else created_ms
    return HoldAsk(tenant_id, uuid7_text(ms), ms, MODEL, limits, tokens, tokens * PRICE)


def row_of(asked: HoldAsk, hold: Hold, tokens: int) -> Any:
    """The usage row of a request that was served."""
    return usage(
        id=asked.request_id,
        created_ms=asked.created_ms,
        tenant_id=asked.tenant_id,
        model_id=asked.model_id,
        tokens=tokens,
        held_tokens=asked.tokens,
        provider_tokens=tokens,
        cost_nano=tokens * PRICE,
        pool=hold.pool,
    )


class Worker:
    """What one worker process has of limits; its loop runs while it is told to do something."""

    def __init__(self, redis_url: str, *, lease_s: float = 60.0, patience_s: float = 0.3) -> None:
        self._runner = asyncio.Runner()
        self.run(self._start(redis_url, lease_s, patience_s))

    async def _start(self, redis_url: str, lease_s: float, patience_s: float) -> None:
        self.pipe = RedisPipe(redis_url, patience_s=patience_s, scripts=SCRIPTS)
        self.pipe.start()
        self.limits = Limits(conninfo(), self.pipe, lease_s=lease_s)
        self.limits.start()
        self.ledger = Ledger(conninfo(), wait_s=5.0)
        self.ledger.start()
        await self.ledger.ready(within_s=SECONDS)

    def run(self, doing: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(doing)

    def connect(self) -> None:
        """Waits until Redis answers."""
        self.run(self._until(lambda: self.pipe.is_up))

    def hold(self, asked: HoldAsk, *, replacing: Hold | None = None) -> Hold:
        return self.run(self.limits.hold(asked, replacing=replacing))

    def serve(self, asked: HoldAsk, tokens: int | None = None) -> Hold:
        """Hold, commit the row, settle."""
        hold = self.hold(asked)
        self.finish(asked, hold, asked.tokens if tokens is None else tokens)
        return hold

    def finish(self, asked: HoldAsk, hold: Hold, tokens: int) -> None:
        self.run(self.ledger.commit(row_of(asked, hold, tokens), ()))
        self.run(self._settle(hold, tokens))
        self.quiesce()

    def release(self, hold: Hold) -> None:
        self.run(self._release(hold))
        self.quiesce()

    def quiesce(self) -> None:
        """Lets arrive what nobody waits for."""
        self.run(self._drain())

    def stop(self) -> None:
        self.run(self._stop())
        self._runner.close()

    async def _settle(self, hold: Hold, tokens: int) -> None:
        self.limits.settle(hold, tokens=tokens, nano=tokens * PRICE)

    async def _release(self, hold: Hold) -> None:
        self.limits.release(hold)

    async def _drain(self) -> None:
        await asyncio.sleep(0)
        await asyncio.gather(*self.limits._late)
        if self.pipe.is_up:
            await asyncio.gather(self.pipe.call("PING"), return_exceptions=True)

    async def _stop(self) -> None:
        await self.limits.close()
        await self.ledger.close()
        await self.pipe.close()

    @staticmethod
    async def _until(look: Any) -> None:
        async with asyncio.timeout(SECONDS):
            while not look():
                await asyncio.sleep(0.01)


class Crowd:
    """Worker processes full of callers that all begin at once (`tests.billing.limit_crowd`)."""

    def __init__(self, redis_url: str, limits: Sequence[LimitTerms], *, tenant_id: UUID, **plan: Any) -> None:
        words = {
            "conninfo": conninfo(),
            "redis_url": redis_url,
            "tenant_id": str(tenant_id),
            "limits": [[str(t.limit_id), t.scope, t.scope_id, t.measure, t.period, t.mode, t.amount] for t in limits],
            "callers": 86,
            "requests": 1,
            "cost": 1,
            "lease_s": 60.0,
            "created_ms": unix_ms(),
            "pause_s": 0.0,
            **plan,
        }
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.billing.limit_crowd", json.dumps({**words, "seed": str(uuid4())})],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(words.pop("processes", 3))
        ]
        for each in self.processes:
            assert each.stdout is not None
            assert each.stdout.readline() == "ready\n"

    def go(self) -> None:
        for each in self.processes:
            assert each.stdin is not None
            each.stdin.write("go\n")
            each.stdin.flush()

    def results(self) -> dict[str, int]:
        """Of all that were not killed, summed."""
        total: dict[str, int] = {}
        for each in self.processes:
            said, _ = each.communicate(timeout=120)
            for name, number in (json.loads(said) if said.strip() else {}).items():
                total[name] = total.get(name, 0) + number
        return total


def charged(tenant_id: UUID) -> tuple[int, int, int]:
    """What the ledger says: requests, tokens, nano-dollars."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*), coalesce(sum(tokens), 0)::bigint, (coalesce(sum(cost_usd), 0) * 1000000000)::bigint "
            "FROM billing_usagerow WHERE tenant_id = %s AND status = 'ok'",
            [tenant_id],
        )
        found: tuple[int, int, int] = cursor.fetchone()
        return found


def until(look: Callable[[], object]) -> None:
    """Waits for something that must become true, however busy the machine is."""
    eventually(look, SECONDS)
