"""A client of agents' sockets, written from the protocol alone: JSON, `struct` and the `msgpack` package."""

from __future__ import annotations

import asyncio
import itertools
import json
import struct
import zlib
from collections.abc import Callable
from typing import Any, Self

import msgpack
import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

HEADER = struct.Struct(">IBBHQHHI")
MAGIC = 0x4D435057
GENERATE, BATCH, REGISTER, HEARTBEAT, PING, PONG = 64, 65, 66, 67, 8, 9
REQUEST, RESPONSE, NOTIFICATION, ERROR, BATCHED, PROGRESS = 0, 1, 2, 3, 6, 7
SOON = 10.0


class Refused(Exception):
    """An error that was answered."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error)
        self.code: int = error["code"]
        self.data: dict[str, Any] = error["data"]
        self.message: str = error["message"]


class Reply:
    """A binary frame that came."""

    def __init__(self, data: bytes) -> None:
        magic, version, self.type, self.flags, self.sequence, self.method, _, size = HEADER.unpack_from(data)
        assert (magic, version, size) == (MAGIC, 1, len(data) - HEADER.size)
        payload = data[HEADER.size :]
        self.body = msgpack.unpackb(zlib.decompress(payload) if self.flags & 1 else payload)

    @property
    def vectors(self) -> Any:
        return vectors_of(self.body)


def vectors_of(body: dict[str, Any]) -> Any:
    return np.frombuffer(body["vectors"], "<f4").reshape(body["count"], body["dimensions"])


def frame(method: int, params: object, *, type: int = REQUEST, flags: int = 0, sequence: int = 1) -> bytes:
    payload = msgpack.packb(params)
    if flags & 1:
        payload = zlib.compress(payload)
    return HEADER.pack(MAGIC, 1, type, flags, sequence, method, 0, len(payload)) + payload


class Agent:
    """`async with Agent(port, key) as agent`."""

    def __init__(self, port: int, key: str = "", *, path: str = "/ws/v1/agents", **options: Any) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        options = {"additional_headers": headers, "max_size": None, "compression": None, **options}
        self._connect = connect(f"ws://127.0.0.1:{port}{path}", **options)
        self._ids = itertools.count(1)
        self._waiting: dict[object, asyncio.Future[Any]] = {}
        self.news: list[dict[str, Any]] = []  # notifications
        self.stray: list[Any] = []  # answers that nobody waited for
        self._has_come = asyncio.Event()

    async def __aenter__(self) -> Self:
        self.wire: ClientConnection = await self._connect.__aenter__()
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._reader.cancel()
        await self.wire.close()

    async def call(self, method: str, params: Any = None, **words: Any) -> Any:
        """The result; raises `Refused`."""
        return await asyncio.wait_for(self.ask(method, params, **words), SOON * 3)

    def ask(self, method: str, params: Any = None, *, id: object = None, **words: Any) -> asyncio.Future[Any]:
        """Asks now; the future gets the result. (`id_` in words stands for a parameter `id`.)"""
        if "id_" in words:
            words["id"] = words.pop("id_")
        id = next(self._ids) if id is None else id
        future = self._waiting[False, id] = asyncio.get_running_loop().create_future()
        text = json.dumps({"jsonrpc": "2.0", "id": id, "method": method, "params": params or words})
        self._send(text)
        return future

    def ask_binary(self, method: int, params: object, **frame_words: Any) -> asyncio.Future[Reply]:
        sequence = frame_words.pop("sequence", None) or next(self._ids)
        future = self._waiting[True, sequence] = asyncio.get_running_loop().create_future()
        self._send(frame(method, params, sequence=sequence, **frame_words))
        return future

    async def call_binary(self, method: int, params: object, **frame_words: Any) -> Reply:
        return await asyncio.wait_for(self.ask_binary(method, params, **frame_words), SOON * 3)

    async def raw(self, data: str | bytes) -> Any:
        """Sends something odd; the next answer that belongs to no request."""
        self.stray.clear()
        await self.wire.send(data)
        await self.until(lambda: self.stray)
        return self.stray[0]

    async def register(self, agent_id: str, **facts: Any) -> Any:
        return await self.call("agent.register", agent_id=agent_id, **facts)

    async def until(self, is_so: Callable[[], object], seconds: float = SOON) -> None:
        """Lets things come until something is true."""
        async with asyncio.timeout(seconds):
            while not is_so():
                self._has_come.clear()
                await self._has_come.wait()

    async def told(self, name: str, seconds: float = SOON) -> dict[str, Any]:
        """The parameters of the first notification of this name."""
        await self.until(lambda: any(each["method"] == name for each in self.news), seconds)
        found: dict[str, Any] = next(each["params"] for each in self.news if each["method"] == name)
        return found

    async def close_code(self, seconds: float = SOON) -> int | None:
        """Waits until the server has closed."""
        await asyncio.wait_for(self.wire.wait_closed(), seconds)
        return self.wire.close_code

    def _send(self, data: str | bytes) -> None:
        # In order, though nobody waits: the lock of the connection's writing is fair.
        self._sending = asyncio.ensure_future(self.wire.send(data))
        self._sending.add_done_callback(lambda done: done.exception())

    async def _read(self) -> None:
        try:
            async for data in self.wire:
                self._take(data)
                self._has_come.set()
        except ConnectionClosed:
            pass
        finally:
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(ConnectionError("closed"))
                    future.exception()  # whoever waits is told all the same
            self._has_come.set()

    def _take(self, data: str | bytes) -> None:
        if isinstance(data, bytes):
            reply = Reply(data)
            if reply.type == NOTIFICATION:
                self.news.append(reply.body)
                return
            if reply.type == PROGRESS:
                self.news.append({"method": "embedding.progress", "params": reply.body})
                return
            name: tuple[bool, object] = (True, reply.sequence)
            if name not in self._waiting:  # asked in text, answered with bytes
                name = (False, reply.body.get("id"))
            self._answer(name, reply, reply.body if reply.type == ERROR else None, reply)
            return
        said = json.loads(data)
        if "method" in said:
            self.news.append(said)
        else:
            self._answer((False, said["id"]), said.get("result"), said.get("error"), said)

    def _answer(self, name: tuple[bool, object], result: Any, error: Any, whole: Any) -> None:
        future = self._waiting.pop(name, None)
        if future is None:
            self.stray.append(whole)
        elif error is not None:
            future.set_exception(Refused(error))
        else:
            future.set_result(result)
