"""What every fake of a vendor shares: a server over real HTTP, with switches for latency, faults and poison.

In a test: `with FakeX() as fake: ... fake.base_url ... fake.switch(fault="status", status=429)`.
For other processes: `python -m tests.fakes.x --port 9000`, switched by `POST /_control` with the same words as JSON,
read by `GET /_control` (`{"calls": [...], "secret": {...}}`).

Switches: `latency_s`, `key`, `poison` (a text that contains it is refused), `fault` (each fake's `FAULTS`) with
`status`, `body`, `headers`, `retry_after` for the fault `status`, `times` (how many calls a fault lasts; None: until
reset), `listed` (what the list of models holds instead), and with OpenAI's wire `turned_by` (degrees) and `info`. A
refused connection needs no switch: leave the `with`, or end the process.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import Any, ClassVar, Self

from aiohttp import web

Rows = list[Any]

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
        "reset",  # the connection breaks before any answer
        "reset_after_headers",
        "short_body",  # less than content-length promised
        "html",
        "invalid_json",
        "redirect",
        "huge_body",
        "gzip",
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


@dataclass
class Switches:
    """What the fake does next."""

    key: str = "sk-fake"
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
        if self.switches.latency_s:
            await asyncio.sleep(self.switches.latency_s)
        fault = self.switches.take_fault()
        try:
            self.authenticate(request, raw)
            if fault == "status":
                return self.status_answer()
            answer = self.answer(request, payload, fault)
        except Refusal as refusal:
            return self._refused(refusal)
        return await self._broken(request, answer, fault)

    async def listed(self, request: web.Request, found: Mapping[str, object]) -> web.StreamResponse:
        """A handler's answer on the vendor's route that lists models."""
        fault = self.switches.take_fault()
        if self.switches.latency_s:
            await asyncio.sleep(self.switches.latency_s)
        if fault == "status":
            return self.status_answer()
        try:
            self.authenticate(request, b"")
        except Refusal as refusal:
            return self._refused(refusal)
        if self.switches.listed is not None:
            found = {name: self.switches.listed if isinstance(value, list) else value for name, value in found.items()}
        return await self._broken(request, dict(found), fault)

    def status_answer(self) -> web.Response:
        headers = dict(self.switches.headers)
        if self.switches.retry_after:
            headers["retry-after"] = self.switches.retry_after
        return web.Response(
            status=self.switches.status, text=self.switches.body, headers=headers, content_type="application/json"
        )

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

    async def _broken(self, request: web.Request, answer: dict[str, Any], fault: str) -> web.StreamResponse:
        """The answer, or what a fault of the wire makes of it."""
        text, headers = json.dumps(answer), self.answer_headers(fault)
        if fault == "hang":
            await asyncio.sleep(3600)
        if fault in ("reset", "reset_after_headers", "short_body"):
            return await _torn(request, text, fault)
        if fault == "html":
            return web.Response(text="<html>busy</html>", content_type="text/html")
        if fault == "invalid_json":
            text = text[:-20]
        if fault == "redirect":
            return web.Response(status=307, headers={"location": f"{self.address}{request.raw_path}"})
        if fault == "huge_body":
            text += " " * self.switches.huge_bytes
        if fault == "gzip":
            headers |= {"content-encoding": "gzip", "content-type": "application/json"}
            return web.Response(body=gzip.compress(text.encode()), headers=headers)
        return web.Response(text=text, headers=headers, content_type="application/json")


async def _torn(request: web.Request, text: str, fault: str) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "application/json"})
    response.content_length = len(text)
    assert request.transport is not None
    if fault != "reset":
        await response.prepare(request)
        await response.write(text[: len(text) // 2].encode() if fault == "short_body" else b"")
    request.transport.close()
    return response


def main(make: Callable[..., FakeServer], description: str | None) -> None:
    """A fake as a process: prints its address and serves."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--port", type=int, default=0)
    asyncio.run(_serve(make(port=parser.parse_args().port)))


async def _serve(fake: FakeServer) -> None:
    await fake.start()
    print(fake.base_url, flush=True)  # noqa: T201 (the caller reads the address)
    await asyncio.Event().wait()
