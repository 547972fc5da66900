"""One socket without a server: a slow reader, and what is sent after the end."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from core.errors import RateLimitExceeded, Starting
from embeddings import presence, rpc
from embeddings.connection import Connection, Notice
from embeddings.control_rows import ControlRows
from embeddings.pacing import SocketBounds
from embeddings.sockets import Sockets
from tests.embeddings.building import ACME, MALLORY, grant, snapshot
from tests.embeddings.planes import until


class Reader:
    """The client's side: takes what is sent only while it is open."""

    def __init__(self) -> None:
        self.taken: list[dict[str, Any]] = []
        self.is_open = asyncio.Event()

    async def send(self, message: Any) -> None:
        await self.is_open.wait()
        self.taken.append(message)

    @property
    def said(self) -> list[dict[str, Any]]:
        return [json.loads(each["text"]) for each in self.taken if "text" in each]

    @property
    def told(self) -> list[tuple[str, Any]]:
        return [(each["method"], each["params"]) for each in self.said]

    @property
    def answers(self) -> dict[Any, Any]:
        """By id: the code of an error, or the result."""
        return {each["id"]: each.get("result", each.get("error", {}).get("code")) for each in self.said if "id" in each}


class Known:
    """Who has this socket's key."""

    def known(self, digest: bytes) -> Any:
        return grant(), snapshot()


def asking(method: str, id: object, params: Any) -> str:
    return json.dumps({"jsonrpc": "2.0", "id": id, "method": method, "params": params})


def connected(reader: Reader, **bounds: Any) -> tuple[Sockets, Connection]:
    nobody: Any = None  # no key is asked for here
    sockets = Sockets(bounds=SocketBounds(**bounds), configuration=nobody, presence=nobody, rows=ControlRows())
    return sockets, sockets.open(reader.send, "127.0.0.1")


async def test_a_slow_reader_gets_the_newest_and_is_told_how_many_were_dropped():
    reader = Reader()
    sockets, connection = connected(reader, notifications=3)
    connection.notify(Notice("first", {}))
    await until(lambda: len(connection.outbox) == 0)  # it is being sent, and the reader does not take it
    for number in range(8):
        connection.notify(Notice("news", {"number": number}))
    assert len(connection.outbox) == 3
    reader.is_open.set()
    await until(lambda: len(reader.told) == 5)
    assert reader.told == [
        ("first", {}),
        ("resync", {"reason": "dropped", "dropped": 5}),
        ("news", {"number": 5}),
        ("news", {"number": 6}),
        ("news", {"number": 7}),
    ]
    assert sockets.statistics()["notices_dropped"] == 5
    await until(lambda: sockets.statistics()["tasks"] == 0)


def authenticated(reader: Reader, **bounds: Any) -> tuple[Sockets, Connection, asyncio.Event]:
    """A socket whose key is known; what is long is answered once the event is set."""
    sockets, connection = connected(reader, **bounds)
    known: Any = Known()
    sockets.configuration, connection.digest = known, b"of its key"
    may_answer = asyncio.Event()

    async def answer(running: Any, params: Any) -> Any:
        await may_answer.wait()
        return rpc.result(running.asked, {"done": True})

    async def cancel(running: Any, params: Any) -> Any:
        was_there = await connection.give_up(connection.in_flight[False, params.id])
        return rpc.result(running.asked, {"cancelled": was_there})

    sockets.handlers = {"embedding.generate": answer, "embedding.cancel": cancel}
    return sockets, connection, may_answer


async def test_a_slow_reader_gets_the_answer_of_what_it_gave_up_whatever_else_is_dropped():
    reader = Reader()
    sockets, connection, may_answer = authenticated(reader, notifications=1)
    await connection.take(asking("embedding.generate", "x", {"input": "a"}))
    connection.notify(Notice("first", {}))
    taking = asyncio.create_task(connection.take(asking("embedding.cancel", "c", {"id": "x"})))
    await until(lambda: connection.replying == 1)
    for number in range(5):
        connection.notify(Notice("news", {"number": number}))
    reader.is_open.set()
    await taking
    assert (list(reader.answers), reader.answers) == (["x", "c"], {"x": -32014, "c": {"cancelled": True}})
    may_answer.set()
    await until(lambda: connection.under_way == sockets.statistics()["tasks"] == 0)
    assert [each.get("id") for each in reader.said].count("x") == 1


async def test_answers_that_are_not_taken_count_among_the_requests_in_flight():
    reader = Reader()
    sockets, connection, may_answer = authenticated(reader, in_flight=2)
    may_answer.set()
    for id in ("a", "b"):
        await connection.take(asking("embedding.generate", id, {"input": "a"}))
    await until(lambda: connection.replying == 2)
    taking = asyncio.create_task(connection.take(asking("embedding.generate", "c", {"input": "a"})))
    reader.is_open.set()
    await taking
    await until(lambda: sockets.statistics()["tasks"] == 0)
    assert reader.answers == {"a": {"done": True}, "b": {"done": True}, "c": -32011}


async def test_large_answers_that_are_not_taken_have_a_bound_and_one_alone_has_room():
    reader = Reader()
    sockets, connection, _ = authenticated(reader)

    async def answer(running: Any, params: Any) -> Any:
        connection.hold(running, params.dimensions * 2**20)
        return rpc.result(running.asked, {"done": True})

    sockets.handlers = {"embedding.generate": answer}
    for id, megabytes in (("a", 100), ("b", 1)):
        await connection.take(asking("embedding.generate", id, {"input": "a", "dimensions": megabytes}))
    await until(lambda: connection.replying == 2)
    assert connection.held == 100 * 2**20
    reader.is_open.set()
    await until(lambda: connection.under_way == connection.held == 0)
    for id, megabytes in (("c", 40), ("d", 40)):
        reader.is_open.clear()
        await connection.take(asking("embedding.generate", id, {"input": "a", "dimensions": megabytes}))
    await until(lambda: connection.replying == 2)
    reader.is_open.set()
    await until(lambda: sockets.statistics()["tasks"] == 0)
    assert reader.answers == {"a": {"done": True}, "b": -32011, "c": {"done": True}, "d": -32011}
    assert connection.held == 0


async def test_a_tenant_has_half_of_the_room_for_large_answers_and_all_have_a_bound():
    sockets, connection = connected(Reader())
    assert sockets.hold(ACME, 128 * 2**20)
    assert not sockets.hold(ACME, 1)
    assert sockets.hold(MALLORY, 100 * 2**20)
    connection.tenant_id = UUID(int=3)
    running: Any = SimpleNamespace(held=0)
    with pytest.raises(RateLimitExceeded, match=r"in this process; wait\.$"):
        connection.hold(running, 29 * 2**20)
    sockets.let_go(ACME, 128 * 2**20)
    connection.hold(running, 29 * 2**20)
    assert (connection.held, sockets.statistics()["held"]) == (29 * 2**20, 129 * 2**20)


async def test_the_last_word_comes_before_the_close_and_nothing_after_it():
    reader = Reader()
    reader.is_open.set()
    sockets, connection = connected(reader)
    connection.close(4409, "replaced", telling=Notice("session.replaced", {}))
    connection.close(4401, "too late")
    await until(lambda: sockets.statistics()["tasks"] == 0)
    connection.notify(Notice("news", {}))
    await connection.send("more")
    assert reader.told == [("session.replaced", {})]
    assert reader.taken[1:] == [{"type": "websocket.close", "code": 4409, "reason": "replaced"}]


async def test_a_draining_process_waits_for_who_has_answers_to_come_and_not_for_who_comes():
    reader, late = Reader(), Reader()
    reader.is_open.set()
    sockets, connection = connected(reader)
    waiting: Any = object()
    connection.in_flight["a request"] = waiting
    draining = asyncio.create_task(sockets.drain(5))
    await until(lambda: sockets.is_draining)
    sockets.open(late.send, "127.0.0.1")
    assert not connection.is_closing
    del connection.in_flight["a request"]
    await until(lambda: reader.taken)
    assert reader.taken[0]["code"] == 1012
    sockets.closed(connection)
    await asyncio.wait_for(draining, 2)
    await sockets.close()


class Nobody:
    """Presence of a tenant that has no other socket anywhere."""

    renew_s = 60.0

    def leave(self, session: Any) -> None: ...

    async def statuses(self, tenant_id: Any, agent_ids: Any, now_ms: int) -> dict[str, str]:
        return {}


class Rows:
    """A database that is away at first."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[str], str]] = []

    async def run(self, act: Any, **_: Any) -> None:
        self.asked.append((act.keywords["agent_ids"], act.keywords["status"]))
        if len(self.asked) == 1:
            raise Starting("The database cannot be reached now.", retry_after=1)


async def test_who_left_while_the_database_was_away_is_noted_once_it_is_back(monkeypatch):
    monkeypatch.setattr("embeddings.sockets._BEAT_S", 0.01)
    known: Any = Known()
    nobody: Any = Nobody()
    rows: Any = Rows()
    sockets = Sockets(bounds=SocketBounds(), configuration=known, presence=nobody, rows=rows)
    connection = sockets.open(Reader().send, "127.0.0.1")
    connection.digest, connection.tenant_id, connection.agent_id = b"of its key", grant().tenant_id, "walker"
    connection.session = presence.begin(connection.tenant_id, "walker", 1)
    sockets.belongs(connection)
    sockets.start()
    sockets.closed(connection)
    await until(lambda: len(rows.asked) == 2)
    assert rows.asked == [(["walker"], "offline")] * 2
    await sockets.close()
