"""Clients that never stop asking, over connections that they keep, and remember what they got."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field

REFUSED_PAUSE_S = 0.02  # as a client that backs off


@dataclass
class Load:
    """`clients` at a time against one port. `answered` are the request ids of all 200s."""

    port: int
    key: str
    clients: int = 32
    answered: list[str] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    broken: int = 0  # connections that ended before an answer
    last_ok_at: float = 0.0

    def start(self) -> None:
        self._running = True
        self._tasks = [asyncio.create_task(self._client(number)) for number in range(self.clients)]

    async def stop(self) -> None:
        """Every client finishes what it asked."""
        self._running = False
        await asyncio.gather(*self._tasks)

    async def until_answered(self, more: int, seconds: float = 60.0) -> None:
        """Returns when so many more 200s have come."""
        enough = len(self.answered) + more
        async with asyncio.timeout(seconds):
            while len(self.answered) < enough:
                await asyncio.sleep(0.005)

    async def _client(self, number: int) -> None:
        count = 0
        while self._running:
            writer = None
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                while self._running:
                    count += 1
                    await self._one(reader, writer, f"text {count} of client {number}")
            except (OSError, asyncio.IncompleteReadError):
                self.broken += 1
                await asyncio.sleep(REFUSED_PAUSE_S)
            finally:
                if writer is not None:
                    writer.close()
                    with suppress(OSError):
                        await writer.wait_closed()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, text: str) -> None:
        body = json.dumps({"input": text, "encoding_format": "base64", "dimensions": 8}).encode()
        writer.write(
            b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            b"authorization: Bearer %b\r\ncontent-length: %d\r\n\r\n%b" % (self.key.encode(), len(body), body)
        )
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.decode().lower().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:] if line)
        await reader.readexactly(int(headers["content-length"]))
        status = int(lines[0].split()[1])
        self.statuses[status] += 1
        if status == 200:
            self.answered.append(headers["x-request-id"])
            self.last_ok_at = time.monotonic()
        else:
            await asyncio.sleep(REFUSED_PAUSE_S)
