"""One pipelined connection to Redis for a whole process: limits, cache and breakers of the data plane share it.

Owns the connection, and that whatever is asked in one turn of the loop goes out in one write: a write costs more than
everything else about a command. What nobody waits for (`tell`, `tell_all`) leaves with the next call, or a moment later
by itself. Every call gives a future at once; nothing here awaits on a request's way. What the commands mean is their
callers' business.

Failure: Redis away → `RedisAway` at once, and a new connection is tried in the background; silent for `patience_s`
→ `RedisAway` for who waits and for who comes, until it says something again. An answer that comes too late is dropped:
its command may have been carried out, so callers name what they do such that it can be found and undone.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import ssl
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, cast

import hiredis
from redis.asyncio.connection import SSLConnection, parse_url

log = logging.getLogger(__name__)

Word = bytes | str | int | float
_CONNECT_TIMEOUT_S = 2.0
_TELL_WITHIN_S = 0.002
_RETRY_S = 0.25
_SILENT_FOR_GOOD = 20  # times `patience_s`: then the connection itself is given up


class RedisAway(Exception):
    """Redis cannot be reached, or does not answer in time."""


class Script:
    """A Lua script, loaded on every connection before it is used."""

    def __init__(self, source: str) -> None:
        self.source = source.encode()
        self.sha = hashlib.sha1(self.source, usedforsecurity=False).hexdigest()


class Prepared:
    """What a command begins with each time, written down once: packing the words of a long one costs more than all else
    about it."""

    __slots__ = ("_begin", "_words")

    def __init__(self, *words: Word) -> None:
        self._words = len(words)
        self._begin = packed(*words).partition(b"\r\n")[2]  # how many words there are is known once all are

    def followed_by(self, *words: bytes) -> bytes:
        """The whole command, for `call_packed` and `tell_packed`."""
        rest = b"".join([b"$%d\r\n%b\r\n" % (len(each), each) for each in words])
        return b"*%d\r\n%b%b" % (self._words + len(words), self._begin, rest)


class _Told:
    """Commands that were told together: how many of them failed, once all have been answered."""

    __slots__ = ("done", "failed", "left")

    def __init__(self, commands: int) -> None:
        self.done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.left = commands
        self.failed = 0

    def answered(self, *, is_refusal: bool) -> None:
        self.left -= 1
        self.failed += is_refusal
        if not self.left and not self.done.done():
            self.done.set_result(self.failed)


_Waiter = asyncio.Future[Any] | _Told | None  # None: nobody


class _Wire(asyncio.Protocol):
    """Pairs replies with the calls they answer, in order."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.lost = self._loop.create_future()
        self.waiting: deque[tuple[_Waiter, float]] = deque()
        self._reader = hiredis.Reader(notEnoughData=_Nothing)
        self._out: list[bytes] = []
        self._is_leaving = False  # what is in `_out` goes with this turn of the loop
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by behaviour, not by class

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not _Nothing:
            waiter, _ = self.waiting.popleft()
            if waiter is None:
                continue
            is_refusal = isinstance(reply, hiredis.ReplyError)
            if isinstance(waiter, _Told):
                waiter.answered(is_refusal=is_refusal)
            elif not waiter.done():
                if is_refusal:
                    waiter.set_exception(reply)
                else:
                    waiter.set_result(reply)

    def connection_lost(self, error: Exception | None) -> None:
        waiting, self.waiting = self.waiting, deque()
        for waiter, _ in waiting:
            if isinstance(waiter, _Told):
                waiter.answered(is_refusal=True)
        _give_up(waiting, "the connection broke")
        if not self.lost.done():
            self.lost.set_result(None)

    def send(self, command: bytes) -> asyncio.Future[Any]:
        """Leaves with this turn of the loop."""
        reply: asyncio.Future[Any] = self._loop.create_future()
        self.waiting.append((reply, time.monotonic()))
        self._out.append(command)
        if not self._is_leaving:
            self._is_leaving = True
            self._loop.call_soon(self.flush)
        return reply

    def keep(self, commands: Sequence[bytes], waiter: _Waiter) -> None:
        """Leaves with what is sent next, or soon."""
        self.waiting.extend([(waiter, time.monotonic())] * len(commands))
        self._out += commands
        if self._timer is None:
            self._timer = self._loop.call_later(_TELL_WITHIN_S, self._ring)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def flush(self) -> None:
        self._is_leaving = False
        out, self._out = self._out, []
        if out and self._transport is not None and not self._transport.is_closing():
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))

    def _ring(self) -> None:
        self._timer = None
        if not self._is_leaving:
            self.flush()


def _give_up(waiting: Iterable[tuple[_Waiter, float]], why: str) -> None:
    """Tells those who wait that no answer will do any more."""
    for waiter, _ in waiting:
        if isinstance(waiter, asyncio.Future) and not waiter.done():
            waiter.set_exception(RedisAway(why))


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
        if self._wire is not None:
            self._wire.flush()
            await asyncio.sleep(0)  # the transport writes in the loop's next turn
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)

    @property
    def is_up(self) -> bool:
        return self._connected() is not None

    def call(self, *words: Word) -> asyncio.Future[Any]:
        """Sends a command. The future raises `RedisAway`, or hiredis' `ReplyError` where Redis refuses."""
        return self.call_packed(packed(*words))

    def call_packed(self, command: bytes) -> asyncio.Future[Any]:
        """The same, of a command that is packed already (`Prepared`)."""
        wire = self._connected()
        if wire is not None:
            self._calls += 1
            return wire.send(command)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        future.set_exception(RedisAway("not connected"))
        return future

    def tell(self, *words: Word) -> None:
        """A command whose outcome nobody waits for: its failure is noticed by the one that finds what is missing."""
        self.tell_packed(packed(*words))

    def tell_packed(self, command: bytes) -> None:
        """The same, of a command that is packed already (`Prepared`)."""
        wire = self._connected()
        if wire is not None:
            self._calls += 1
            wire.keep((command,), None)

    def tell_all(self, commands: Sequence[bytes]) -> asyncio.Future[int]:
        """Several, packed, of which one wants to know later how many failed; the future never raises."""
        told, wire = _Told(len(commands)), self._connected()
        if wire is None:
            told.done.set_result(len(commands))
            return told.done
        self._calls += len(commands)
        wire.keep(commands, told)
        return told.done

    def run(self, script: Script, key: Word, *arguments: Word) -> asyncio.Future[Any]:
        """Runs a script over one key."""
        return self.call(b"EVALSHA", script.sha, 1, key, *arguments)

    def statistics(self) -> dict[str, int]:
        waiting = len(self._wire.waiting) if self._wire is not None else 0
        return {"calls": self._calls, "waiting": waiting, "connections": self._connections}

    def _connected(self) -> _Wire | None:
        """A connection that has just broken answers nobody who comes now, though it is still ours for a moment."""
        wire = self._wire
        return None if wire is None or self._is_silent or wire.lost.done() else wire

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
            was_silent, self._is_silent = self._is_silent, oldest > self._patience_s
            if self._is_silent:
                if not was_silent:
                    log.warning("redis: no answer in %.1f s", oldest)
                _give_up(wire.waiting, "no answer in time")
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
        return await wire.send(packed(*words))


def packed(*words: Word) -> bytes:
    """A command as Redis reads it."""
    command: bytes = hiredis.pack_command(words)  # type: ignore[arg-type]  # the stub knows one word only
    return command


def packed_set(key: bytes, value: bytes, expires_s: int) -> bytes:
    """`SET key value EX expires_s` in one go, which takes a third of the time."""
    until = b"%d" % expires_s
    words = (len(key), key, len(value), value, len(until), until)
    return b"*5\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n$2\r\nEX\r\n$%d\r\n%b\r\n" % words
