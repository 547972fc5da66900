"""Callers behind a barrier: connected before any of them asks, let go at once, each with texts of its own.

All texts have as many tokens, so what a crowd was granted is a number of requests. A caller repeats what got no answer
(a broken connection) or a 5xx that says so, and leaves when a limit refuses it.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from tests.fakes.openai_model import count_tokens

CALLERS = 256
COST = count_tokens("text 100 of 100 100")  # of every text of every crowd: numbers of three digits are one token
NANO = COST * 20  # at $0.02 per million tokens
_AGAIN = (502, 503, 504)
_PAUSE_S = 0.05
_crowds = itertools.count(100)


@dataclass
class Crowd:
    """`requests` are those of each caller. `Crowd(port, key).run()`, or `start` and, later, `finish`."""

    port: int
    key: str
    callers: int = CALLERS
    requests: int = 1
    seconds: float = 240.0  # for all of it
    fields: dict[str, Any] = field(default_factory=dict)  # of each request, beside its text
    statuses: Counter[int] = field(default_factory=Counter)
    refusals: list[dict[str, Any]] = field(default_factory=list)  # bodies of what ended a caller's turn
    granted: int = 0  # 200s that were charged: what is repeated after an answer was lost may be in the cache
    broken: int = 0

    async def run(self) -> None:
        await self.start()
        await self.finish()

    async def start(self) -> None:
        """Connects everybody, then lets them go."""
        self._number = next(_crowds)
        self._due = asyncio.get_running_loop().time() + self.seconds
        opened = [await asyncio.open_connection("127.0.0.1", self.port) for _ in range(self.callers)]
        self._tasks = [asyncio.create_task(self._call(i, *each)) for i, each in enumerate(opened, 100)]

    async def finish(self) -> None:
        await asyncio.gather(*self._tasks)

    async def until_granted(self, enough: int) -> None:
        """Returns when so many have been granted, or nobody asks any more."""
        while self.granted < enough and not all(task.done() for task in self._tasks):
            await asyncio.sleep(0.005)

    async def _call(self, caller: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for number in range(100, 100 + self.requests):
            text = f"text {number} of {caller} {self._number}"
            while True:
                assert asyncio.get_running_loop().time() < self._due, f"caller {caller}: {self.statuses}"
                try:
                    status, body = await self._ask(reader, writer, text)
                except (OSError, asyncio.IncompleteReadError):
                    self.broken += 1
                    reader, writer = await self._connected_again(writer)
                    continue
                self.statuses[status] += 1
                if status not in _AGAIN:
                    break
                await asyncio.sleep(_PAUSE_S)
            if status != 200:
                self.refusals.append(body["error"])
                break
            self.granted += body["usage"]["total_tokens"] == COST
        writer.close()

    async def _connected_again(self, old: asyncio.StreamWriter) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        old.close()
        while True:
            await asyncio.sleep(_PAUSE_S)
            with suppress(OSError):
                return await asyncio.open_connection("127.0.0.1", self.port)

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, text: str) -> tuple[int, Any]:
        body = json.dumps({"input": text, "encoding_format": "base64", "dimensions": 8, **self.fields}).encode()
        writer.write(
            b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            b"authorization: Bearer %b\r\ncontent-length: %d\r\n\r\n%b" % (self.key.encode(), len(body), body)
        )
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.decode().lower().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:] if line)
        answer = await reader.readexactly(int(headers["content-length"]))
        return int(lines[0].split()[1]), json.loads(answer)
