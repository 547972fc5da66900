"""A tiny application in the place of `config.asgi`, to prove what `config.web` does with any."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

_state = {"draining": False, "open": 0}
_idle = asyncio.Event()


async def application(scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Any]) -> None:
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
        return
    status, body = 200, str(os.getpid()).encode()
    if _state["draining"]:
        status, body = 503, b"draining"
    elif scope["path"].startswith("/slow/"):
        _state["open"] += 1
        await asyncio.sleep(float(scope["path"].removeprefix("/slow/")))
        _state["open"] -= 1
        _idle.set()
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": body})


async def drain(grace_s: float) -> None:
    _state["draining"] = True
    if _state["open"]:
        with suppress(TimeoutError):
            await asyncio.wait_for(_idle.wait(), grace_s)


async def broken(scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Any]) -> None:
    raise SystemExit(7)


async def _lifespan(receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Any]) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})
