"""Answers that are handed over whole look as uvicorn's own do, whatever the client is like."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn

from config.http_protocol import OneWriteProtocol
from core.asgi import WHOLE

BODY = b'{"a":1}'
HEADERS = ((b"content-length", b"%d" % len(BODY)), (b"x-what", b"an answer"))


async def application(scope: Any, receive: Any, send: Any) -> None:
    """`/whole/…` answers in one message, everything else in two; `/…/bad` with a header of two lines."""
    headers = [*HEADERS, (b"x-path", scope["path"].rpartition("/")[2].encode())]
    if scope["path"].endswith("bad"):
        headers.append((b"x-bad", b"one\r\nset-cookie: two"))
    await receive()
    if scope["path"].startswith("/whole/"):
        await send({"type": WHOLE, "status": 200, "headers": headers, "body": BODY})
    else:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": BODY})


@pytest.fixture
async def port() -> AsyncIterator[int]:
    words: dict[str, Any] = {"lifespan": "off", "log_config": None, "server_header": False, "date_header": False}
    server = uvicorn.Server(uvicorn.Config(application, port=0, http=OneWriteProtocol, **words))
    serving = asyncio.create_task(server.serve())
    async with asyncio.timeout(10):
        while not server.started:
            await asyncio.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await serving


async def said(port: int, *requests: bytes) -> bytes:
    """All that comes back until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"".join(requests))
    async with asyncio.timeout(10):
        found = await reader.read()
    writer.close()
    return found


def asked(path: str, *, method: str = "GET", version: str = "1.1", close: bool = True) -> bytes:
    connection = "Connection: close\r\n" if close else ""
    return f"{method} {path} HTTP/{version}\r\nHost: here\r\n{connection}\r\n".encode()


@pytest.mark.parametrize("how", [{}, {"method": "HEAD"}, {"version": "1.0", "close": False}])
async def test_it_reads_as_one_of_two_messages_does(port: int, how: dict[str, Any]) -> None:
    whole = await said(port, asked("/whole/a", **how))
    assert whole == await said(port, asked("/parts/a", **how))
    assert whole.startswith(
        b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\nx-what: an answer\r\nx-path: a\r\nconnection: close"
    )


async def test_requests_sent_at_once_are_answered_in_their_order(port: int) -> None:
    found = await said(port, asked("/whole/a", close=False), asked("/parts/b", close=False), asked("/whole/c"))
    assert [each.partition(b"\r\n")[0] for each in found.split(b"x-path: ")[1:]] == [b"a", b"b", b"c"]
    assert found.count(BODY) == 3


async def test_a_header_of_two_lines_is_never_sent(port: int) -> None:
    found = await said(port, asked("/whole/bad"))
    assert found.startswith(b"HTTP/1.1 500 ")
    assert b"set-cookie" not in found
