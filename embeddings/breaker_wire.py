"""What stands in Redis about breakers, and what is said there: keys, fields, messages, the two steps that write.

One hash holds everything that must be known together: a field per route with its `Breaker` as msgpack, a field
`!pattern` per operator's force, and `@`, another word after every change that others must hear of, so that a poll reads
one field. A second hash holds each process's latencies. Owns no connection; `breaker_board.py` and
`breaker_control.py` bring theirs.

The steps know nothing of breakers: `SWAP` writes a value only over the one it was made from, so the rules of
`breaker.py`, in Python, are the only ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from billing.redis_pipe import Script
from embeddings.breaker import Breaker, Force

KEY = "quiver:breakers"
FIGURES_KEY = "quiver:breakers:figures"
CHANNEL = "quiver:breakers"
REVISION = "@"
FORCE_MARK = "!"
FORGET_MS = 24 * 3600 * 1000  # a route that nobody called for a day is forgotten

# KEYS: the hash. ARGV: field, what it must hold ('' = nothing), what it shall hold ('' = nothing),
# channel, message ('' = no news), the new revision. 1, or what the field holds instead.
SWAP = Script("""
local was = redis.call('HGET', KEYS[1], ARGV[1]) or ''
if was ~= ARGV[2] then return was end
if ARGV[3] == '' then redis.call('HDEL', KEYS[1], ARGV[1]) else redis.call('HSET', KEYS[1], ARGV[1], ARGV[3]) end
if ARGV[5] ~= '' then
  redis.call('HSET', KEYS[1], '@', ARGV[6])
  redis.call('PUBLISH', ARGV[4], ARGV[5])
end
return 1
""")
# KEYS: the hash. ARGV: field, what it shall hold ('' = nothing), channel, message, the new revision.
PUT = Script("""
if ARGV[2] == '' then redis.call('HDEL', KEYS[1], ARGV[1]) else redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) end
redis.call('HSET', KEYS[1], '@', ARGV[5])
redis.call('PUBLISH', ARGV[3], ARGV[4])
return 1
""")
SCRIPTS = (SWAP, PUT)


class Message(msgspec.Struct, frozen=True, array_like=True):
    """One field of the hash, as it is now."""

    field: str
    value: bytes


class Figures(msgspec.Struct, frozen=True, array_like=True):
    """One process's latencies: bins by route."""

    at: int
    bins: dict[str, dict[int, int]]


@dataclass(frozen=True, slots=True)
class Held:
    """The whole hash, read."""

    revision: bytes = b""
    routes: Mapping[str, bytes] = field(default_factory=dict)
    forces: Mapping[str, Force] = field(default_factory=dict)


_encoder = msgspec.msgpack.Encoder()
_breaker = msgspec.msgpack.Decoder(Breaker)
_message = msgspec.msgpack.Decoder(Message)
_figures = msgspec.msgpack.Decoder(Figures)


def encode(value: Breaker | Message | Figures) -> bytes:
    return _encoder.encode(value)


def breaker(blob: bytes) -> Breaker:
    """Of a field; a new one where there is none, or one of another build's form."""
    try:
        return _breaker.decode(blob) if blob else Breaker()
    except msgspec.MsgspecError:
        return Breaker()


def message(said: bytes) -> Message | None:
    """None for what is not ours; the poll finds what it may have meant."""
    try:
        return _message.decode(said)
    except msgspec.MsgspecError:
        return None


def figures(blob: bytes) -> Figures | None:
    try:
        return _figures.decode(blob)
    except msgspec.MsgspecError:
        return None


def force(word: bytes) -> Force | None:
    return Force(word.decode()) if word in (b"open", b"closed") else None


def held(fields: Iterable[tuple[bytes, bytes]]) -> Held:
    """The answer of HGETALL, sorted out."""
    revision, routes, forces = b"", {}, {}
    for raw, value in fields:
        name = raw.decode(errors="replace")
        if name == REVISION:
            revision = value
        elif not name.startswith(FORCE_MARK):
            routes[name] = value
        elif (forced := force(value)) is not None:
            forces[name.removeprefix(FORCE_MARK)] = forced
    return Held(revision, routes, forces)


def pairs(flat: Sequence[bytes]) -> Iterable[tuple[bytes, bytes]]:
    """Redis answers HGETALL with fields and values in turn."""
    return zip(flat[::2], flat[1::2], strict=True)


def put_force(pattern: str, state: Force | None, revision: str) -> tuple[str, str, str, bytes, str]:
    """The arguments of `PUT` that hold the routes of a pattern at a state, or let go of them."""
    name, word = FORCE_MARK + pattern, state.value if state is not None else ""
    return name, word, CHANNEL, encode(Message(name, word.encode())), revision


def is_forgotten(value: Breaker, now: int) -> bool:
    last = max([value.changed_at, value.capacity_until, *(mark.at for mark in value.window)])
    return last < now - FORGET_MS
