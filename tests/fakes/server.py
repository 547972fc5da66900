"""What every fake of a vendor shares: a server over real HTTP, with switches for latency, faults and poison.

In a test: `with FakeX() as fake: ... fake.base_url ... fake.switch(fault="status", status=429)`.
For other processes: `python -m tests.fakes.x --port 9000`, switched by `POST /_control` with the same words as JSON,
read by `GET /_control` (`{"calls": [...], "secret": {...}}`).

Switches: `latency_s`, `key`, `poison` (a text that contains it is refused), `fault` (each fake's `FAULTS`) with
`status`, `body`, `headers`, `retry_after` for the fault `status`, `location` and `huge_bytes` for those they belong
to, `times` (how many calls a fault lasts; None: until reset), `listed` (what the list of models holds instead), and in
OpenAI's wire `turned_by` (degrees) and `info`. `by_text` has such words for the calls whose body holds a certain text,
so that one fake does many things at a time. A refused connection needs no switch: leave the `with`, or end the process.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import gzip
import json
import math
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from types import TracebackType
from typing import Any, ClassVar, Self

import msgspec
from aiohttp import web

Rows = list[Any]
_PIECE = 256 * 1024

# Faults of the answer's content, for vendors that answer JSON numbers: from the right vectors to wrong ones.
ROW_FAULTS: Mapping[str, Callable[[Rows], Rows]] = {
    "empty_data": lambda rows: [],
    "fewer": lambda rows: rows[:-1],
    "more": lambda rows: [*rows, rows[-1]],
    "wrong_width": lambda rows: [row[:-1] for row in rows],
    "mixed_width": lambda rows: [rows[0][:-1], *rows[1:]],
    "empty_vector": lambda rows: [[], *rows[1:]],
    "zero_vector": lambda rows: [[0.0] * len(rows[0]), *rows[1:]],
    "huge_numbers": lambda rows: [[1e300] * len(rows[0]), *rows[1:]],
    "null_vector": lambda rows: [None, *rows[1:]],
    "text_vector": lambda rows: ["AAAA", *rows[1:]],
    "string_numbers": lambda rows: [[str(number) for number in row] for row in rows],
    "nan": lambda rows: [[math.nan, *rows[0][1:]], *rows[1:]],  # a bare word, which is no JSON
}
TOKEN_FAULTS: Mapping[str, object] = {
    "tokens_missing": None,
    "tokens_negative": -5,
    "tokens_huge": 10**15,
    "tokens_text": "many",
}
WIRE_FAULTS = frozenset(
    {
        "status",  # `status`, `body`, `headers`, `retry_after`
        "hang",
        "drip",  # headers at once, then a byte a second
        "reset",  # the connection breaks before any answer
        "reset_after_headers",
        "reset_in_body",
        "short_body",  # closed in good order with less than content-length promised
        "html",
        "invalid_json",
        "redirect",  # to `location`, or to itself
        "huge_body",  # the right answer, and `huge_bytes` of blanks
        "gzip",
        "gzip_bomb",
        "ignores_dimensions",
    }
)


class Refusal(Exception):
    """An error that the vendor answers. Fakes subclass it with their vendor's form."""

    status: int

    def body(self) -> Mapping[str, object]:
        raise NotImplementedError

    def headers(self) -> Mapping[str, str]:
        return {}


KEY = "sk-of-the-fakes-a-secret"


@dataclass
class Switches:
    """What the fake does next."""

    key: str = KEY
    latency_s: float = 0.0
    poison: str = ""
    fault: str = ""
    times: int | None = None
    status: int = 500
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    retry_after: str = ""
    huge_bytes: int = 1_000_000
    listed: list[dict[str, Any]] | None = None  # what the list of models holds, in the vendor's words; None: all
    info: dict[str, Any] = field(default_factory=dict)  # makes the fake a text-embeddings-inference server
    turned_by: float = 0.0  # degrees, every vector in the same way: a model that was exchanged behind its name
    location: str = ""
    by_text: dict[str, dict[str, Any]] = field(default_factory=dict)

    def of_call(self, body: str) -> Switches:
        """Those that hold for one call."""
        words = next((words for text, words in self.by_text.items() if text in body), None)
        return self if words is None else replace(self, **words)

    def take_fault(self) -> str:
        """The fault for this call; a fault for a number of calls wears off."""
        if self.times is None:
            return self.fault
        self.times -= 1
        return self.fault if self.times >= 0 else ""


@dataclass
class Call:
    """One request for vectors as it came; header names in lower case, the path with its query."""

    items: int
    headers: dict[str, str]
    body: dict[str, Any]
    path: str = ""


@dataclass
class FakeServer:
    """The server, in a thread with a loop of its own, on an ephemeral port of the loopback address."""

    FAULTS: ClassVar[frozenset[str]] = WIRE_FAULTS | ROW_FAULTS.keys() | TOKEN_FAULTS.keys()
    make_switches: ClassVar[Callable[[], Switches]] = Switches

    port: int = 0
    switches: Any = None
    calls: list[Call] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.switches = self.switches or type(self).make_switches()

    # What a vendor's fake fills in

    def routes(self) -> Iterable[web.RouteDef]:
        raise NotImplementedError

    def authenticate(self, request: web.Request, body: bytes) -> None:
        """Raises `Refusal`."""
        raise NotImplementedError

    def items(self, payload: dict[str, Any]) -> int:
        raise NotImplementedError

    def answer(self, request: web.Request, payload: dict[str, Any], fault: str) -> dict[str, Any]:
        """The whole answer, wrong if `fault` says so. Raises `Refusal`."""
        raise NotImplementedError

    def answer_headers(self, fault: str) -> dict[str, str]:
        return {"x-request-id": f"req_{len(self.calls)}"}

    # What tests use

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def base_url(self) -> str:
        return self.address

    @property
    def key(self) -> str:
        return str(self.switches.key)

    @property
    def secret(self) -> dict[str, str]:
        """What a provider of this kind is set up with."""
        return {"api_key": self.key}

    def switch(self, **words: Any) -> None:
        """Sets switches; see `Switches`."""
        unknown = words.keys() - asdict(self.switches).keys()
        if unknown or words.get("fault", "") not in self.FAULTS | {""}:
            raise ValueError(f"no such switch: {unknown or words['fault']}")
        for name, value in words.items():
            setattr(self.switches, name, value)

    def reset(self) -> None:
        """Forgets calls and switches."""
        self.switches = type(self).make_switches()
        self.calls.clear()

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self.start(), self._loop).result(10)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        asyncio.run_coroutine_threadsafe(self.stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def start(self) -> None:
        """Listens; `port` is known afterwards."""
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_routes(self.routes())
        app.router.add_post("/_control", self._control)
        app.router.add_get("/_control", self._read_control)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Ends, handlers that hang included."""
        await self._runner.cleanup()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    # What the vendors' fakes use

    def is_poisoned(self, items: Sequence[object]) -> bool:
        poison = self.switches.poison
        return bool(poison) and any(isinstance(item, str) and poison in item for item in items)

    async def embeddings(self, request: web.Request) -> web.StreamResponse:
        """The handler of the vendor's route for vectors."""
        raw = await request.read()
        payload = json.loads(raw)
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.calls.append(Call(self.items(payload), headers, payload, request.raw_path))
        switches = self.switches.of_call(raw.decode())
        if switches.latency_s:
            await asyncio.sleep(switches.latency_s)
        fault = switches.take_fault()
        try:
            self.authenticate(request, raw)
            if fault == "status":
                return _status_answer(switches)
            answer = self.answer(request, payload, fault)
        except Refusal as refusal:
            return self._refused(refusal)
        return await self._broken(request, answer, fault, switches)

    async def listed(self, request: web.Request, found: Mapping[str, object]) -> web.StreamResponse:
        """A handler's answer on the vendor's route that lists models."""
        fault = self.switches.take_fault()
        if self.switches.latency_s:
            await asyncio.sleep(self.switches.latency_s)
        if fault == "status":
            return _status_answer(self.switches)
        try:
            self.authenticate(request, b"")
        except Refusal as refusal:
            return self._refused(refusal)
        if self.switches.listed is not None:
            found = {name: self.switches.listed if isinstance(value, list) else value for name, value in found.items()}
        return await self._broken(request, dict(found), fault, self.switches)

    # Handlers

    async def _control(self, request: web.Request) -> web.Response:
        words = await request.json()
        if words.pop("reset", False):
            self.reset()
        self.switch(**words)
        return web.json_response(asdict(self.switches))

    async def _read_control(self, request: web.Request) -> web.Response:
        return web.json_response({"calls": [asdict(call) for call in self.calls], "secret": self.secret})

    def _refused(self, refusal: Refusal) -> web.Response:
        headers = {**self.answer_headers("tokens_missing"), **refusal.headers()}
        return web.json_response(refusal.body(), status=refusal.status, headers=headers)

    async def _broken(
        self, request: web.Request, answer: dict[str, Any], fault: str, switches: Switches
    ) -> web.StreamResponse:
        """The answer, or what a fault of the wire makes of it."""
        # The fast encoder writes no `nan`.
        text = json.dumps(answer) if fault == "nan" else msgspec.json.encode(answer).decode()
        headers = self.answer_headers(fault)
        if fault == "hang":
            await asyncio.sleep(3600)
        if fault == "drip":
            return await _dripped(request, text)
        if fault in ("reset", "reset_after_headers", "reset_in_body", "short_body"):
            return await _torn(request, text, fault)
        if fault == "html":
            return web.Response(text="<html>busy</html>", content_type="text/html")
        if fault == "invalid_json":
            text = text[:-20]
        if fault == "redirect":
            location = switches.location or f"{self.address}{request.raw_path}"
            return web.Response(status=307, headers={"location": location})
        if fault == "huge_body":
            return await _padded(request, text, headers, switches.huge_bytes)
        if fault in ("gzip", "gzip_bomb"):
            headers |= {"content-encoding": "gzip", "content-type": "application/json"}
            packed = gzip.compress(text.encode()) + (_bomb() if fault == "gzip_bomb" else b"")
            return web.Response(body=packed, headers=headers)
        return web.Response(text=text, headers=headers, content_type="application/json")


def _status_answer(switches: Switches) -> web.Response:
    headers = dict(switches.headers)
    if switches.retry_after:
        headers["retry-after"] = switches.retry_after
    return web.Response(status=switches.status, text=switches.body, headers=headers, content_type="application/json")


async def _torn(request: web.Request, text: str, fault: str) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "application/json"})
    response.content_length = len(text)
    assert request.transport is not None
    if fault != "reset":
        await response.prepare(request)
        await response.write(text[: len(text) // 2].encode() if fault in ("reset_in_body", "short_body") else b"")
    if fault == "short_body":
        request.transport.close()
        return response
    connection = request.transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closing it says RST
    request.transport.abort()
    return response


async def _dripped(request: web.Request, text: str) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "application/json"})
    response.content_length = len(text)
    await response.prepare(request)
    for byte in text.encode():
        await response.write(bytes([byte]))
        await asyncio.sleep(1)
    return response


async def _padded(request: web.Request, text: str, headers: dict[str, str], blanks: int) -> web.StreamResponse:
    response = web.StreamResponse(headers=headers | {"content-type": "application/json"})
    response.content_length = len(text) + blanks
    await response.prepare(request)
    with suppress(ConnectionError):  # whoever asked has seen enough
        await response.write(text.encode())
        for start in range(0, blanks, _PIECE):
            await response.write(b" " * min(_PIECE, blanks - start))
    return response


@functools.cache
def _bomb() -> bytes:
    """Blanks: 64 MiB of them in 64 KiB, as one more member of a gzip stream."""
    return gzip.compress(b" " * 64 * 1024 * 1024)


def main(make: Callable[..., FakeServer], description: str | None) -> None:
    """A fake as a process: prints its address and serves."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--port", type=int, default=0)
    asyncio.run(_serve(make(port=parser.parse_args().port)))


async def _serve(fake: FakeServer) -> None:
    await fake.start()
    print(fake.base_url, flush=True)  # noqa: T201 (the caller reads the address)
    await asyncio.Event().wait()
