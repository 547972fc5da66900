"""One socket: what has come, what is in flight, what waits to be told, and whose it is.

Owns order and bounds on one connection: its pace, the requests in flight, the notices that wait for a slow reader, and
that nothing is sent after the end. What is short is done in the order it came; what is long (an embedding) is answered
as it gets ready. What a method does is its handler's; what comes over the wire is `consumers.py`'s.

Failure: an exception that is no `QuiverError` is a defect: logged, answered as -32603, and the socket lives on. A
client that has gone is served to the end (`gateway.py`), its answers are dropped.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from core import errors
from core.asgi import Text
from core.clock import utc_now
from core.errors import InvalidApiKey, QuiverError
from embeddings import frames, methods, rpc
from embeddings.methods import Method
from embeddings.outbox import Outbox
from embeddings.pacing import Pace, Verdict
from embeddings.rpc import Asked
from embeddings.snapshot import TenantSnapshot
from providers.heavy import off_loop
from tenants import key_use
from tenants.admission import check_use
from tenants.keys import is_well_formed
from tenants.snapshots import KeyGrant

if TYPE_CHECKING:
    from embeddings.news import EventId
    from embeddings.presence import Session
    from embeddings.sockets import Sockets

log = logging.getLogger(__name__)

UNAUTHENTICATED, IDLE, REPLACED, FLOODING = 4401, 4408, 4409, 4429
TOO_BIG, RESTART = 1009, 1012
HEAVY_BYTES = 262_144  # bytes; about a millisecond of reading
_HEAVY_ZLIB = 256  # zlib inflates a thousandfold
_MOST_SHORT = 65_536  # bytes of what is no text to embed; metadata has up to 16 KiB
_MOST_HELD = 64 * 1024 * 1024  # bytes as they go over the wire, beside what 32 small answers may have
_GOODBYE_S = 1.0  # for the last words to one that is closed

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Reply = Text | bytes


class Notice:
    """What is told to many sockets is written once for each kind of frame."""

    __slots__ = ("_binary", "_text", "method", "params")

    def __init__(self, method: str, params: Mapping[str, Any]) -> None:
        self.method = method
        self.params = params
        self._text = ""
        self._binary = b""

    def framed(self, *, is_binary: bool) -> Reply:
        if is_binary:
            self._binary = self._binary or rpc.binary_notification(self.method, self.params)
            return self._binary
        self._text = self._text or rpc.notification(self.method, self.params)
        return self._text


class Running:
    """One request that is being answered."""

    __slots__ = ("asked", "connection", "held", "is_answered", "key", "request_id", "snapshot", "started")

    def __init__(self, connection: Connection, asked: Asked, started: float) -> None:
        self.connection = connection
        self.asked = asked
        self.started = started
        self.is_answered = not asked.wants_answer
        self.request_id = ""
        self.held = 0  # bytes of a large answer
        self.key: KeyGrant
        self.snapshot: TenantSnapshot

    @property
    def is_wanted(self) -> bool:
        """Whether somebody still waits for it, or never did."""
        return not self.connection.is_closed and (not self.is_answered or not self.asked.wants_answer)


Handler = Callable[[Running, Any], Awaitable[Reply]]


class Connection:
    __slots__ = (
        "_heard",
        "_pace",
        "_send",
        "_sockets",
        "_writer",
        "address",
        "agent_id",
        "digest",
        "heard_at",
        "held",
        "id",
        "in_flight",
        "is_closed",
        "is_closing",
        "last_told",
        "opened_at",
        "outbox",
        "replying",
        "session",
        "speaks_binary",
        "status",
        "tenant_id",
        "topics",
    )

    def __init__(
        self, sockets: Sockets, send: Send, address: str, id: str, heard: Callable[[], float] | None = None
    ) -> None:
        now = time.monotonic()
        self._sockets = sockets
        self._send = send
        self._heard = heard
        self._pace = Pace(sockets.bounds, now)
        self._writer: asyncio.Task[None] | None = None
        self.id = id
        self.address = address
        self.opened_at = self.heard_at = now
        self.digest: bytes | None = None
        self.tenant_id: Any = None
        self.agent_id = ""  # registered here
        self.session: Session | None = None
        self.status: Literal["available", "busy", "offline"] = "available"
        self.topics: frozenset[str] = frozenset()
        self.last_told: EventId | None = None  # when it registered, until it subscribes
        self.in_flight: dict[object, Running] = {}
        self.replying = 0
        self.held = 0  # bytes of large answers that are under way, or not taken yet
        self.outbox: Outbox[Notice | Reply] = Outbox(sockets.bounds.notifications)
        self.speaks_binary = False  # notices go out as the agent has registered
        self.is_closing = False  # nothing that comes is read any more
        self.is_closed = False  # and nothing is sent

    @property
    def under_way(self) -> int:
        """Requests that have no answer yet, and answers that the reader has not taken."""
        return len(self.in_flight) + self.replying

    @property
    def last_heard(self) -> float:
        return self.heard_at if self._heard is None else max(self.heard_at, self._heard())

    # Who it is

    async def authenticate(self, text: str) -> tuple[KeyGrant, TenantSnapshot]:
        """Whose socket this is from now on. Raises `InvalidApiKey` and its kin."""
        if not is_well_formed(text):
            raise InvalidApiKey("This is no API key of Quiver's; is it complete?")
        digest = hashlib.sha256(text.encode()).digest()
        found = await self._sockets.configuration.find(digest)
        self._check(*found)
        self.digest, self.tenant_id = digest, found[1].config.tenant_id
        self._sockets.belongs(self)
        return found

    async def identity(self) -> tuple[KeyGrant, TenantSnapshot]:
        """The key and its tenant as they are at this moment."""
        if self.digest is None:
            raise InvalidApiKey("Say first who you are: `session.authenticate`.")
        found = self._sockets.configuration.known(self.digest)
        if found is None:
            found = await self._sockets.configuration.find(self.digest)
        self._check(*found)
        return found

    def _check(self, key: KeyGrant, snapshot: TenantSnapshot) -> None:
        check_use(key, now=utc_now(), address=self.address)
        if snapshot.config.is_suspended:
            raise errors.TenantSuspended("This tenant is suspended; its owner can ask the platform's operator why.")

    # What comes

    async def take(self, data: str | bytes) -> None:
        """One message of the client's."""
        now = self.heard_at = time.monotonic()
        verdict = self._pace.judge(now)
        if verdict is Verdict.CLOSE:
            self.close(FLOODING, "too many messages, in spite of refusals")
            return
        if self._is_too_big(data):
            self.close(TOO_BIG, f"a text frame has at most {self._sockets.bounds.text_bytes} bytes")
            return
        try:
            asked = await off_loop(partial(rpc.read, data)) if _is_heavy(data) else rpc.read(data)
        except rpc.Refused as refused:
            self._sockets.count("in", "invalid")
            await self.send(refused.answer)
            return
        if asked is None:
            self._sockets.count("in", "pong")
            return
        self._sockets.count("in", asked.method.name)
        running = Running(self, asked, now)
        if verdict is Verdict.REFUSE:
            retry_after = max(1, round(self._pace.retry_after_s))
            await self._refuse(running, errors.RateLimitExceeded("Too many messages.", retry_after=retry_after))
        elif not asked.method.is_long:
            await self._run(running)
        elif (error := self._no_room(asked)) is not None:
            await self._refuse(running, error)
        else:
            self.in_flight[asked.name if asked.wants_answer else running] = running
            self._sockets.spawn(self._run(running))

    def _is_too_big(self, data: str | bytes) -> bool:
        if isinstance(data, bytes):
            return len(data) > frames.MOST_FRAME
        most = self._sockets.bounds.text_bytes
        return len(data) > most or (4 * len(data) > most and not data.isascii() and len(data.encode()) > most)

    def _no_room(self, asked: Asked) -> QuiverError | None:
        if self._sockets.is_draining:
            return errors.Draining("This process is stopping; connect again.", retry_after=1)
        if self.under_way >= self._sockets.bounds.in_flight:
            return errors.RateLimitExceeded(
                f"{self.under_way} requests are in flight on this connection; wait for one.", retry_after=1
            )
        if asked.wants_answer and asked.name in self.in_flight:
            return errors.Conflict(f"A request with the id {asked.id!r} is in flight.", param="id")
        return None

    def hold(self, running: Running, size: int, *, is_cached: bool = False) -> None:
        """Room for a large answer of this size until it is taken; on a socket, for one alone always. Raises
        `RateLimitExceeded`, which says it where what is refused `is_cached`."""
        more = size - running.held
        if more <= 0:
            return
        cached = " What was embedded is cached: to ask for it again costs nothing." if is_cached else ""
        if self.held > running.held and self.held + more > _MOST_HELD:
            raise errors.RateLimitExceeded(
                f"As many large answers as may be are under way on this connection; read one.{cached}", retry_after=1
            )
        if not self._sockets.hold(self.tenant_id, more):
            raise errors.RateLimitExceeded(
                f"As many large answers as may be are under way in this process; wait.{cached}", retry_after=1
            )
        self.held += more
        running.held += more

    async def _refuse(self, running: Running, error: QuiverError) -> None:
        if running.asked.wants_answer:
            await self.send(rpc.failure(running.asked, error), method=running.asked.method)

    async def _run(self, running: Running) -> None:
        """Answers one request, whatever happens."""
        asked, was_known = running.asked, self.digest is not None
        try:
            reply = await self._answer(running)
        except QuiverError as error:
            reply = rpc.failure(asked, error, running.request_id)
            if isinstance(error, InvalidApiKey) and (was_known or asked.method.name == "session.authenticate"):
                self.close(UNAUTHENTICATED, error.message, telling=reply if asked.wants_answer else None)
                running.is_answered = True
        except Exception:
            log.exception("socket: %s failed", asked.method.name)
            defect = errors.InternalError("An error of ours; the request id finds it in the log.")
            reply = rpc.failure(asked, defect, running.request_id)
        finally:
            self.in_flight.pop(asked.name if asked.wants_answer else running, None)
        try:
            if not running.is_answered:
                running.is_answered = True
                await self._reply(reply, asked.method)
        finally:
            if running.held:
                self.held -= running.held
                self._sockets.let_go(self.tenant_id, running.held)

    async def _answer(self, running: Running) -> Reply:
        asked = running.asked
        method = asked.method
        if method.name != "session.authenticate":
            running.key, running.snapshot = await self.identity()
            methods.check_scope(method, running.key)
            if method.needs_agent and not self.agent_id:
                raise errors.Conflict("No agent is registered on this socket; send `agent.register` first.")
            key_use.note(running.key.key_id, utc_now())
        params, size = asked.params, memoryview(asked.params).nbytes
        if not method.is_long and size > _MOST_SHORT:
            raise errors.RequestTooLarge(f"`params` of {method.name} has at most {_MOST_SHORT} bytes.", param="params")
        decode = partial(methods.decode, method, params, is_binary=asked.is_binary)
        found = await off_loop(decode) if size > HEAVY_BYTES else decode()
        return await self._sockets.handlers[method.name](running, found)

    async def give_up(self, running: Running) -> bool:
        """Answers a request at once that its client does not want any more; what was begun goes on by itself."""
        if running.is_answered:
            return False
        running.is_answered = True
        message = "Cancelled; what was sent to a provider is paid for, and cached."
        # An answer, so it is sent and waited for: what waits in the outbox may be dropped.
        refusal = rpc.refusal(running.asked, rpc.CANCELLED, message, {"code": "cancelled"})
        await self._reply(refusal, running.asked.method)
        return True

    # What goes

    async def _reply(self, data: Reply, method: Method) -> None:
        """An answer takes room until it is taken: who does not read may not pile up megabytes here."""
        self.replying += 1
        try:
            await self.send(data, method=method)
        finally:
            self.replying -= 1

    async def send(self, data: Reply, *, method: Method | None = None) -> None:
        """Waits for a slow reader; nothing is sent to one that has gone."""
        if self.is_closed:
            return
        self._sockets.count("out", "notification" if method is None else method.name)
        message: dict[str, Any] = {"type": "websocket.send"}
        message["bytes" if isinstance(data, bytes) else "text"] = data
        try:
            await self._send(message)
        except (OSError, RuntimeError):  # it has gone, or another of our tasks has closed it meanwhile
            self.is_closed = True

    def notify(self, notice: Notice | Reply, *, name: object = None) -> None:
        """Has something told, as soon as the reader takes it; with a name, only its newest form."""
        if self.is_closed:
            return
        self.outbox.put(notice, name=name)
        if self._writer is None:
            self._writer = self._sockets.spawn(self._write())

    async def _write(self) -> None:
        try:
            while not self.is_closed:
                if dropped := self.outbox.take_dropped():
                    self._sockets.dropped += dropped
                    told = Notice("resync", {"reason": "dropped", "dropped": dropped})
                    await self.send(told.framed(is_binary=self.speaks_binary))
                notice = self.outbox.take()
                if notice is None:
                    return
                if isinstance(notice, Notice):
                    notice = notice.framed(is_binary=self.speaks_binary)
                await self.send(notice)
        finally:
            self._writer = None

    # The end

    def close(self, code: int, reason: str, *, telling: Reply | Notice | None = None) -> None:
        """Ends the connection, with a last word; what is in flight is served to the end and told nobody.

        Waits for nobody: the other side answers a close only once it has been read to the end.
        """
        if not self.is_closing:
            self.is_closing = True
            self._sockets.spawn(self._close(code, reason, telling))

    async def _close(self, code: int, reason: str, telling: Reply | Notice | None) -> None:
        if isinstance(telling, Notice):
            telling = telling.framed(is_binary=self.speaks_binary)
        if telling is not None:
            await asyncio.wait([asyncio.ensure_future(self.send(telling))], timeout=_GOODBYE_S)
        if self.is_closed:
            return
        self.is_closed = True
        try:
            await self._send({"type": "websocket.close", "code": code, "reason": _short(reason)})
        except (OSError, RuntimeError):  # it has gone by itself
            return


def _is_heavy(data: str | bytes) -> bool:
    if len(data) > HEAVY_BYTES:
        return True
    is_deflated = isinstance(data, bytes) and len(data) > frames.HEADER.size and bool(data[7] & frames.ZLIB)
    return is_deflated and len(data) > _HEAVY_ZLIB


def _short(reason: str) -> str:
    """What fits into a close frame."""
    return reason.encode()[:120].decode(errors="ignore")
