"""Answers that are handed over whole look as uvicorn's own do, whatever the client is like; bodies that are there are
given at once; what is idle is closed, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn

from config.http_protocol import OneWriteProtocol
from core.asgi import BODY, WHOLE

IDLE_S = 1.0
SAID = b'{"a":1}'
HEADERS = ((b"content-length", b"%d" % len(SAID)), (b"x-what", b"an answer"))


async def application(scope: Any, receive: Any, send: Any) -> None:
    """`/whole/…` answers in one message, everything else in two; `/…/bad` with a header of two lines, `/…/late` after
    longer than a connection may be idle. A socket says something as late."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        await asyncio.sleep(2 * IDLE_S)
        await send({"type": "websocket.send", "text": "still here"})
        await send({"type": "websocket.close"})
        return
    headers = [*HEADERS, (b"x-path", scope["path"].rpartition("/")[2].encode())]
    if scope["path"].endswith("bad"):
        headers.append((b"x-bad", b"one\r\nset-cookie: two"))
    headers.append((b"x-came", scope.get(BODY, b"not yet")))
    while (await receive()).get("more_body"):
        continue
    if scope["path"].endswith("late"):
        await asyncio.sleep(2 * IDLE_S)
    if scope["path"].startswith("/whole/"):
        await send({"type": WHOLE, "status": 200, "headers": headers, "body": SAID})
    else:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": SAID})


@pytest.fixture
async def port() -> AsyncIterator[int]:
    words: dict[str, Any] = {"lifespan": "off", "log_config": None, "server_header": False, "date_header": False}
    idle: Any = IDLE_S
    config = uvicorn.Config(application, port=0, http=OneWriteProtocol, timeout_keep_alive=idle, **words)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    async with asyncio.timeout(10):
        while not server.started:
            await asyncio.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await serving


async def said(port: int, *requests: bytes, first: bytes = b"") -> bytes:
    """All that comes back until the server closes; what comes of `first` is read before the others are sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(10):
        if first:
            writer.write(first)
            await reader.readuntil(SAID)
        writer.write(b"".join(requests))
        found = await reader.read()
    writer.close()
    return found


def asked(path: str, *, method: str = "GET", version: str = "1.1", close: bool = True, more: str = "") -> bytes:
    connection = "Connection: close\r\n" if close else ""
    return f"{method} {path} HTTP/{version}\r\nHost: here\r\n{connection}{more}\r\n".encode()


@pytest.mark.parametrize("how", [{}, {"method": "HEAD"}, {"version": "1.0", "close": False}])
async def test_it_reads_as_one_of_two_messages_does(port: int, how: dict[str, Any]) -> None:
    whole = await said(port, asked("/whole/a", **how))
    assert whole == await said(port, asked("/parts/a", **how))
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\nx-what: an answer\r\nx-path: a\r\nx-came: \r\nconnection: close"
    assert whole.startswith(head)


async def test_requests_sent_at_once_are_answered_in_their_order(port: int) -> None:
    found = await said(port, asked("/whole/a", close=False), asked("/parts/b", close=False), asked("/whole/c"))
    assert [each.partition(b"\r\n")[0] for each in found.split(b"x-path: ")[1:]] == [b"a", b"b", b"c"]
    assert found.count(SAID) == 3


async def test_a_header_of_two_lines_is_never_sent(port: int) -> None:
    found = await said(port, asked("/whole/bad"))
    assert found.startswith(b"HTTP/1.1 500 ")
    assert b"set-cookie" not in found


async def test_a_body_is_given_at_once_when_all_of_it_has_come(port: int) -> None:
    head = asked("/whole/a", method="POST", more="Content-Length: 4\r\n")
    assert b"x-came: body\r\n" in await said(port, head + b"body")


async def test_a_body_of_which_some_is_missing_is_waited_for(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(asked("/whole/a", method="POST", more="Content-Length: 4\r\nExpect: 100-continue\r\n") + b"bo")
    async with asyncio.timeout(10):
        await reader.readuntil(b"100 Continue\r\n\r\n")
        writer.write(b"dy")
        found = await reader.read()
    writer.close()
    assert b"x-came: not yet\r\n" in found
    assert found.endswith(SAID)


async def test_a_connection_is_closed_once_it_was_idle(port: int) -> None:
    found = await said(port, asked("/whole/b", close=False), first=asked("/whole/a", close=False))
    assert b"x-path: b" in found


async def test_a_connection_is_not_idle_while_an_answer_is_awaited(port: int) -> None:
    found = await said(port, asked("/whole/late"), first=asked("/whole/a", close=False))
    assert b"x-path: late" in found


async def test_a_socket_is_not_closed_for_the_request_before_it(port: int) -> None:
    upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    upgrade += "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(10):
        writer.write(asked("/whole/a", close=False))
        await reader.readuntil(SAID)
        writer.write(asked("/", close=False, more=upgrade))
        assert (await reader.readuntil(b"still here")).startswith(b"HTTP/1.1 101 ")
    writer.close()
