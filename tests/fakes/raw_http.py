"""A server that answers each request on a connection with the bytes it was told to, right or wrong.

`async with RawServer(script) as server`: `script` is a list of connections, each a list of answers; an answer is
bytes, or `CLOSE` (close without a word), `VANISH` (that, and listen no more), `HANG` (say nothing), or a list of
these that are done one by one.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from types import TracebackType
from typing import Self

CLOSE = "close"
HANG = "hang"
VANISH = "vanish"
Step = bytes | str | Sequence[bytes | str]

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-type: application/json\r\nX-Request-Id: Req_1\r\n\r\n{}"


class RawServer:
    """On the loopback address. `requests` holds what came, `connections` how often somebody connected."""

    def __init__(self, *connections: Sequence[Step], tls: ssl.SSLContext | None = None) -> None:
        self._script = list(connections)
        self._tls = tls
        self._writers: list[asyncio.StreamWriter] = []
        self.requests: list[bytes] = []
        self.connections = 0
        self.asked: asyncio.Queue[bytes] = asyncio.Queue()  # the same requests, to wait for
        self.hung_up = asyncio.Event()  # a client closed its connection

    @property
    def address(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        steps = self._script[min(self.connections, len(self._script) - 1)]
        self.connections += 1
        try:
            for step in steps:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                request = head + await reader.readexactly(length)
                self.requests.append(request)
                self.asked.put_nowait(request)
                if not await self._answer(writer, [step] if isinstance(step, bytes | str) else step):
                    break
            else:
                await reader.read()
                self.hung_up.set()
            writer.close()
        except (OSError, asyncio.IncompleteReadError):
            self.hung_up.set()

    async def _answer(self, writer: asyncio.StreamWriter, parts: Sequence[bytes | str]) -> bool:
        """False: the connection ends here."""
        for part in parts:
            if part == VANISH:
                self._server.close()
            if part in (CLOSE, VANISH):
                return False
            writer.write(part if isinstance(part, bytes) else b"")
            await writer.drain()
            await asyncio.sleep(0)  # each part travels by itself
        return True
