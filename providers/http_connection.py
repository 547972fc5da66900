"""One HTTP/1.1 connection: one request at a time, its answer whole and within its caps, or an exception.

Owns framing (by llhttp, through httptools) and the decision whether the connection may serve another call. Leaves
pooling, deadlines and sending twice to `http_client.py`.

Failure: sets `ProviderFailure` (DISCONNECTED, TIMEOUT, BAD_ANSWER) on the call's future, or `ConnectionStale` when the
server closed a connection that had served before, before a byte of this answer. Every failure ends the connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from providers.failures import FailureKind, ProviderFailure

MAX_HEAD_BYTES = 64 * 1024


class ConnectionStale(Exception):
    """The server closed a reused connection before it answered a byte: another connection may serve the call."""


class Answer:
    """Status, headers and body of one answer."""

    __slots__ = ("_head", "_lowered", "body", "status")

    def __init__(self, status: int, head: bytes, lowered: bytes, body: bytes) -> None:
        self.status = status
        self.body = body
        self._head = head
        self._lowered = lowered

    def header(self, name: bytes) -> str:
        """The first value of a header, empty if absent. `name` in lower case."""
        return _header(self._head, self._lowered, name)


def _header(head: bytes, lowered: bytes, name: bytes) -> str:
    start = lowered.find(b"\r\n%b:" % name)
    if start < 0:
        return ""
    start += len(name) + 3
    return head[start : head.find(b"\r\n", start)].strip().decode("latin-1")


class HttpConnection(asyncio.Protocol):
    """`start` writes a request and returns the future of its answer. `reusable` says whether to call it again."""

    __slots__ = (
        "_answered",
        "_body",
        "_body_bytes",
        "_complete",
        "_head",
        "_head_lowered",
        "_heard",
        "_keep_alive",
        "_max_body",
        "_on_lost",
        "_parser",
        "_problem",
        "_status",
        "_transport",
        "_waiter",
        "idle_since",
    )

    def __init__(self, on_lost: Callable[[HttpConnection], None]) -> None:
        self._max_body = 0
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._parser: HttpResponseParser | None = HttpResponseParser(self)
        self._waiter: asyncio.Future[Answer] | None = None
        self._answered = False  # has served a whole call before
        self.idle_since = 0.0
        self._reset()

    def _reset(self) -> None:
        self._heard = False  # a byte of this answer came
        self._head = b""  # as received, until its end is known
        self._head_lowered = b""  # empty until the headers are complete
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._status = 0
        self._complete = False
        self._keep_alive = False
        self._problem = ""

    @property
    def reusable(self) -> bool:
        return self._keep_alive and self._transport is not None and not self._transport.is_closing()

    def start(self, loop: asyncio.AbstractEventLoop, request: bytes, max_body: int) -> asyncio.Future[Answer]:
        """Writes `request`; the future gives its answer, or raises as the module's `Failure:` says."""
        self._reset()
        self._max_body = max_body
        waiter: asyncio.Future[Answer] = loop.create_future()
        self._waiter = waiter
        if self._transport is None or self._transport.is_closing():
            self.connection_lost(None)
        else:
            self._transport.write(request)
        return waiter

    def expire(self) -> None:
        """The deadline has come."""
        self._fail(ProviderFailure(FailureKind.TIMEOUT, "no complete answer before the deadline"))

    def abort(self) -> None:
        """Drops the connection at once; what is under way is lost."""
        self._keep_alive = False
        self._waiter = None
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """Closes the connection in good order."""
        if self._transport is not None:
            self._transport.close()

    def _fail(self, error: Exception) -> None:
        waiter = self._waiter
        self.abort()
        if waiter is not None and not waiter.done():
            waiter.set_exception(error)

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by behaviour, not by class

    def data_received(self, data: bytes) -> None:
        if self._waiter is None or self._parser is None:
            self.abort()  # nobody asked: the two ends are out of step, and the next answer would be another's
            return
        self._heard = True
        if not self._head_lowered:
            self._head += data
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade):
            self._problem = self._problem or "the answer is not HTTP/1.1"
        if not self._head_lowered and len(self._head) > MAX_HEAD_BYTES:
            self._problem = f"the headers exceed {MAX_HEAD_BYTES} bytes"
        if self._problem:
            self._fail(ProviderFailure(FailureKind.BAD_ANSWER, self._problem, status=self._status or None))
        elif self._complete:
            self._answered = True
            waiter, self._waiter = self._waiter, None
            if not self._keep_alive:
                self.close()
            if not waiter.done():
                body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
                self._body = []
                waiter.set_result(Answer(self._status, self._head, self._head_lowered, body))

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._parser = None  # it holds our bound methods: break the cycle
        self._on_lost(self)
        if self._waiter is None:
            return
        if self._answered and not self._heard and (exc is None or isinstance(exc, ConnectionError)):
            self._fail(ConnectionStale())
        else:
            where = "within its answer" if self._heard else "before it answered"
            self._fail(ProviderFailure(FailureKind.DISCONNECTED, f"the server closed {where}"))

    # What the parser calls

    def on_message_begin(self) -> None:
        if self._complete:
            self._problem = "more bytes than one answer"

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        self._status = self._parser.get_status_code()
        head = self._head.lstrip(b"\r\n")  # the parser skips empty lines before the status line, so must we
        end = head.find(b"\r\n\r\n") + 2
        if self._status < 200:  # 100 Continue, 103 Early Hints: the answer proper follows
            self._head = head[end + 2 :]
            return
        if end > MAX_HEAD_BYTES:
            raise self._refusal(f"the headers exceed {MAX_HEAD_BYTES} bytes")
        self._head = head = head[:end]
        self._head_lowered = lowered = head.lower()
        if _header(head, lowered, b"content-encoding").lower() not in ("", "identity"):
            raise self._refusal("the answer is compressed, which was not asked for")
        stated = _header(head, lowered, b"content-length")
        if stated and int(stated) > self._max_body:
            raise self._refusal(f"the body exceeds {self._max_body} bytes")

    def on_body(self, chunk: bytes) -> None:
        self._body_bytes += len(chunk)
        if self._body_bytes > self._max_body:
            raise self._refusal(f"the body exceeds {self._max_body} bytes")
        self._body.append(chunk)

    def on_message_complete(self) -> None:
        if self._status >= 200:
            assert self._parser is not None
            self._complete = True
            self._keep_alive = self._parser.should_keep_alive()

    def _refusal(self, problem: str) -> ValueError:
        self._problem = problem
        return ValueError(problem)  # an exception in a callback is how the parser is stopped
