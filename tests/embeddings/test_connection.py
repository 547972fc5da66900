"""One socket without a server: a slow reader, and what is sent after the end."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from embeddings.connection import Connection, Notice
from embeddings.control_rows import ControlRows
from embeddings.pacing import SocketBounds
from embeddings.sockets import Sockets
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
    def told(self) -> list[tuple[str, Any]]:
        said = [json.loads(each["text"]) for each in self.taken if "text" in each]
        return [(each["method"], each["params"]) for each in said]


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
