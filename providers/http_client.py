"""A small HTTP/1.1 client for calls whose body is known whole and whose answer is read whole.

Owns connections to one origin: how many, how long they idle, TLS, the deadline of a call and the caps on an answer.
Leaves the meaning of a status to `failures.py` and the meaning of a body to the adapters. It is our own because it
is the hot path: a general client costs several times as much per call (docs/decisions).

What it refuses to do: follow redirects, decompress, resume, guess the length of an answer that states none, or use a
connection again about which anything is in doubt.

Failure: nothing sent (DNS, refused, TLS) is UNREACHABLE; no free connection before the deadline is BUSY; sent and
broken off is DISCONNECTED; no complete answer before the deadline is TIMEOUT; an answer that is malformed, too large
or encoded is BAD_ANSWER. A call is written twice in one case only: the server closed a *reused* connection before it
answered a byte, which is what an expired keep-alive looks like.
"""

from __future__ import annotations

import asyncio
import functools
import re
import socket
import ssl
from collections import deque
from collections.abc import Mapping
from ipaddress import ip_address
from urllib.parse import urlsplit

from core.egress import is_metadata
from providers.failures import FailureKind, ProviderFailure
from providers.http_connection import Answer, ConnectionStale, HttpConnection

__all__ = ["Answer", "HttpClient"]

IDLE_S = 30.0  # below what load balancers and NAT forget silently; a server that closes earlier is noticed at once
CONNECT_TIMEOUT_S = 5.0

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")  # no CR, LF or NUL: a value must not become a header of its own
_TARGET = re.compile(r"/[\x21-\x7e]*")


@functools.cache
def _tls() -> ssl.SSLContext:
    """The platform's trust, host names checked. Shared: loading the certificates takes 20 ms."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


class HttpClient:
    """Calls to one origin, at most `max_connections` at a time; the rest wait in order of arrival.

    `base_url` is `http(s)://host[:port][/path]`; `headers` go with every request. Raises `ValueError` for an address
    or a header that cannot be sent. Use inside one event loop.
    """

    def __init__(
        self,
        base_url: str,
        *,
        headers: Mapping[str, str] | None = None,
        max_connections: int = 64,
        max_answer_bytes: int = 64 * 1024 * 1024,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        idle_s: float = IDLE_S,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        url = urlsplit(base_url)
        if url.scheme not in ("http", "https") or not url.hostname or not base_url.isascii():
            raise ValueError("the address must look like https://host[:port][/path]")
        if url.username is not None or url.query or url.fragment:
            raise ValueError("the address must not carry a user, a query or a fragment")
        self._host = url.hostname
        self._port = url.port or (443 if url.scheme == "https" else 80)
        self._ssl = (ssl_context or _tls()) if url.scheme == "https" else None
        self._path = url.path.rstrip("/")
        self._headers = {"host": url.netloc, "accept": "application/json", "accept-encoding": "identity"}
        self._headers |= headers or {}
        self._max_connections = max_connections
        self._max_answer_bytes = max_answer_bytes
        self._connect_timeout_s = connect_timeout_s
        self._idle_s = idle_s
        self._idle: deque[HttpConnection] = deque()  # oldest first; taken from the end
        self._busy = 0  # slots taken: calls connecting or under way
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False
        self._opened = 0
        self._resent = 0
        self.prepare("GET", "/")

    def prepare(self, method: str, path: str, headers: Mapping[str, str] | None = None) -> bytes:
        """The request up to its content-length, made once per endpoint. `path` is appended to the base URL's.
        Raises `ValueError` for what must not stand in a request line or a header."""
        target = self._path + path
        if not _TARGET.fullmatch(target):
            raise ValueError("the path of a request must be printable ASCII without spaces")
        lines = [f"{method} {target} HTTP/1.1"]
        for name, value in (self._headers | dict(headers or {})).items():
            if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
                raise ValueError(f"the header {name!r} holds a character that a header must not hold")
            lines.append(f"{name}: {value}")
        return ("\r\n".join(lines) + "\r\ncontent-length: ").encode("ascii")

    async def send(
        self, prepared: bytes, body: bytes, *, timeout_s: float, max_answer_bytes: int | None = None
    ) -> Answer:
        """Sends one request and reads its whole answer, whatever its status, within `timeout_s` seconds in all.

        `prepared` comes from `prepare`; `max_answer_bytes` lowers the client's own cap for this answer. Raises
        `ProviderFailure` as the module's `Failure:` says. Cancelling the caller closes the connection: a half-read
        answer must never meet the next call.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        request = b"%b%d\r\n\r\n%b" % (prepared, len(body), body)
        most = min(self._max_answer_bytes, max_answer_bytes or self._max_answer_bytes)
        if self._busy < self._max_connections:
            self._busy += 1
        else:
            await self._wait_for_slot(loop, deadline)
        try:
            connection = self._take_idle(loop)
            if connection is not None:
                try:
                    return await self._exchange(loop, connection, request, deadline, most)
                except ConnectionStale:
                    self._resent += 1
                    return await self._resend(loop, request, deadline, most)
            connection = await self._connect(loop, deadline)
            return await self._exchange(loop, connection, request, deadline, most)
        finally:
            self._release_slot()

    async def _exchange(
        self, loop: asyncio.AbstractEventLoop, connection: HttpConnection, request: bytes, deadline: float, most: int
    ) -> Answer:
        waiter = connection.start(loop, request, most)
        timer = loop.call_at(deadline, connection.expire)
        try:
            answer = await waiter
        except asyncio.CancelledError:
            connection.abort()
            raise
        finally:
            timer.cancel()
        if connection.reusable:
            self._park(loop, connection)
        return answer

    async def _resend(self, loop: asyncio.AbstractEventLoop, request: bytes, deadline: float, most: int) -> Answer:
        try:
            connection = await self._connect(loop, deadline)
        except ProviderFailure as failure:
            # The first attempt did leave this machine, so this is not "nothing was sent" any more.
            raise ProviderFailure(FailureKind.DISCONNECTED, f"closed unanswered, then {failure.detail}") from failure
        return await self._exchange(loop, connection, request, deadline, most)

    async def _connect(self, loop: asyncio.AbstractEventLoop, deadline: float) -> HttpConnection:
        allowed_s = min(self._connect_timeout_s, deadline - loop.time())
        try:
            async with asyncio.timeout(allowed_s):
                connection = await self._connect_to_one(loop, await self._resolved(loop))
        except TimeoutError:
            raise ProviderFailure(FailureKind.UNREACHABLE, f"no connection within {max(allowed_s, 0):.1f} s") from None
        except ssl.SSLCertVerificationError as error:
            raise ProviderFailure(FailureKind.UNREACHABLE, f"TLS: {error.verify_message}") from error
        except (OSError, UnicodeError) as error:  # UnicodeError: a host name that IDNA cannot encode
            reason = getattr(error, "strerror", None) or getattr(error, "reason", None) or type(error).__name__
            raise ProviderFailure(FailureKind.UNREACHABLE, f"cannot connect: {reason}") from error
        self._opened += 1
        return connection

    async def _resolved(self, loop: asyncio.AbstractEventLoop) -> list[str]:
        """The addresses of the host. What is looked at here is what is connected to: a name that means something else
        a moment later leads nowhere."""
        try:
            ip_address(self._host)
            addresses = [self._host]  # nobody need be asked
        except ValueError:
            found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
            addresses = [str(entry[4][0]) for entry in found]
        if any(is_metadata(ip_address(each.partition("%")[0])) for each in addresses):
            raise ProviderFailure(FailureKind.UNREACHABLE, "the host leads to a cloud's metadata service")
        return addresses

    async def _connect_to_one(self, loop: asyncio.AbstractEventLoop, addresses: list[str]) -> HttpConnection:
        """The first that answers."""
        for number, address in enumerate(addresses, start=1):
            try:
                _, connection = await loop.create_connection(
                    lambda: HttpConnection(self._forget),
                    address,
                    self._port,
                    ssl=self._ssl,
                    server_hostname=self._host if self._ssl else None,
                )
            except ssl.SSLError:
                raise
            except OSError:
                if number == len(addresses):
                    raise
            else:
                return connection
        raise OSError("the name has no address")

    async def _wait_for_slot(self, loop: asyncio.AbstractEventLoop, deadline: float) -> None:
        waiter: asyncio.Future[None] = loop.create_future()
        self._waiting.append(waiter)
        try:
            async with asyncio.timeout_at(deadline):
                await waiter
        except BaseException as error:
            if waiter.done() and not waiter.cancelled():
                self._release_slot()  # it was handed to us while we were giving up
            else:
                self._waiting.remove(waiter)
            if isinstance(error, TimeoutError):
                detail = f"all {self._max_connections} connections were busy until the deadline"
                raise ProviderFailure(FailureKind.BUSY, detail) from None
            raise

    def _release_slot(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)  # the slot changes hands, `_busy` stays
                return
        self._busy -= 1

    def _take_idle(self, loop: asyncio.AbstractEventLoop) -> HttpConnection | None:
        """The connection used last, if it is young enough: those that go unused then expire."""
        if not self._idle:
            return None
        connection = self._idle.pop()
        if connection.idle_since + self._idle_s > loop.time():
            return connection
        connection.close()
        while self._idle:  # the others are older still
            self._idle.pop().close()
        return None

    def _park(self, loop: asyncio.AbstractEventLoop, connection: HttpConnection) -> None:
        if self._closed:
            connection.close()
            return
        connection.idle_since = loop.time()
        self._idle.append(connection)
        if self._sweeper is None:
            self._sweeper = loop.call_later(self._idle_s, self._sweep, loop)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        oldest_allowed = loop.time() - self._idle_s
        while self._idle and self._idle[0].idle_since <= oldest_allowed:
            self._idle.popleft().close()
        next_at = self._idle[0].idle_since + self._idle_s if self._idle else None
        self._sweeper = loop.call_at(next_at, self._sweep, loop) if next_at is not None else None

    def _forget(self, connection: HttpConnection) -> None:
        if connection in self._idle:
            self._idle.remove(connection)

    def close(self) -> None:
        """Closes idle connections now and the others when their call ends; later calls are still served."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        while self._idle:
            self._idle.pop().close()

    def statistics(self) -> dict[str, int]:
        """Now: `busy`, `idle`, `waiting`. Since the start: `opened` connections, `resent` calls (stale keep-alive)."""
        return {
            "busy": self._busy,
            "idle": len(self._idle),
            "waiting": len(self._waiting),
            "opened": self._opened,
            "resent": self._resent,
        }
