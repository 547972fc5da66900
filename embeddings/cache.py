"""Vectors that were computed before: a small memory of this process, and behind it Redis for all of them.

Owns where vectors are kept, for how long, and in which form (float32, little-endian, nothing else). Under which name is
`cache_keys.py`; who may have one from here, and at what price, is the gateway's. Give it a `RedisPipe` of its own: a
megabyte of vectors must not stand before the commands of the limits.

Failure: fails open. Redis away or refusing → what is not in this process's memory is a miss, and nothing is written;
slow for `patience_s` → the same, and Redis is left alone for a second, so that not every request waits. A value of
another size, or that is no vector, is a miss.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Protocol

import hiredis
import numpy as np
from numpy.typing import NDArray

from billing.redis_pipe import RedisAway, packed_set
from core import metrics
from providers.answers import check_vectors
from providers.base import Vectors
from providers.failures import ProviderFailure

Vector = NDArray[np.float32]  # one, of shape (dimensions,); those from the cache are read-only

LOCAL_TTL_S = 60.0
_FLOAT = np.dtype("<f4")
_ENTRY_BYTES = 250  # what a key and its place in the dictionary take
_RESTS_S = 1.0
_MOST_READ_BYTES = 1024 * 1024  # asked of Redis at once; others' answers come in between
_LOCAL_SHARE = 8  # of this memory, one request may fill one part: an ingest must not wash out what is asked for often


class Pipe(Protocol):
    """What is needed of `billing.redis_pipe.RedisPipe`."""

    @property
    def is_up(self) -> bool: ...
    def call(self, *words: bytes | str | int | float) -> asyncio.Future[Any]: ...
    def tell_all(self, commands: Sequence[bytes]) -> asyncio.Future[int]: ...


class VectorCache:
    def __init__(
        self,
        pipe: Pipe,
        *,
        most_local_bytes: int,
        local_ttl_s: float = LOCAL_TTL_S,
        patience_s: float = 0.1,
        most_writing_bytes: int = 4 * 1024 * 1024,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pipe = pipe
        self._local = _Memory(most_local_bytes)
        self._most_local_bytes = most_local_bytes
        self._local_ttl_s = local_ttl_s
        self._patience_s = patience_s
        self._most_writing_bytes = most_writing_bytes
        self._clock = clock
        self._resting_until = -math.inf
        self._writing_bytes = 0  # sent to Redis, not confirmed
        self._counted: dict[str, tuple[int, int]] = {}  # by model: hits and misses not written down yet
        self._hits = 0
        self._misses = 0
        self._unwritten = 0

    async def get(
        self,
        keys: Sequence[bytes],
        dimensions: int,
        *,
        full_keys: Sequence[bytes] = (),
        full_dimensions: int = 0,
        model: str = "",
    ) -> list[Vector | None]:
        """The vector of each key, or None: a miss. Does not wait when all are in memory, else for one answer of Redis.

        For a cut of a Matryoshka model, `full_keys` name the same items at the model's own width: their vectors serve
        the cut. `model` is the metric's label.
        """
        now = self._clock()
        look = self._local.get
        found = [None if (raw := look(key, now)) is None else _vector(raw, dimensions) for key in keys]
        gaps = _gaps(found)
        if gaps and full_keys:
            for index in gaps:
                raw = self._local.get(full_keys[index], now)
                found[index] = self._cut(keys[index], raw, full_dimensions, dimensions, now)
            gaps = _gaps(found)
        if gaps and self._pipe.is_up and now >= self._resting_until:
            await self._fetch(found, gaps, keys, dimensions, full_keys, full_dimensions)
            gaps = _gaps(found)
        self._note(model, len(found) - len(gaps), len(gaps))
        return found

    def put(self, keys: Sequence[bytes], vectors: Iterable[Vector], ttl_s: int) -> None:
        """Keeps row i under key i; waits for nothing. Give only vectors that passed `check_vectors`."""
        now = self._clock()
        until = now + min(self._local_ttl_s, ttl_s)
        raws = [_raw(vector) for vector in vectors]
        local_room = self._most_local_bytes // _LOCAL_SHARE
        for key, raw in zip(keys, raws, strict=True):
            local_room -= len(raw) + _ENTRY_BYTES
            if local_room < 0:
                break
            self._local.put(key, raw, until)
        commands: list[bytes] = []
        size, expires = 0, max(1, ttl_s)
        if self._pipe.is_up and now >= self._resting_until:
            for key, raw in zip(keys, raws, strict=True):
                if self._writing_bytes + size + len(raw) > self._most_writing_bytes:
                    break
                size += len(raw)
                commands.append(packed_set(key, raw, expires))
        self._unwritten += len(raws) - len(commands)
        if commands:
            self._writing_bytes += size
            self._pipe.tell_all(commands).add_done_callback(partial(self._written, size))

    def statistics(self) -> dict[str, int]:
        """Now: `local` vectors in `local_bytes`, `writing_bytes`. Since the start: `hits`, `misses`, and those
        `unwritten`, for Redis was away or behind."""
        return {
            "local": len(self._local),
            "local_bytes": self._local.bytes,
            "writing_bytes": self._writing_bytes,
            "hits": self._hits,
            "misses": self._misses,
            "unwritten": self._unwritten,
        }

    async def _fetch(
        self,
        found: list[Vector | None],
        gaps: list[int],
        keys: Sequence[bytes],
        dimensions: int,
        full_keys: Sequence[bytes],
        full_dimensions: int,
    ) -> None:
        """Fills the gaps from Redis: with one MGET, or several one after the other where much is asked."""
        each_bytes = 4 * (dimensions + (full_dimensions if full_keys else 0))
        at_once = max(1, _MOST_READ_BYTES // max(1, each_bytes))
        last_moment = self._clock() + 3 * self._patience_s  # however many there are
        for start in range(0, len(gaps), at_once):
            part = gaps[start : start + at_once]
            words = [keys[index] for index in part]
            if full_keys:
                words += [full_keys[index] for index in part]
            values = await self._ask(words)
            now = self._clock()
            if values is None:
                return
            if values.count(None) == len(values):
                part = []
            for place, index in enumerate(part):
                vector = _vector(values[place], dimensions)
                if vector is not None:
                    self._local.put(keys[index], values[place], now + self._local_ttl_s)
                elif full_keys:
                    vector = self._cut(keys[index], values[len(part) + place], full_dimensions, dimensions, now)
                found[index] = vector
            if now > last_moment:
                return

    async def _ask(self, keys: list[bytes]) -> list[Any] | None:
        """What Redis has under each key; None: it did not say in time."""
        answer = self._pipe.call(b"MGET", *keys)
        timer = asyncio.get_running_loop().call_later(self._patience_s, _give_up, answer)
        try:
            values: list[Any] = await answer
        except _Slow:
            self._resting_until = self._clock() + _RESTS_S
            return None
        except (RedisAway, hiredis.ReplyError):
            return None
        finally:
            timer.cancel()
        return values

    def _cut(self, key: bytes, raw: object, full_dimensions: int, dimensions: int, now: float) -> Vector | None:
        """The beginning of a full vector, brought to unit length, which is kept as well."""
        full = _vector(raw, full_dimensions)
        if full is None:
            return None
        try:
            vector: Vector = check_vectors(full[None], count=1, width=dimensions, cut=True)[0]
        except ProviderFailure:  # nothing but zeros where it is cut
            return None
        self._local.put(key, _raw(vector), now + self._local_ttl_s)
        return vector

    def _written(self, size: int, failed: asyncio.Future[int]) -> None:
        self._writing_bytes -= size
        self._unwritten += failed.result()

    def count(self) -> None:
        """Writes down hits and misses."""
        counted, self._counted = self._counted, {}
        for model, (hits, misses) in counted.items():
            if hits:
                metrics.cache_hits.labels(model).inc(hits)
            if misses:
                metrics.cache_misses.labels(model).inc(misses)

    def _note(self, model: str, hits: int, misses: int) -> None:
        self._hits += hits
        self._misses += misses
        before = self._counted.get(model, (0, 0))
        self._counted[model] = (before[0] + hits, before[1] + misses)


class _Memory:
    """The vectors used last, as raw bytes, within a number of bytes."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        # The one used longest ago first. A plain dict is slow to say which one that is once many have gone.
        self._kept: OrderedDict[bytes, tuple[float, bytes]] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: bytes, now: float) -> bytes | None:
        entry = self._kept.get(key)
        if entry is None:
            return None
        if entry[0] <= now:
            del self._kept[key]
            self.bytes -= len(entry[1]) + _ENTRY_BYTES
            return None
        self._kept.move_to_end(key)
        return entry[1]

    def put(self, key: bytes, raw: bytes, until: float) -> None:
        old = self._kept.pop(key, None)
        if old is not None:
            self.bytes -= len(old[1]) + _ENTRY_BYTES
        self._kept[key] = (until, raw)
        self.bytes += len(raw) + _ENTRY_BYTES
        while self.bytes > self._most_bytes:
            _, (_, gone) = self._kept.popitem(last=False)
            self.bytes -= len(gone) + _ENTRY_BYTES


class _Slow(Exception):
    """Redis did not answer within our patience."""


def stacked(vectors: Sequence[Vector], dimensions: int) -> Vectors:
    """Vectors of one width as the rows of one array."""
    return np.concatenate(vectors).reshape(len(vectors), dimensions)


def _give_up(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_exception(_Slow)


def _raw(vector: Vector) -> bytes:
    return (vector if vector.dtype == _FLOAT else vector.astype(_FLOAT)).tobytes()


def _gaps(found: list[Vector | None]) -> list[int]:
    return [index for index, vector in enumerate(found) if vector is None]


def _vector(raw: object, dimensions: int) -> Vector | None:
    """Raw bytes as a vector; None if they are none of this width."""
    if not isinstance(raw, bytes) or len(raw) != 4 * dimensions:
        return None
    vector: Vector = np.frombuffer(raw, "<f4")
    return vector if 0.0 < float(np.vdot(vector, vector)) < math.inf else None
