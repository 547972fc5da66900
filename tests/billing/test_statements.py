"""Statements on a psycopg connection, on a PostgreSQL of their own: what comes through, and how they fail."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import uvloop

from billing.statements import Statements
from config.up.ports import free_port
from config.up.postgres import THROWAWAY, EmbeddedPostgres

INSERT = "INSERT INTO kept SELECT a || b FROM (SELECT %s::text AS a, %s::text AS b) AS given"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = EmbeddedPostgres(tmp_path_factory.mktemp("statements") / "data", free_port(), "pw", THROWAWAY)
    server.initialise()
    server.start()
    server.wait_until_ready()
    server.create_database(owner="quiver", password="pw", database="quiver")
    yield server.url("quiver", "pw", "quiver")
    server.stop("immediate")


@pytest.fixture
async def connection(address: str) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    found = await psycopg.AsyncConnection.connect(address, autocommit=True)
    await found.execute("DROP TABLE IF EXISTS kept")
    await found.execute("CREATE TABLE kept (text text UNIQUE)")
    yield found
    await found.close()


@pytest.fixture
async def statements(connection: psycopg.AsyncConnection[Any]) -> AsyncIterator[Statements]:
    found = Statements(connection)
    yield found
    found.close()


def kept(address: str) -> list[str]:
    with psycopg.connect(address) as other:
        return [row[0] for row in other.execute("SELECT text FROM kept ORDER BY text")]


async def test_a_statement_runs_again_and_again_with_other_parameters(statements: Statements, address: str) -> None:
    for number in range(3):
        await statements.run(INSERT, [b"row ", b"%d" % number])
    assert kept(address) == ["row 0", "row 1", "row 2"]


async def test_more_than_a_socket_takes_at_once_comes_through(statements: Statements, address: str) -> None:
    await statements.run("CREATE TABLE IF NOT EXISTS large (text text)", [])
    async with asyncio.timeout(30):
        await statements.run("INSERT INTO large SELECT %s::text", [b"x" * 30_000_000])
    with psycopg.connect(address) as other:
        assert other.execute("SELECT length(text) FROM large").fetchone() == (30_000_000,)


async def test_an_error_is_psycopgs_own_and_the_next_statement_runs(statements: Statements, address: str) -> None:
    await statements.run(INSERT, [b"a", b""])
    with pytest.raises(psycopg.errors.UniqueViolation):
        await statements.run(INSERT, [b"a", b""])
    with pytest.raises(psycopg.errors.UndefinedTable):
        await statements.run("INSERT INTO nowhere SELECT %s::text", [b"a"])
    await statements.run(INSERT, [b"b", b""])
    assert kept(address) == ["a", "b"]


async def test_a_connection_that_breaks_fails_the_statement_and_all_after_it(
    statements: Statements, connection: psycopg.AsyncConnection[Any], address: str
) -> None:
    running = asyncio.ensure_future(statements.run("SELECT pg_sleep(%s::float8)", [b"60"]))
    with psycopg.connect(address, autocommit=True) as other:
        async with asyncio.timeout(30):
            while not other.execute("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'").fetchall():
                await asyncio.sleep(0.01)
        other.execute("SELECT pg_terminate_backend(%s)", [connection.info.backend_pid])
    async with asyncio.timeout(30):
        with pytest.raises(psycopg.OperationalError):
            await running
        with pytest.raises(psycopg.OperationalError):
            await statements.run(INSERT, [b"a", b""])


async def test_a_socket_whose_number_is_somebody_elses_by_now_is_left_alone(
    connection: psycopg.AsyncConnection[Any], statements: Statements, address: str
) -> None:
    """libpq closes the socket itself when the server has gone, and the next one to open may get its number."""
    number = connection.fileno()
    with psycopg.connect(address, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s)", [connection.info.backend_pid])
    async with asyncio.timeout(30):
        while connection.pgconn.status != psycopg.pq.ConnStatus.BAD:
            await asyncio.sleep(0.01)
    ours, theirs = socket.socketpair()
    os.dup2(ours.fileno(), number)
    received: list[bytes] = []
    asyncio.get_running_loop().add_reader(number, lambda: received.append(os.read(number, 10)))
    statements.close()
    theirs.send(b"still here")
    async with asyncio.timeout(30):
        while not received:
            await asyncio.sleep(0.01)
    asyncio.get_running_loop().remove_reader(number)
    os.close(number)


LAST_WORDS = b"SWARNING\0C57P02\0Mterminating connection because of crash of another server process\0\0"


class Relay:
    """Stands between psycopg and its server, until it dies as a killed server does: with last words, and with what was
    sent to it unread, so that the connection is reset."""

    def __init__(self, address: str) -> None:
        self._to = urlsplit(address)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._is_deaf = threading.Event()
        self._thread = threading.Thread(target=self._pass_on)
        self._thread.start()
        port = self._listener.getsockname()[1]
        self.address = self._to._replace(netloc=f"{self._to.username}:{self._to.password}@127.0.0.1:{port}").geturl()

    def _pass_on(self) -> None:
        self._client, _ = self._listener.accept()
        with socket.create_connection((self._to.hostname, self._to.port)) as server:
            other = {self._client: server, server: self._client}
            while not self._is_deaf.is_set():
                for ready in select.select(list(other), [], [], 0.01)[0]:
                    other[ready].sendall(ready.recv(65536))

    def turn_deaf(self) -> None:
        self._is_deaf.set()
        self._thread.join()

    def die(self) -> None:
        select.select([self._client], [], [], 30)
        self._client.sendall(b"N" + (len(LAST_WORDS) + 4).to_bytes(4) + LAST_WORDS)
        self._client.close()
        self._listener.close()


def test_a_server_that_dies_with_last_words_fails_what_runs(address: str) -> None:
    """On the loop that web workers run on, which tells of a reset once only."""

    async def story() -> None:
        relay = Relay(address)
        connection = await psycopg.AsyncConnection.connect(relay.address, autocommit=True)
        statements = Statements(connection)
        relay.turn_deaf()
        running = asyncio.ensure_future(statements.run(INSERT, [b"a", b""]))
        await asyncio.sleep(0)  # it is sent
        relay.die()
        async with asyncio.timeout(30):
            with pytest.raises(psycopg.OperationalError):
                await running
        await connection.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(story())


async def test_who_waits_no_longer_fails_what_runs(statements: Statements) -> None:
    running = asyncio.ensure_future(statements.run("SELECT pg_sleep(%s::float8)", [b"60"]))
    await asyncio.sleep(0)
    statements.give_up()
    with pytest.raises(psycopg.OperationalError):
        await running


async def test_nothing_is_sent_over_what_was_given_up_as_its_last_answer_came(
    statements: Statements, address: str
) -> None:
    """It could be committed, and nobody would hear of it."""
    await statements.run(INSERT, [b"a", b""])
    statements.give_up()
    with pytest.raises(psycopg.OperationalError):
        await statements.run(INSERT, [b"b", b""])
    assert kept(address) == ["a"]
