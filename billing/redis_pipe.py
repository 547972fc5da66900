"""One pipelined connection to Redis for a whole process: limits, cache and breakers of the data plane share it.

Owns the connection, and that whatever is asked in one turn of the loop goes out in one write. Every call gives a
future at once; nothing here awaits on a request's way. What the commands mean is their callers' business.

Failure: Redis away → `RedisAway` at once, and a new connection is tried in the background; silent for `patience_s`
→ `RedisAway` for who waits and for who comes, until it says something again. An answer that comes too late is dropped:
its command may have been carried out, so callers name what they do such that it can be found and undone.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import ssl
import time
from collections import deque
from typing import Any, cast

import hiredis
from redis.asyncio.connection import SSLConnection, parse_url

log = logging.getLogger(__name__)

Word = bytes | str | int | float
_CONNECT_TIMEOUT_S = 2.0
_RETRY_S = 0.25
_SILENT_FOR_GOOD = 20  # times `patience_s`: then the connection itself is given up


class RedisAway(Exception):
    """Redis cannot be reached, or does not answer in time."""


class Script:
    """A Lua script, loaded on every connection before it is used."""

    def __init__(self, source: str) -> None:
        self.source = source.encode()
        self.sha = hashlib.sha1(self.source, usedforsecurity=False).hexdigest()


class _Wire(asyncio.Protocol):
    """Pairs replies with the calls they answer, in order."""

    def __init__(self) -> None:
        self.lost = asyncio.get_running_loop().create_future()
        self.waiting: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._reader = hiredis.Reader(notEnoughData=_Nothing)
        self._out: list[bytes] = []
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by behaviour, not by class

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not _Nothing:
            future, _ = self.waiting.popleft()
            if future.done():
                continue
            if isinstance(reply, hiredis.ReplyError):
                future.set_exception(reply)
            else:
                future.set_result(reply)

    def connection_lost(self, error: Exception | None) -> None:
        for future, _ in self.waiting:
            if not future.done():
                future.set_exception(RedisAway("the connection broke"))
        self.waiting.clear()
        if not self.lost.done():
            self.lost.set_result(None)

    def send(self, command: bytes, future: asyncio.Future[Any], now: float) -> None:
        self.waiting.append((future, now))
        if not self._out:
            asyncio.get_running_loop().call_soon(self._flush)
        self._out.append(command)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _flush(self) -> None:
        out, self._out = self._out, []
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(out))


class _Nothing:
    """What the reader says when a reply is not complete."""


class RedisPipe:
    def __init__(self, url: str, *, patience_s: float = 0.5, scripts: tuple[Script, ...] = ()) -> None:
        self._place = parse_url(url)
        self._patience_s = patience_s
        self._scripts = scripts
        self._wire: _Wire | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._is_silent = False
        self._calls = 0
        self._connections = 0
        self.run_id = ""  # of the server; another one means that data may have been lost

    def start(self) -> None:
        """Connects in the background, again and again."""
        self._keeper = asyncio.get_running_loop().create_task(self._keep(), name="redis-pipe")

    async def close(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)

    @property
    def is_up(self) -> bool:
        return self._wire is not None and not self._is_silent

    def call(self, *words: Word) -> asyncio.Future[Any]:
        """Sends a command. The future raises `RedisAway`, or hiredis' `ReplyError` where Redis refuses."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        wire = self._wire
        # A connection that has just broken answers nobody who comes now, though it is still ours for a moment.
        if wire is None or self._is_silent or wire.lost.done():
            future.set_exception(RedisAway("not connected"))
            return future
        self._calls += 1
        wire.send(hiredis.pack_command(words), future, time.monotonic())  # type: ignore[arg-type]  # the stub knows one word only
        return future

    def run(self, script: Script, key: Word, *arguments: Word) -> asyncio.Future[Any]:
        """Runs a script over one key."""
        return self.call(b"EVALSHA", script.sha, 1, key, *arguments)

    def statistics(self) -> dict[str, int]:
        waiting = len(self._wire.waiting) if self._wire is not None else 0
        return {"calls": self._calls, "waiting": waiting, "connections": self._connections}

    async def _keep(self) -> None:
        """The connection's life: connect, watch, begin again."""
        was_up = True
        while True:
            try:
                async with asyncio.timeout(_CONNECT_TIMEOUT_S):  # `wait_for` can lose a cancellation to a refusal
                    wire = await self._connect()
            except (OSError, TimeoutError, RedisAway, hiredis.ReplyError) as error:
                if was_up:
                    log.warning("redis: cannot connect: %s", type(error).__name__)
                was_up = False
            else:
                self._wire, self._is_silent, was_up = wire, False, True
                self._connections += 1
                try:
                    await self._watch(wire)
                finally:
                    self._wire = None
                    wire.close()
                log.warning("redis: the connection broke")
            await asyncio.sleep(_RETRY_S)

    async def _watch(self, wire: _Wire) -> None:
        """Returns when the connection is lost. One clock for all calls: a timer for each costs more than the call."""
        while not wire.lost.done():
            await asyncio.wait([wire.lost], timeout=self._patience_s / 4)
            oldest = time.monotonic() - wire.waiting[0][1] if wire.waiting else 0.0
            self._is_silent = oldest > self._patience_s
            if self._is_silent:
                for future, _ in wire.waiting:
                    if not future.done():
                        future.set_exception(RedisAway("no answer in time"))
            if oldest > self._patience_s * _SILENT_FOR_GOOD:
                return

    async def _connect(self) -> _Wire:
        """Connected, signed in, scripts loaded."""
        loop, place = asyncio.get_running_loop(), self._place
        if "path" in place:
            _, wire = await loop.create_unix_connection(_Wire, place["path"])
        else:
            tls = ssl.create_default_context() if place.get("connection_class") is SSLConnection else None
            address = (place.get("host", "localhost"), place.get("port", 6379))
            _, wire = await loop.create_connection(_Wire, *address, ssl=tls)
        try:
            if "password" in place:
                user = (place["username"],) if "username" in place else ()
                await self._ask(wire, b"AUTH", *user, place["password"])
            await self._ask(wire, b"SELECT", place.get("db", 0))
            info: bytes = await self._ask(wire, b"INFO", b"server")
            self.run_id = info.partition(b"run_id:")[2].partition(b"\r")[0].decode()
            for script in self._scripts:
                await self._ask(wire, b"SCRIPT", b"LOAD", script.source)
        except BaseException:
            wire.close()
            raise
        return wire

    @staticmethod
    async def _ask(wire: _Wire, *words: Word) -> Any:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        wire.send(hiredis.pack_command(words), future, time.monotonic())  # type: ignore[arg-type]  # the stub knows one word only
        return await future


def ignore(future: asyncio.Future[Any]) -> None:
    """For a call whose outcome nobody waits for: its failure is noticed by the one that finds what is missing."""
    future.add_done_callback(_look)


def _look(future: asyncio.Future[Any]) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        future.exception()
