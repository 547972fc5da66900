"""The same text is embedded once at a time: who comes while it is under way waits for that vector.

Owns, for each cache key of this process, who is its leader and who has joined. Names (and with them which tenant's text
it is) are `cache_keys.py`; what a leader does is the gateway's.

Failure: a leader that fails, is cancelled or is gone harms nobody: those who joined get `LeaderFailed` and embed the
text themselves. One who joined and goes away harms neither the leader nor the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from core import metrics

Vector = NDArray[np.float32]


class LeaderFailed(Exception):
    """Whoever was embedding this text did not succeed; embed it yourself."""


class Claim:
    """What one request leads and what it joined. To be closed whatever happens: `with inflight.claim(keys) as claim`,
    or `close()` once the outcome of what was sent is known."""

    __slots__ = ("_inflight", "mine", "others")

    def __init__(
        self, inflight: InFlight, mine: dict[bytes, None], others: dict[bytes, asyncio.Future[Vector]]
    ) -> None:
        self._inflight = inflight
        self.mine = mine  # in order, each key once; shrinks as they are resolved
        self.others = others

    def resolve(self, keys: Sequence[bytes], vectors: Iterable[Vector]) -> None:
        """Hands row i to all who joined key i. Keys that are not (or no longer) led here are passed over."""
        for key, vector in zip(keys, vectors, strict=True):
            if key in self.mine:
                del self.mine[key]
                _end(self._inflight.led.pop(key), vector)

    def close(self) -> None:
        """What is still unresolved has failed."""
        while self.mine:
            _end(self._inflight.led.pop(self.mine.popitem()[0]), None)

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class InFlight:
    def __init__(self) -> None:
        self.led: dict[bytes, list[asyncio.Future[Vector]]] = {}  # by key that somebody leads

    def claim(self, keys: Iterable[bytes]) -> Claim:
        """Leads the keys that nobody leads, joins the others. Never waits. A key given twice is claimed once."""
        mine: dict[bytes, None] = {}
        others: dict[bytes, asyncio.Future[Vector]] = {}
        for key in keys:
            if key in mine or key in others:
                continue
            joined = self.led.get(key)
            if joined is None:
                self.led[key] = []
                mine[key] = None
            else:
                others[key] = asyncio.get_running_loop().create_future()
                joined.append(others[key])
        if others:
            metrics.singleflight_joined.inc(len(others))
        return Claim(self, mine, others)

    async def joined(self, others: Mapping[bytes, asyncio.Future[Vector]], *, within_s: float) -> dict[bytes, Vector]:
        """The vectors that came within the time. What is missing: its leader failed, or is not ready."""
        if others:
            await asyncio.wait(others.values(), timeout=max(0.0, within_s))
        found = {}
        for key, future in others.items():
            if future.done() and not future.cancelled() and future.exception() is None:
                found[key] = future.result()
            else:
                future.cancel()
        return found

    def statistics(self) -> dict[str, int]:
        """Texts under way, and those who wait for them."""
        waiting = sum(not future.done() for joined in self.led.values() for future in joined)
        return {"led": len(self.led), "waiting": waiting}


def _end(joined: Iterable[asyncio.Future[Vector]], vector: Vector | None) -> None:
    for future in joined:
        if future.done():
            continue
        if vector is not None:
            future.set_result(vector)
        else:
            future.set_exception(LeaderFailed())
            future.exception()  # looked at: nobody need be waiting for it any more
