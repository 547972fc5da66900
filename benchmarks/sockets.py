"""What a message of an agent's socket costs the web worker, what an idle agent costs it, and what it adds to an answer.

One worker, loopback. The messages of one kind go out on 16 sockets, eight at a time on each; the CPU time is the
worker's alone. The cached text is looked up, committed and answered like any other request.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from websockets.asyncio.client import ClientConnection, connect

from benchmarks.hotpath import _cpu_seconds, _load, _rss_mb
from benchmarks.platform import Missing, Platform, platform

SOCKETS, AT_ONCE = 16, 8
AGENTS, BUSY, PER_SECOND = 1000, 100, 200
_LIMITS = {
    "QUIVER_SOCKET_MESSAGES_PER_MINUTE": "10000000",
    "QUIVER_SOCKET_BURST": "100000",
    "QUIVER_SOCKET_IDLE_SECONDS": "3600",
}
_HEADER = struct.Struct(">IBBHQHHI")
_MODEL = "text-embedding-3-small"
Make = Callable[[int], str | bytes]


def main(*, seconds: float) -> None:
    if not Path("/proc/self/stat").exists():
        sys.exit("This reads CPU times from /proc, so it needs Linux.")
    os.environ.update(_LIMITS)
    with tempfile.TemporaryDirectory(prefix="quiver-bench-") as directory:
        try:
            with platform(Path(directory)) as running:
                asyncio.run(_report(running, seconds))
        except Missing as missing:
            sys.exit(str(missing))


async def _report(running: Platform, seconds: float) -> None:
    print(f"{SOCKETS} sockets, {AT_ONCE} in flight on each, {seconds:g} s each, one worker")
    print(f"{'message':<28}{'messages/s':>11}{'CPU µs':>9}")
    floor = _load(f"{running.floor_url}/", "", "", seconds, running.floor)  # tells how busy the machine is besides
    print(f"{'bare ASGI floor, HTTP':<28}{floor.per_second:>11.0f}{floor.cpu_us:>9.0f}")
    for name, make in _cases().items():
        count, spent, lasted = await _rate(running, make, seconds)
        print(f"{name:<28}{count / lasted:>11.0f}{spent / count * 1e6:>9.0f}")
    await _idle_and_busy(running, seconds)


def _cases() -> dict[str, Make]:
    words = {"input": "the same text of some words", "model": _MODEL}
    packed, empty = msgspec.msgpack.encode(words), b"\x80"

    def text(method: str, params: object) -> Make:
        rest = json.dumps({"jsonrpc": "2.0", "method": method, "params": params})[1:]
        return lambda number: f'{{"id":{number},{rest}'

    return {
        "ping, text": text("ping", {}),
        "ping, binary": lambda number: _frame(8, number, empty),
        "1x1536 cached, binary": lambda number: _frame(64, number, packed),
        "1x1536 cached, base64": text("embedding.generate", words | {"encoding": "base64"}),
        "1x1536 cached, floats": text("embedding.generate", words),
        "1x1536 distinct, binary": lambda number: _frame(
            64, number, msgspec.msgpack.encode(words | {"input": f"distinct text {number}"})
        ),
    }


def _frame(method: int, number: int, payload: bytes) -> bytes:
    return _HEADER.pack(0x4D435057, 1, 0, 0, number, method, 0, len(payload)) + payload


def _connect(running: Platform) -> Any:
    url = running.base_url.replace("http", "ws", 1) + "/ws/v1/agents"
    return connect(
        url, additional_headers={"X-API-Key": running.key}, max_size=None, compression=None, ping_interval=None
    )


async def _rate(running: Platform, make: Make, seconds: float) -> tuple[int, float, float]:
    """How many were answered, what that cost the worker, how long it took."""
    numbers = itertools.count(1)
    sockets: list[ClientConnection] = [await _connect(running) for _ in range(SOCKETS)]
    count, is_over = 0, False

    async def work(socket: ClientConnection) -> None:
        nonlocal count
        for _ in range(AT_ONCE):
            await socket.send(make(next(numbers)))
        waiting = AT_ONCE
        while waiting:
            answer = await socket.recv()
            assert (answer[5] == 1) if isinstance(answer, bytes) else ('"result"' in answer), answer[:300]
            count += 1
            if is_over:
                waiting -= 1
            else:
                await socket.send(make(next(numbers)))

    began, before = time.monotonic(), _cpu_seconds(running.worker)
    tasks = [asyncio.create_task(work(each)) for each in sockets]
    await asyncio.sleep(seconds)
    is_over = True
    await asyncio.gather(*tasks)
    spent, lasted = _cpu_seconds(running.worker) - before, time.monotonic() - began
    for each in sockets:
        await each.close()
    return count, spent, lasted


async def _idle_and_busy(running: Platform, seconds: float) -> None:
    before = _rss_mb(running.worker)
    sockets: list[ClientConnection] = []
    for number in range(AGENTS):
        socket = await _connect(running)
        params = {"agent_id": f"agent-{number}"}
        await socket.send(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "agent.register", "params": params}))
        assert '"result"' in str(await socket.recv())
        sockets.append(socket)
    each_kb = (_rss_mb(running.worker) - before) * 1024 / AGENTS
    print(f"{AGENTS} registered agents: {each_kb:.1f} KB each")
    sent: dict[int, float] = {}
    taken: list[float] = []
    total, all_taken = int(PER_SECOND * seconds), asyncio.Event()

    async def read(socket: ClientConnection) -> None:
        async for answer in socket:
            assert isinstance(answer, bytes)
            taken.append(time.monotonic() - sent[_HEADER.unpack_from(answer)[4]])
            if len(taken) == total:
                all_taken.set()

    readers = [asyncio.create_task(read(each)) for each in sockets[:BUSY]]
    payload = msgspec.msgpack.encode({"input": "the same text of some words", "model": _MODEL})
    began = time.monotonic()
    for number in range(total):
        ahead = began + number / PER_SECOND - time.monotonic()
        if ahead > 0:
            await asyncio.sleep(ahead)
        sent[number] = time.monotonic()
        await sockets[number % BUSY].send(_frame(64, number, payload))
    await asyncio.wait_for(all_taken.wait(), 60)
    for reader in readers:
        reader.cancel()
    dropped = sum(each.close_code is not None for each in sockets)
    taken.sort()
    p50, p99 = taken[total // 2] * 1000, taken[int(total * 0.99)] * 1000
    print(
        f"{PER_SECOND} embeddings a second over {BUSY} of {AGENTS} agents for {seconds:g} s: {total} answered, "
        f"{dropped} sockets dropped, p50 {p50:.2f} ms, p99 {p99:.2f} ms, the client's own time among it"
    )
    await asyncio.gather(*(each.close() for each in sockets))


if __name__ == "__main__":
    main(seconds=5.0)
