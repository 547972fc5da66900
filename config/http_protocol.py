"""uvicorn's HTTP protocol with one write for an answer: the head and the body of an ASGI answer leave together, and so
do all frames that a WebSocket gets in one turn of the loop.

A write is a system call, and two of them for each answer cost as much as everything that the server does in between.
Serves the ASGI extension by which a door hands over an answer whole (`WHOLE`): uvicorn looks at each header twice,
which costs more than writing all of them. Everything else of HTTP is uvicorn's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from core.asgi import WHOLE

_COPIED_BYTES = 65_536  # beyond it, several pieces cost less than one copy
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

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        cycle.__class__ = _Cycle
        cycle.scope["extensions"] = _EXTENSIONS
        super()._start_asgi_task(cycle, app)
