"""The one ASGI application: the data plane takes its paths first, Django gets everything else.

Owns the lifespan of the data plane in this process and the operational paths (`/livez`, `/readyz`, `/metrics`).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
django.setup(set_prefix=False)

import orjson  # noqa: E402
from channels.routing import URLRouter  # noqa: E402
from django.conf import settings  # noqa: E402
from django.core.handlers.asgi import ASGIHandler  # noqa: E402
from django.db import DatabaseError, connection  # noqa: E402
from django.urls import path, re_path  # noqa: E402

from config.proxies import behind  # noqa: E402
from core.collector import calm_collector  # noqa: E402
from core.metrics import exposition  # noqa: E402
from embeddings.consumers import SOCKETS, AgentConsumer, UnknownPath  # noqa: E402
from embeddings.pacing import SocketBounds  # noqa: E402
from embeddings.runtime import Bounds, Runtime  # noqa: E402
from tenants.walls import are_up  # noqa: E402

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_django = ASGIHandler()
# Without the second route an unknown path would be an error of ours.
_agents = URLRouter([path("ws/v1/agents", AgentConsumer.as_asgi()), re_path("", UnknownPath.as_asgi())])
_runtime: Runtime | None = None
_wall: str | None = None  # roles come with a migration, and a migration with a restart


async def _application(scope: Message, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        asked: str = scope["path"]
        if asked.startswith(("/v1/", "/api/v1/embeddings")):
            assert _runtime is not None, "the server must run the lifespan"
            await _runtime.door(scope, receive, send)
        elif asked in _OPERATIONAL:
            await _send(send, *await _OPERATIONAL[asked]())
        else:
            await _django(scope, receive, send)  # type: ignore[arg-type]
    elif scope["type"] == "lifespan":
        await _lifespan(receive, send)
    else:
        assert _runtime is not None, "the server must run the lifespan"
        scope[SOCKETS] = _runtime.sockets
        await _agents(scope, receive, send)


application = behind(settings.QUIVER.trusted_proxies, _application)


async def drain(grace_s: float) -> None:
    """Refuses new data-plane requests and waits for those under way; the server stops afterwards."""
    if _runtime is not None:
        await asyncio.gather(_runtime.door.drain(grace_s), _runtime.sockets.drain(grace_s))


def bounds_from_settings() -> Bounds:
    quiver = settings.QUIVER
    return Bounds(
        database_url=quiver.database_url,
        redis_url=quiver.redis_url,
        deadline_s=quiver.deadline_ms / 1000,
        max_body_bytes=quiver.max_body_bytes,
        max_tokens_per_request=quiver.max_tokens_per_request,
        ledger_wait_s=quiver.ledger_wait_ms / 1000,
        poll_s=quiver.poll_seconds,
        stale_s=quiver.snapshot_stale_seconds,
        metric_tenants=quiver.metric_tenants,
        encryption_keys=quiver.encryption_keys,
        hold_lease_s=quiver.lease_s,
        cache_bytes=quiver.cache_memory_mb * 1024 * 1024,
        sockets=SocketBounds(
            messages_per_minute=quiver.socket_messages_per_minute,
            burst=quiver.socket_burst,
            text_bytes=quiver.socket_text_bytes,
            in_flight=quiver.socket_in_flight,
            notifications=quiver.socket_notifications,
            idle_s=quiver.socket_idle_seconds,
            authenticate_s=quiver.socket_authenticate_seconds,
            presence_s=quiver.socket_presence_seconds,
            calls=quiver.socket_calls,
            calls_per_agent=quiver.socket_calls_per_agent,
        ),
    )


async def _lifespan(receive: Receive, send: Send) -> None:
    global _runtime
    await receive()
    _runtime = Runtime(bounds_from_settings())
    await _runtime.start()
    calm_collector()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await _runtime.stop()
    await send({"type": "lifespan.shutdown.complete"})


async def _livez() -> tuple[int, bytes, bytes]:
    return 200, b"application/json", b'{"status":"ok"}'


async def _readyz() -> tuple[int, bytes, bytes]:
    assert _runtime is not None
    found = _runtime.readiness()
    # Without Redis everything still works, only changes take a second longer.
    is_ready = all(state == "ok" for name, state in found.items() if name != "redis")
    wall = await _second_wall() if is_ready else "unknown"
    body = orjson.dumps({"status": "ok" if is_ready else "unavailable", "dependencies": found, "second_wall": wall})
    return 200 if is_ready else 503, b"application/json", body


async def _second_wall() -> str:
    """Tells, and is no reason not to be ready: a managed database may allow no more."""
    global _wall
    if _wall is None:
        try:
            is_up = await asyncio.to_thread(_ask_for_wall)
        except DatabaseError as error:
            return f"unknown: {type(error).__name__}"
        _wall = "up" if is_up else "down: the database has no role for tenants, so the code alone keeps them apart"
    return _wall


def _ask_for_wall() -> bool:
    try:
        return are_up()
    finally:
        connection.close()  # back to the pool: this thread may not come here again


async def _metrics() -> tuple[int, bytes, bytes]:
    directory = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    body = await asyncio.get_running_loop().run_in_executor(None, exposition, directory)
    return 200, b"text/plain; version=0.0.4; charset=utf-8", body


_OPERATIONAL = {"/livez": _livez, "/readyz": _readyz, "/metrics": _metrics}


async def _send(send: Send, status: int, content_type: bytes, body: bytes) -> None:
    headers = [
        (b"content-type", content_type),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
