"""uvicorn's HTTP protocol with one write for an answer: the head and the body of an ASGI answer leave together.

Owns nothing of HTTP. A write is a system call, and two of them for each answer cost as much as everything that the
server does in between.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_COPIED_BYTES = 65_536  # beyond it, several pieces cost less than one copy


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
        if self._out:
            out, self._out = self._out, []
            if len(out) > 1 and sum(map(len, out)) > _COPIED_BYTES:
                self.real.writelines(out)
            else:
                self.real.write(out[0] if len(out) == 1 else b"".join(out))

    def close(self) -> None:
        self.flush()
        self.real.close()

    def is_closing(self) -> bool:
        return self.real.is_closing()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


class OneWriteProtocol(HttpToolsProtocol):
    """To be given to uvicorn as its `http` implementation."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(_Gathering(transport, self.loop))  # type: ignore[arg-type]

    def handle_websocket_upgrade(self) -> None:
        gathering = self.transport
        assert isinstance(gathering, _Gathering)
        gathering.flush()
        self.transport = gathering.real  # the socket's own protocol gathers by itself
        super().handle_websocket_upgrade()
