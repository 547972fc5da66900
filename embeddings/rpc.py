"""What stands in a frame: JSON-RPC 2.0 in text, the same words as MessagePack in binary; both ways. Pure.

Owns the envelopes and the codes of errors. Both kinds of frames become an `Asked`, so that the methods know neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
import orjson

from core import errors
from core.asgi import Text
from core.errors import QuiverError
from embeddings import frames
from embeddings.frames import PONG, BadFrame, Type
from embeddings.methods import BY_NUMBER, METHODS, Method

PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS, INTERNAL = -32700, -32600, -32601, -32602, -32603
UNAUTHENTICATED, FORBIDDEN, NOT_FOUND, CONFLICT = -32001, -32003, -32004, -32009
QUOTA, RATE, NO_MODEL, PROVIDER, CANCELLED, TOO_LARGE = -32010, -32011, -32012, -32013, -32014, -32015
# The first kind that an error is of counts.
_CODES: tuple[tuple[type[QuiverError], int], ...] = (
    (errors.SpaceMismatch, NO_MODEL),
    (errors.InvalidRequest, INVALID_PARAMS),
    (errors.InvalidApiKey, UNAUTHENTICATED),
    (errors.PaymentRequired, QUOTA),
    (errors.KeyNotPermitted, FORBIDDEN),
    (errors.TenantSuspended, FORBIDDEN),
    (errors.NotFound, NOT_FOUND),
    (errors.Conflict, CONFLICT),
    (errors.RequestTooLarge, TOO_LARGE),
    (errors.RateLimitExceeded, RATE),
    (errors.NoModelAvailable, NO_MODEL),
    (errors.ProviderError, PROVIDER),
    (errors.ProviderCapacity, PROVIDER),
    (errors.ProviderTimeout, PROVIDER),
)
_MOST_SEQUENCE = 2**64
_LARGE_TEXT = 65_536  # bytes, of which no copy is made


class Asked(msgspec.Struct, frozen=True, gc=False):
    """One request of a client's. `id` is UNSET where it wants no answer."""

    method: Method
    params: bytes | msgspec.Raw
    id: str | int | msgspec.UnsetType | None
    is_binary: bool = False
    takes_zlib: bool = False

    @property
    def wants_answer(self) -> bool:
        return self.id is not msgspec.UNSET

    @property
    def name(self) -> tuple[bool, object]:
        """What it is known by while it is in flight: ids of text and sequences of binary frames are apart."""
        return self.is_binary, self.id


class Refused(Exception):
    """A frame that is no request; `answer` says so to its sender."""

    def __init__(self, answer: str | bytes, code: int) -> None:
        super().__init__(code)
        self.answer = answer
        self.code = code


_Number = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class _Envelope(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    jsonrpc: Literal["2.0"]
    method: str
    id: str | _Number | msgspec.UnsetType | None = msgspec.UNSET
    params: msgspec.Raw = msgspec.Raw(b"{}")


class _Id(msgspec.Struct, gc=False):
    id: str | int | None = None


_envelope = msgspec.json.Decoder(_Envelope)
_only_id = msgspec.json.Decoder(_Id)
_pack = msgspec.msgpack.Encoder().encode
_json = msgspec.json.Encoder().encode


def read(data: str | bytes) -> Asked | None:
    """None: a pong, which asks for nothing. Raises `Refused`."""
    return _read_text(data) if isinstance(data, str) else _read_binary(data)


def _read_text(text: str) -> Asked:
    try:
        envelope = _envelope.decode(text)
    except msgspec.ValidationError as error:
        raise _refused_text(_id_in(text), INVALID_REQUEST, f"This is no JSON-RPC 2.0 request: {error}") from None
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise _refused_text(None, PARSE_ERROR, f"This is no JSON: {error}") from None
    method = METHODS.get(envelope.method)
    if method is None:
        raise _refused_text(envelope.id, METHOD_NOT_FOUND, f"There is no method {envelope.method[:100]!r}.")
    return Asked(method, envelope.params, envelope.id)


def _read_binary(data: bytes) -> Asked | None:
    try:
        frame = frames.read(data)
    except BadFrame as bad:
        code = TOO_LARGE if bad.is_too_large else INVALID_REQUEST
        raise _refused_binary(bad.sequence, 0, code, bad.message) from None
    if frame.method == PONG:
        return None
    method = BY_NUMBER.get(frame.method)
    if method is None:
        raise _refused_binary(frame.sequence, frame.method, METHOD_NOT_FOUND, f"There is no method {frame.method}.")
    # An empty payload stands for an empty map.
    return Asked(method, frame.payload or b"\x80", frame.sequence, True, bool(frame.flags & frames.ZLIB))


def result(asked: Asked, found: Mapping[str, Any]) -> Text | bytes:
    """The answer to a request, in the form it came in."""
    return packed(asked, found) if asked.is_binary else written(asked, orjson.dumps(found))


def written(asked: Asked, found: bytes) -> Text:
    """A text frame with an answer that is JSON already."""
    text = b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (_json(asked.id), found)
    return memoryview(text) if len(text) > _LARGE_TEXT else text.decode()


def packed(asked: Asked, found: Mapping[str, Any]) -> bytes:
    """A binary frame; also to who asked in text, with the id in the map. Raises `RequestTooLarge`."""
    number = asked.method.number or 0
    sequence = asked.id if isinstance(asked.id, int) and 0 <= asked.id < _MOST_SEQUENCE else 0
    payload = _pack(found if asked.is_binary else {"id": asked.id, **found})
    if len(payload) > frames.MOST_PAYLOAD:
        raise errors.RequestTooLarge(
            f"The answer would be larger than {frames.MOST_PAYLOAD} bytes; ask for less at a time. What was "
            "embedded is cached."
        )
    return frames.write(
        Type.RESPONSE,
        sequence,
        PONG if number == 8 else number,
        payload,
        flags=frames.BATCH if number == 65 else 0,
        deflate=asked.takes_zlib,
    )


def failure(asked: Asked, error: QuiverError, request_id: str = "") -> str | bytes:
    """The answer to a request that failed."""
    return refusal(asked, code_of(error), error.message, _data(error, request_id))


def refusal(asked: Asked, code: int, message: str, data: Mapping[str, Any]) -> str | bytes:
    body = {"code": code, "message": message, "data": data}
    if asked.is_binary:
        assert isinstance(asked.id, int)
        return frames.write(Type.ERROR, asked.id, asked.method.number or 0, _pack(body))
    return _text_error(asked.id, body)


def error_of(error: QuiverError) -> dict[str, Any]:
    """The error of one item among others."""
    return {"code": code_of(error), "message": error.message, "data": _data(error, "")}


def notification(method: str, params: Mapping[str, Any]) -> str:
    return (b'{"jsonrpc":"2.0","method":%b,"params":%b}' % (_json(method), orjson.dumps(params))).decode()


def binary_notification(method: str, params: Mapping[str, Any]) -> bytes:
    return frames.write(Type.NOTIFICATION, 0, 0, _pack({"method": method, "params": params}))


def progress(asked: Asked, params: Mapping[str, Any]) -> str | bytes:
    """How far a batch is."""
    if asked.is_binary:
        assert isinstance(asked.id, int)
        return frames.write(Type.PROGRESS, asked.id, asked.method.number or 0, _pack(params))
    return notification("embedding.progress", params)


def code_of(error: QuiverError) -> int:
    return next((code for kind, code in _CODES if isinstance(error, kind)), INTERNAL)


def _data(error: QuiverError, request_id: str) -> dict[str, Any]:
    data: dict[str, Any] = {"code": error.code, **error.extra}
    if error.param is not None:
        data["param"] = error.param
    if error.retry_after is not None:
        data["retry_after"] = error.retry_after
    if request_id:
        data["request_id"] = request_id
    return data


def _id_in(text: str) -> Any:
    try:
        return _only_id.decode(text).id
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None


def _refused_text(id: object, code: int, message: str) -> Refused:
    data = {"code": "method_not_found" if code == METHOD_NOT_FOUND else errors.InvalidRequest.code}
    return Refused(_text_error(id, {"code": code, "message": message, "data": data}), code)


def _refused_binary(sequence: int, method: int, code: int, message: str) -> Refused:
    words = {METHOD_NOT_FOUND: "method_not_found", TOO_LARGE: errors.RequestTooLarge.code}
    body = {"code": code, "message": message, "data": {"code": words.get(code, errors.InvalidRequest.code)}}
    return Refused(frames.write(Type.ERROR, sequence, method, _pack(body)), code)


def _text_error(id: object, body: Mapping[str, Any]) -> str:
    shown = None if id is msgspec.UNSET else id
    return (b'{"jsonrpc":"2.0","id":%b,"error":%b}' % (_json(shown), orjson.dumps(body, default=str))).decode()
