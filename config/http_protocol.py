"""uvicorn's HTTP protocol with one write for an answer: the head and the body of an ASGI answer leave together, and so
do all frames that a WebSocket gets in one turn of the loop.

A write is a system call, and two of them for each answer cost as much as everything that the server does in between.
Serves the ASGI extensions by which a door hands over an answer whole (`WHOLE`), because uvicorn looks at each header
twice, which costs more than writing all of them, and gets a body that is there already (`BODY`) without waiting for
it. Idle connections are closed by one timer each, not by one for every answer. Everything else of HTTP is uvicorn's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from core.asgi import BODY, WHOLE

_COPIED_BYTES = 65_536  # beyond it, several pieces cost less than one copy
_LARGE_BODY = 65_536  # not copied twice
_EXTENSIONS: dict[str, dict[object, object]] = {WHOLE: {}}


class _Gathering:
    """A transport whose writes of one turn of the loop go out as one. All else is the transport's."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self.real = transport
        self._call_soon = loop.call_soon
        self._out: list[bytes] = []

    def write(self, data: bytes) -> None:
        if not self._out:
            self._call_soon(self.flush)
        self._out.append(data)

    def flush(self) -> None:
        out, self._out = self._out, []
        if out and not self.real.is_closing():
            if len(out) > 1 and sum(map(len, out)) > _COPIED_BYTES:
                self.real.writelines(out)
            else:
                self.real.write(out[0] if len(out) == 1 else b"".join(out))

    def close(self) -> None:
        self.flush()
        self.real.close()

    def write_eof(self) -> None:
        self.flush()
        self.real.write_eof()

    def abort(self) -> None:
        self._out.clear()
        self.real.abort()

    def is_closing(self) -> bool:
        return self.real.is_closing()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


class _Cycle(RequestResponseCycle):
    """One request and its answer."""

    async def send(self, message: Any) -> None:
        if message["type"] != WHOLE:
            await super().send(message)
            return
        if self.response_started:
            raise RuntimeError("An answer was sent already.")
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        head = self._head(message["status"], message["headers"])
        self.response_started = self.response_complete = True
        self.waiting_for_100_continue = False
        self.transport.write(head)
        if self.scope["method"] != "HEAD":
            self.transport.write(message["body"])
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()

    def _head(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
        lines = [STATUS_LINE[status], *[b"%b: %b\r\n" % each for each in (*self.default_headers, *headers)]]
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        lines.append(b"\r\n")
        head = b"".join(lines)
        if not head.count(b"\n") == head.count(b"\r") == len(lines):
            raise RuntimeError("A header has more than one line.")
        return head


class OneWriteProtocol(HttpToolsProtocol):
    """To be given to uvicorn as its `http` implementation."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(_Gathering(transport, self.loop))  # type: ignore[arg-type]
        self._idle_since = self.loop.time()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_looking()

    def handle_websocket_upgrade(self) -> None:
        self._stop_looking()  # what is idle there is for its own protocol to say
        super().handle_websocket_upgrade()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        cycle = self.cycle
        if cycle is not None and not cycle.more_body and len(cycle.body) <= _LARGE_BODY:
            cycle.scope[BODY] = bytes(cycle.body)  # type: ignore[literal-required]

    def on_response_complete(self) -> None:
        """uvicorn's own, but for the timer: one that is there stays, and looks for itself since when nothing came."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            return
        self._idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._look_again(self.timeout_keep_alive)

    def _unset_keepalive_if_required(self) -> None:
        """The timer looks for itself."""

    def timeout_keep_alive_handler(self) -> None:
        is_idle = self.cycle.response_complete
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if not is_idle or left > 0:
            self._look_again(left if is_idle else self.timeout_keep_alive)
        elif not self.transport.is_closing():
            self.transport.close()

    def _look_again(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def _stop_looking(self) -> None:
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        cycle.__class__ = _Cycle
        cycle.scope["extensions"] = _EXTENSIONS
        super()._start_asgi_task(cycle, app)
