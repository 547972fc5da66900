"""The shipped server with an echo besides, for a conformance suite of RFC 6455:

    python -m config.web --application tests.conformance:application --port 9001

Autobahn's `wstest -m fuzzingclient` goes to `ws://127.0.0.1:9001/echo`; `/tasks` tells how many tasks there are. The
environment is that of `config.asgi`.
"""

from __future__ import annotations

import asyncio
from typing import Any

from channels.consumer import AsyncConsumer
from channels.exceptions import StopConsumer

from config import asgi
from config.asgi import drain

__all__ = ["application", "drain"]


class Echo(AsyncConsumer):
    """Says what it is told, as agents' sockets are served: without Channels' task for every message."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.base_send = send
        try:
            while True:
                await self.dispatch(await receive())
        except StopConsumer:
            return

    async def dispatch(self, message: Any) -> None:
        kind = message["type"]
        if kind == "websocket.connect":
            await self.base_send({"type": "websocket.accept"})
        elif kind == "websocket.receive":
            await self.base_send({**message, "type": "websocket.send"})
        else:
            raise StopConsumer


_echo = Echo.as_asgi()


async def application(scope: Any, receive: Any, send: Any) -> None:
    kind = scope["type"], scope.get("path")
    await {("websocket", "/echo"): _echo, ("http", "/tasks"): _tasks}.get(kind, asgi.application)(scope, receive, send)


async def _tasks(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"%d" % len(asyncio.all_tasks())})
