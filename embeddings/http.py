"""The data plane's HTTP door: `/v1/*` as a plain ASGI callable. Knows the wire and nothing else.

Translates: bytes into a checked request, an answer or an error of `core.errors` into bytes. Who may ask is
`configuration` and `tenants.scopes`; what is answered is `gateway`.

Failure: an exception that is no `QuiverError` is a defect: logged with the request id, answered as 500.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec
import orjson

from billing.idempotency import LONGEST_KEY, Claims, Replay, digest_of
from core import errors
from core.asgi import BODY, WHOLE
from core.clock import unix_ms
from core.ids import uuid7_text
from embeddings import answers, listing, requests
from embeddings.caller import Call
from embeddings.configuration import Configuration
from embeddings.estimating import Estimates
from embeddings.gateway import Answer, Gateway
from embeddings.observing import Observer
from embeddings.snapshot import TenantSnapshot
from providers.heavy import off_loop
from tenants import key_use
from tenants.admission import check_use, key_text
from tenants.keys import is_well_formed
from tenants.scopes import Scope, granting
from tenants.snapshots import KeyGrant

log = logging.getLogger(__name__)

Scope_ = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
RequestHeaders = Mapping[bytes, bytes]


class Served(NamedTuple):
    """What is served at a path: by which method, and to keys with which scopes, any of them."""

    method: str
    scopes: tuple[Scope, ...]
    granting: frozenset[str]  # those, and what contains one of them


def _served(method: str, *scopes: Scope) -> Served:
    return Served(method, scopes, granting(scopes))


_EMBED, _ESTIMATE = _served("POST", Scope.EMBEDDINGS), _served("POST", Scope.EMBEDDINGS)
_MODELS = _served("GET", Scope.MODELS_READ, Scope.EMBEDDINGS)
_OF_MODELS = "/v1/models/"  # what follows names one
# Every path that this door serves.
ROUTES: Mapping[str, Served] = {
    "/v1/embeddings": _EMBED,
    "/api/v1/embeddings": _EMBED,
    "/v1/embeddings/estimate": _ESTIMATE,
    "/api/v1/embeddings/estimate": _ESTIMATE,
    "/v1/models": _MODELS,
    _OF_MODELS: _MODELS,
}
_LONGEST_HEADER = 300
_REPLAYED = (b"idempotent-replayed", b"true")
_HEAVY_BODY = 262_144  # bytes; about a millisecond of decoding
# Clients that are cut off before they have sent anything much do not read the refusal.
_READ_BEFORE_REFUSING = 1024 * 1024


class Door:
    def __init__(
        self,
        *,
        gateway: Gateway,
        estimates: Estimates,
        configuration: Configuration,
        claims: Claims,
        observer: Observer,
        deadline_s: float,
        most_body_bytes: int,
    ) -> None:
        self._gateway = gateway
        self._estimates = estimates
        self._configuration = configuration
        self._claims = claims
        self._observer = observer
        self._deadline_s = deadline_s
        self._most_body_bytes = most_body_bytes
        self._under_way: set[asyncio.Task[Any]] = set()
        self._is_draining = False

    async def __call__(self, scope: Scope_, receive: Receive, send: Send) -> None:
        started = time.monotonic()
        created_ms = unix_ms()
        request_id = uuid7_text(created_ms)
        task = asyncio.current_task()
        assert task is not None
        self._under_way.add(task)
        try:
            status, headers, body = await self._answer(scope, receive, request_id, created_ms, started)
        finally:
            self._under_way.discard(task)
        headers += (
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"x-request-id", request_id.encode()),
            (b"cache-control", b"private, no-store"),
        )
        if WHOLE in scope.get("extensions", ()):
            await send({"type": WHOLE, "status": status, "headers": headers, "body": body})
        else:
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body})

    async def drain(self, grace_s: float) -> None:
        """Refuses new requests, lets those under way finish within `grace_s`, then refuses them as well."""
        self._is_draining = True
        deadline = time.monotonic() + grace_s
        while self._under_way and time.monotonic() < deadline:
            await asyncio.wait(self._under_way, timeout=deadline - time.monotonic())
        for task in list(self._under_way):
            task.cancel()

    def statistics(self) -> dict[str, int]:
        return {"under_way": len(self._under_way)}

    async def _answer(
        self, scope: Scope_, receive: Receive, request_id: str, created_ms: int, started: float
    ) -> tuple[int, answers.Headers, bytes]:
        """Status, headers, body; whatever happens."""
        error: errors.QuiverError
        seen = _Seen()
        try:
            if self._is_draining:
                raise _draining()
            return await self._route(scope, receive, request_id, created_ms, started, seen)
        except errors.QuiverError as refused:
            error = refused
        except asyncio.CancelledError:
            if not self._is_draining:
                raise
            error = _draining()
        except Exception:
            log.exception("request %s failed", request_id)
            error = errors.InternalError("An error of ours; the request id finds it in the log.")
        if not seen.by_gateway:
            self._observer.refused(seen.tenant, request_id, error.code, round((time.monotonic() - started) * 1000, 3))
        body, headers = answers.write_error(error, request_id)
        return error.status, headers, body

    async def _route(
        self, scope: Scope_, receive: Receive, request_id: str, created_ms: int, started: float, seen: _Seen
    ) -> tuple[int, answers.Headers, bytes]:
        path, method = scope["path"], scope["method"]
        headers: RequestHeaders = dict(scope["headers"])
        route = ROUTES.get(_OF_MODELS if path.startswith(_OF_MODELS) else path)
        if route is None:
            raise errors.NotFound(f"There is no {path[:100]} here; see /api/docs.")
        _require_method(method, route.method)
        key, snapshot = await self._authenticate(scope, headers, seen, route)
        if route is _EMBED or route is _ESTIMATE:
            agent_id = _agent(headers, key, snapshot)
            deadline = started + self._timeout_s(headers)
            call = Call(request_id, created_ms, key, snapshot, started, deadline, agent_id)
            _check_kind(headers)
            body = self._whole_body(scope)
            if body is None:
                body = await self._read(headers, receive, deadline)
            request = await self._request(headers, body)
            if route is _ESTIMATE:
                return 200, [], orjson.dumps(await self._estimates.estimate(request, call))
            idempotency_key = _idempotency_key(headers)
            if idempotency_key is None:
                return await self._serve(request, call, seen)
            return await self._once(request, call, seen, idempotency_key, _meaning(headers, body, call))
        now = datetime.now(UTC)
        if path.startswith(_OF_MODELS):
            return 200, [], listing.get_model(snapshot, key, path.removeprefix(_OF_MODELS), now)
        return 200, [], listing.list_models(snapshot, key, now)

    def _whole_body(self, scope: Scope_) -> bytes | None:
        """What has come already, where that is all of it and not too much."""
        body: bytes | None = scope.get(BODY)
        return None if body is None or len(body) > self._most_body_bytes else body

    async def _request(self, headers: RequestHeaders, body: bytes) -> requests.EmbeddingRequest:
        space = headers.get(b"x-require-embedding-space", b"")[:_LONGEST_HEADER].decode("latin-1")
        cache_control = headers.get(b"cache-control", b"").lower()
        if len(body) > _HEAVY_BODY:
            return await off_loop(requests.decode, body, required_space=space, cache_control=cache_control)
        return requests.decode(body, required_space=space, cache_control=cache_control)

    async def _serve(
        self, request: requests.EmbeddingRequest, call: Call, seen: _Seen
    ) -> tuple[int, answers.Headers, bytes]:
        seen.by_gateway = True
        answer = await self._gateway.embed(request, call)
        return 200, answers.headers_of(answer), await self._write(answer, base64=request.base64)

    async def _once(
        self, request: requests.EmbeddingRequest, call: Call, seen: _Seen, key: bytes, meaning: bytes
    ) -> tuple[int, answers.Headers, bytes]:
        """Serves the first request with a key; who repeats it gets its answer, and is never charged again."""
        claim = await self._claims.claim(
            tenant_id=call.snapshot.config.tenant_id,
            key=key,
            body_digest=meaning,
            request_id=call.request_id,
            within_s=call.deadline - time.monotonic(),
        )
        if isinstance(claim, Replay):
            return claim.status, [*claim.headers, _REPLAYED], claim.body
        try:
            status, headers, body = await self._serve(
                request, msgspec.structs.replace(call, claim_id=claim.id, free=claim.is_charged), seen
            )
        except BaseException:  # whatever it was, the key may be tried again
            await self._claims.forget(claim)
            raise
        await self._claims.keep(claim, status=status, headers=headers, body=body)
        return status, [*headers, _REPLAYED] if claim.is_charged else headers, body

    async def _write(self, answer: Answer, *, base64: bool) -> bytes:
        vectors, failed = answer.vectors, answer.failed
        if vectors.size > (answers.HEAVY_BASE64 if base64 else answers.HEAVY_FLOATS):
            data = await off_loop(answers.write_data, vectors, base64=base64, failed=failed)
        else:
            data = answers.write_data(vectors, base64=base64, failed=failed)
        return answers.write_answer(answer, data)

    async def _read(self, headers: RequestHeaders, receive: Receive, deadline: float) -> bytes:
        """The body, refused while it is being read once it is too large."""
        most = self._most_body_bytes
        declared = headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared[:15]) > most:
            most = _READ_BEFORE_REFUSING
        parts: list[bytes] = []
        size, is_complete = 0, False
        while not is_complete:
            message = await _receive_by(deadline, receive)
            if message["type"] == "http.disconnect":  # what came may look complete without being it
                raise errors.InvalidRequest("The client left before its body was complete.")
            part: bytes = message.get("body", b"")
            size += len(part)
            if size > most:
                raise errors.RequestTooLarge(f"The body may have {self._most_body_bytes} bytes; split it.")
            parts.append(part)
            is_complete = not message.get("more_body", False)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _authenticate(
        self, scope: Scope_, headers: RequestHeaders, seen: _Seen, route: Served
    ) -> tuple[KeyGrant, TenantSnapshot]:
        text = _credential(headers)
        digest = hashlib.sha256(text).digest()
        found = self._configuration.known(digest)
        if found is None:
            if not is_well_formed(text.decode("latin-1")):
                raise errors.InvalidApiKey("This is no API key of Quiver's; is it complete?")
            found = await self._configuration.find(digest)
        key, snapshot = found
        seen.tenant = snapshot.config.slug
        now = datetime.now(UTC)
        check_use(key, now=now, address=(scope.get("client") or ("",))[0])
        if snapshot.config.is_suspended:
            raise errors.TenantSuspended("This tenant is suspended; its owner can ask the platform's operator why.")
        if key.scopes.isdisjoint(route.granting):
            raise errors.KeyNotPermitted(f"This key lacks the scope `{route.scopes[0]}`.")
        key_use.note(key.key_id, now)
        return key, snapshot

    def _timeout_s(self, headers: RequestHeaders) -> float:
        """`X-Request-Timeout-Ms` shortens the deadline and never lengthens it."""
        asked = headers.get(b"x-request-timeout-ms")
        if asked is None:
            return self._deadline_s
        if not asked.isdigit() or not int(asked[:12]) > 0:
            raise errors.InvalidRequest(
                "`X-Request-Timeout-Ms` must be a whole number of milliseconds.", param="X-Request-Timeout-Ms"
            )
        return min(self._deadline_s, int(asked[:12]) / 1000)


class _Seen:
    """What is known of a request when it fails, for its log line."""

    __slots__ = ("by_gateway", "tenant")

    def __init__(self) -> None:
        self.tenant = ""
        self.by_gateway = False  # then the gateway has told the observer already


async def _receive_by(deadline: float, receive: Receive) -> MutableMapping[str, Any]:
    """The next message. A bare timer, because `asyncio.timeout` costs four times as much on every request."""
    task = asyncio.current_task()
    assert task is not None
    is_late = False

    def expire() -> None:
        nonlocal is_late  # the clock cannot tell: loops fire timers up to some milliseconds early
        is_late = True
        task.cancel()

    timer = asyncio.get_running_loop().call_later(max(0.0, deadline - time.monotonic()), expire)
    try:
        return await receive()
    except asyncio.CancelledError:
        if not is_late:
            raise
        task.uncancel()
        raise errors.InvalidRequest("The body did not arrive before the deadline.") from None
    finally:
        timer.cancel()


def _draining() -> errors.Draining:
    return errors.Draining("This process is stopping; try again.", retry_after=1)


def _check_kind(headers: RequestHeaders) -> None:
    content_type = headers.get(b"content-type", b"")
    if content_type != b"application/json" and content_type.partition(b";")[0].strip().lower() != b"application/json":
        raise errors.UnsupportedMediaType("Send the body as `Content-Type: application/json`.", param="Content-Type")
    if headers.get(b"content-encoding", b"identity") != b"identity":
        raise errors.UnsupportedMediaType("Send the body uncompressed.", param="Content-Encoding")


def _require_method(method: str, wanted: str) -> None:
    if method != wanted:
        raise errors.MethodNotAllowed(f"Only {wanted} is served here.")


def _credential(headers: RequestHeaders) -> bytes:
    authorization, x_api_key = headers.get(b"authorization", b""), headers.get(b"x-api-key")
    if x_api_key is None and authorization[:7].lower() == b"bearer ":  # nearly always: all that it needs
        return authorization[7:].strip()
    return key_text(
        authorization=authorization.decode("latin-1"), x_api_key=(x_api_key or b"").decode("latin-1")
    ).encode("latin-1")


def _idempotency_key(headers: RequestHeaders) -> bytes | None:
    key = headers.get(b"idempotency-key")
    if key is not None and not 1 <= len(key) <= LONGEST_KEY:
        raise errors.InvalidRequest(
            f"`Idempotency-Key` must have 1 to {LONGEST_KEY} characters.", param="Idempotency-Key"
        )
    return key


def _meaning(headers: RequestHeaders, body: bytes, call: Call) -> bytes:
    """A digest of what decides the answer: another path, deadline or key with the same rights does not."""
    space = headers.get(b"x-require-embedding-space", b"")
    agent = call.agent_id.encode()
    return digest_of(body, (space, agent, *(model.encode() for model in sorted(call.key.models))))


def _agent(headers: RequestHeaders, key: KeyGrant, snapshot: TenantSnapshot) -> str:
    """Which of the tenant's agents asks, if any."""
    asked = headers.get(b"x-agent-id")
    if asked is None:
        return key.agent_id
    agent_id = asked.decode("utf-8", "replace")
    if key.agent_id and agent_id != key.agent_id:
        raise errors.KeyNotPermitted("This key is bound to another agent.", param="X-Agent-Id")
    if agent_id != key.agent_id and agent_id not in snapshot.config.agents:
        raise errors.NotFound("No such agent is registered for this tenant.", param="X-Agent-Id")
    return agent_id
