"""The ledger's writer on a PostgreSQL of its own: shared commits, refused rows, restarts, unknown outcomes."""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import time
from decimal import Decimal

import psycopg
import pytest

from billing.ledger import Ledger
from config.up.ports import free_port
from config.up.postgres import THROWAWAY, EmbeddedPostgres
from core.errors import InternalError, LedgerUnavailable
from tests.billing.records import provider_call, usage

TABLES = importlib.import_module("billing.migrations.0001_initial").TABLES
COLUMNS = importlib.import_module("billing.migrations.0004_adjustments").COLUMNS
PAYER = importlib.import_module("billing.migrations.0006_paid_by").COLUMN
SECONDS = 20.0  # for what must happen, however busy the machine is


@pytest.fixture(scope="module")
def postgres(tmp_path_factory):
    server = EmbeddedPostgres(tmp_path_factory.mktemp("ledger") / "data", free_port(), "pw", THROWAWAY)
    server.initialise()
    server.start()
    server.wait_until_ready()
    server.create_database(owner="quiver", password="pw", database="quiver")
    with psycopg.connect(server.url("quiver", "pw", "quiver")) as connection:
        connection.execute(TABLES)
        connection.execute(COLUMNS)
        connection.execute(PAYER)
        connection.execute("ALTER TABLE billing_usagerow ADD COLUMN pool bigint")
    yield server
    server.stop("immediate")


@pytest.fixture
def address(postgres):
    url = postgres.url("quiver", "pw", "quiver")
    with psycopg.connect(url) as connection:
        connection.execute("TRUNCATE billing_usagerow, billing_providercall")
    return url


@pytest.fixture
async def ledger(address):
    ledger = Ledger(address, wait_s=5.0)
    ledger.start()
    await ledger.ready(within_s=SECONDS)
    yield ledger
    await ledger.close()


def rows(address, query="SELECT id::text, status, tokens, cost_usd FROM billing_usagerow ORDER BY id"):
    with psycopg.connect(address) as connection:
        return connection.execute(query).fetchall()


async def until(look):
    """Waits for something that must become true."""
    async with asyncio.timeout(SECONDS):
        while not look():
            await asyncio.sleep(0.01)


async def restart_at_once(postgres) -> None:
    """Without holding up the clients. It is spawned by this thread: it ends with the thread that spawned it."""
    postgres.process.send_signal(signal.SIGQUIT)
    await asyncio.to_thread(postgres.process.wait)
    postgres.start()
    await asyncio.to_thread(postgres.wait_until_ready)


def backend_of(address) -> int:
    return rows(address, "SELECT pid FROM pg_stat_activity WHERE application_name = 'quiver-ledger'")[0][0]


async def test_a_committed_row_is_there_whole_with_its_calls(ledger, address):
    asked = usage(cost_nano=12_345_678_901, task_type="search", agent_id="agent", model_id=None, provider_tokens=None)
    call = provider_call(asked, outcome="server", status=503, tokens=None, detail="HTTP 503")
    await ledger.commit(asked, (call,))
    columns = "id::text, created_at = to_timestamp(%s / 1000.0), cost_usd, task_type, agent_id, model_id"
    found = rows(address, f"SELECT {columns % asked.created_ms}, provider_tokens FROM billing_usagerow")
    assert found == [(asked.id, True, Decimal("12.345678901"), "search", "agent", None, None)]
    assert rows(address, "SELECT request_id::text, outcome, status, detail FROM billing_providercall") == [
        (asked.id, "server", 503, "HTTP 503")
    ]


async def test_many_that_wait_share_commits(ledger, address):
    asked = [usage() for _ in range(300)]
    await asyncio.gather(*(ledger.commit(each, (provider_call(each),)) for each in asked))
    assert len(rows(address)) == 300
    assert ledger.statistics()["commits"] <= 3
    assert ledger.statistics()["pending"] == 0


async def test_a_failed_requests_row_is_written_though_nobody_waits_for_it(ledger, address):
    failed = usage(status="provider_error", tokens=0, cost_nano=0)
    ledger.note(failed, (provider_call(failed),))
    await ledger.commit(usage(), ())
    assert (failed.id, "provider_error", 0, 0) in rows(address)


@pytest.mark.parametrize(
    "fault",
    [
        {"task_type": "a\x00b"},
        {"task_type": "\ud800"},
        {"tokens": 3},  # more than was held
        {"tokens": -1},
        {"provider": "p" * 64},
        {"tokens": 2**63, "held_tokens": 2**63},
        {"latency_ms": float("nan")},
    ],
    ids=["NUL", "no UTF-8", "above the hold", "negative", "too long", "too large", "NaN"],
)
async def test_a_row_refused_for_itself_fails_alone(ledger, address, fault):
    before, bad, after = usage(), usage(**fault), usage()
    outcomes = await asyncio.gather(*(ledger.commit(e, ()) for e in (before, bad, after)), return_exceptions=True)
    assert [type(each) for each in outcomes] == [type(None), InternalError, type(None)]
    await ledger.commit(usage(), ())  # the writer lives
    assert {row[0] for row in rows(address)} >= {before.id, after.id}
    assert bad.id not in {row[0] for row in rows(address)}
    assert ledger.statistics()["pending"] == 0


async def test_the_same_row_twice_is_one_row(ledger, address):
    asked = usage()
    call = provider_call(asked)
    await ledger.commit(asked, (call,))
    await ledger.commit(asked, (call,))
    await asyncio.gather(ledger.commit(asked, (call,)), ledger.commit(asked, (call,)))
    assert len(rows(address)) == 1
    assert rows(address, "SELECT count(*) FROM billing_providercall") == [(1,)]


async def test_after_an_unknown_outcome_the_row_that_was_committed_stands(ledger, address):
    """The first copy was committed; its caller gave up and the second copy comes uncharged."""
    asked = usage()
    await ledger.commit(asked, ())
    ledger.note(usage(id=asked.id, created_ms=asked.created_ms, tokens=0, cost_nano=0, status="ledger_unavailable"), ())
    await ledger.commit(usage(), ())
    assert (asked.id, "ok", 2, Decimal("0.00000004")) in rows(address)
    assert len(rows(address)) == 2


async def test_a_caller_that_leaves_before_the_commit_is_not_charged(address):
    ledger = Ledger(address, wait_s=5.0)  # not started: the row waits
    asked = usage()
    waiting = asyncio.create_task(ledger.commit(asked, ()))
    await until(lambda: ledger.statistics()["pending"] == 1)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    ledger.start()
    await until(lambda: rows(address))
    await ledger.close()
    assert rows(address) == [(asked.id, "cancelled", 0, 0)]


async def test_closing_writes_what_waits(address):
    ledger = Ledger(address, wait_s=5.0)
    ledger.start()
    await ledger.ready(within_s=SECONDS)
    ledger.note(usage(), ())
    await ledger.close()
    assert len(rows(address)) == 1


async def test_closing_while_connecting_does_not_wait(address):
    ledger = Ledger(address, wait_s=60.0)
    ledger.start()
    started = time.monotonic()
    await ledger.close()
    assert time.monotonic() - started < SECONDS


async def test_a_lost_connection_loses_nothing(ledger, address):
    os.kill(backend_of(address), signal.SIGTERM)
    asked = usage()
    await ledger.commit(asked, ())
    assert rows(address) == [(asked.id, "ok", 2, Decimal("0.00000004"))]


async def test_nobody_is_ready_without_postgresql():
    ledger = Ledger(f"postgresql://nobody@127.0.0.1:{free_port()}/none", wait_s=60.0)
    ledger.start()
    started = time.monotonic()
    with pytest.raises(LedgerUnavailable) as refused:
        await ledger.ready(within_s=0.05)
    assert time.monotonic() - started < 5
    assert (refused.value.status, refused.value.retry_after, ledger.is_up) == (503, 1, False)
    await ledger.close()
    assert time.monotonic() - started < SECONDS  # nothing is pending, so nothing is waited for


@pytest.mark.slow
async def test_who_waited_too_long_gets_a_503_and_no_charge(postgres, address):
    ledger = Ledger(address, wait_s=0.5)
    ledger.start()
    await ledger.ready(within_s=SECONDS)
    postgres.stop("immediate")
    asked = usage()
    started = time.monotonic()
    with pytest.raises(LedgerUnavailable):
        await ledger.commit(asked, ())
    waited = time.monotonic() - started
    with pytest.raises(LedgerUnavailable):
        await ledger.ready(within_s=SECONDS)
    postgres.start()
    postgres.wait_until_ready()
    await until(lambda: rows(address))
    await ledger.close()
    assert 0.4 <= waited < 3
    assert rows(address) == [(asked.id, "ledger_unavailable", 0, 0)]


@pytest.mark.slow
async def test_a_server_that_says_nothing_any_more_holds_nobody_for_ever(address):
    ledger = Ledger(address, wait_s=1.0)
    ledger.start()
    await ledger.ready(within_s=SECONDS)
    await ledger.commit(usage(), ())
    silent = backend_of(address)
    os.kill(silent, signal.SIGSTOP)
    try:
        asked = usage()
        async with asyncio.timeout(6):  # waiting for the server to confirm a cancelling would take ten more
            outcome = await asyncio.gather(ledger.commit(asked, ()), return_exceptions=True)
            await ledger.commit(usage(), ())  # on a new connection
    finally:
        os.kill(silent, signal.SIGCONT)
    await ledger.close()
    assert [type(each) for each in outcome] in ([LedgerUnavailable], [type(None)])
    assert len(rows(address)) == 3


@pytest.mark.slow
async def test_restarts_in_mid_load_lose_nothing_and_double_nothing(postgres, address, capsys):
    ledger = Ledger(address, wait_s=20.0)
    ledger.start()
    await ledger.ready(within_s=SECONDS)
    committed: list[str] = []
    stopped = asyncio.Event()

    async def client() -> None:
        while not stopped.is_set():
            asked = usage()
            await ledger.commit(asked, (provider_call(asked),))
            committed.append(asked.id)

    clients = [asyncio.create_task(client()) for _ in range(32)]
    for _ in range(3):
        enough = len(committed) + 500
        await until(lambda: len(committed) >= enough)  # noqa: B023
        await restart_at_once(postgres)
    enough = len(committed) + 500
    await until(lambda: len(committed) >= enough)
    stopped.set()
    await asyncio.gather(*clients)
    await ledger.close()
    found = [row[0] for row in rows(address)]
    with capsys.disabled():
        print(f"\nledger, 3 restarts: {len(committed)} commits, {len(found)} rows")  # noqa: T201
    assert sorted(found) == sorted(committed)
    assert rows(address, "SELECT count(*) FROM billing_providercall") == [(len(committed),)]
    assert rows(address, "SELECT DISTINCT status FROM billing_usagerow") == [("ok",)]
