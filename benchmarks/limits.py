"""What a hold and its settling cost the worker: CPU µs a request at 64 at a time, by number of limits.

`python -m benchmarks limits`, on a Valkey and a PostgreSQL of its own, without Django in the way.
"""

from __future__ import annotations

import asyncio
import importlib
import tempfile
import time
from pathlib import Path
from uuid import UUID

import psycopg

from billing.limits import SCRIPTS, HoldAsk, Limits, LimitTerms
from billing.redis_pipe import RedisPipe
from config.up.ports import free_port
from config.up.postgres import THROWAWAY, EmbeddedPostgres
from config.up.valkey import EmbeddedValkey
from core.clock import unix_ms
from core.collector import calm_collector
from core.ids import uuid7_text

AT_ONCE, ROUNDS = 64, 10  # short, so that some of them go by undisturbed
KINDS = [
    (measure, period, mode)
    for mode in ("hard", "soft")
    for measure in ("tokens", "requests", "usd")
    for period in ("day", "month")
]
TENANT, MODEL = UUID(int=1), UUID(int=2)
AMOUNT = 4_000_000_000_000_000
TABLES = """
CREATE TABLE billing_limit (id uuid PRIMARY KEY, tenant_id uuid, measure text, mode text, amount numeric(20, 9));
CREATE TABLE billing_pool (id bigserial PRIMARY KEY, tenant_id uuid, kind text, opened_at timestamptz,
    used_at timestamptz, closed_at timestamptz);
CREATE TABLE billing_counter (limit_id uuid, period_start date, tenant_id uuid, settled bigint, granted bigint,
    recount_at timestamptz, PRIMARY KEY (limit_id, period_start));
CREATE TABLE billing_grant (limit_id uuid, period_start date, pool_id bigint, tenant_id uuid, given bigint,
    PRIMARY KEY (limit_id, period_start, pool_id));
"""


def limits_of(count: int) -> tuple[LimitTerms, ...]:
    """So many limits of a tenant, one of them a rate where there are several."""
    kinds = [("tokens", "minute", "hard"), *KINDS][0 if count > 1 else 1 :][:count]
    return tuple(LimitTerms(UUID(int=100 + n), "tenant", "", *kind, AMOUNT) for n, kind in enumerate(kinds))


async def measure(conninfo: str, redis_url: str, count: int, seconds: float) -> float:
    """CPU µs of this process for each request, at best: others on the machine can only add to it."""
    pipe = RedisPipe(redis_url, scripts=SCRIPTS, patience_s=5.0)
    pipe.start()
    engine = Limits(conninfo, pipe, lease_s=60.0)
    engine.start()
    while not pipe.is_up:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    await pipe.call("FLUSHALL")
    terms = limits_of(count)

    async def caller(rounds: int) -> None:
        for _ in range(rounds):
            ms = unix_ms()
            hold = await engine.hold(HoldAsk(TENANT, uuid7_text(ms), ms, MODEL, terms, 200, 4000))
            engine.settle(hold, tokens=180, nano=3600)

    async def idle(rounds: int) -> None:
        """What the measuring itself costs."""
        for _ in range(rounds):
            ms = unix_ms()
            HoldAsk(TENANT, uuid7_text(ms), ms, MODEL, terms, 200, 4000)
            await asyncio.sleep(0)

    await asyncio.gather(*(caller(50) for _ in range(AT_ONCE)))  # blocks have grown
    least, until = dict.fromkeys((caller, idle), float("inf")), time.monotonic() + seconds
    while least[idle] == float("inf") or time.monotonic() < until:
        for work in least:
            began = time.process_time()
            await asyncio.gather(*(work(ROUNDS) for _ in range(AT_ONCE)))
            least[work] = min(least[work], (time.process_time() - began) * 1e6 / (AT_ONCE * ROUNDS))
    await engine.close()
    await pipe.close()
    return least[caller] - least[idle]


def main(*, seconds: float) -> None:
    home = Path(tempfile.mkdtemp(prefix="quiver-limits-"))
    postgres = EmbeddedPostgres(home / "postgres", free_port(), "pw", THROWAWAY)
    valkey = EmbeddedValkey(home / "valkey", free_port(), "pw", durable=False)
    postgres.initialise()
    postgres.start()
    valkey.start()
    postgres.wait_until_ready()
    valkey.wait_until_ready()
    try:
        postgres.create_database(owner="quiver", password="pw", database="quiver")
        conninfo = postgres.url("quiver", "pw", "quiver")
        with psycopg.connect(conninfo) as connection:
            connection.execute(TABLES)
            for each in limits_of(10) + limits_of(1):
                connection.execute(
                    "INSERT INTO billing_limit VALUES (%s, %s, %s, %s, 9000000) ON CONFLICT DO NOTHING",
                    (each.limit_id, TENANT, each.measure, each.mode),
                )
            connection.execute("UPDATE billing_limit SET amount = 90000000000 WHERE measure <> 'usd'")
        calm_collector()  # as a web worker does
        uvloop = importlib.import_module("uvloop")
        for count in (0, 1, 2, 5, 10):
            print(f"{count:2} limits: {uvloop.run(measure(conninfo, valkey.url(0), count, seconds)):6.1f} µs")
    finally:
        valkey.stop()
        postgres.stop("immediate")
