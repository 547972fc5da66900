"""A dispatcher with one lane, requests of tenants, and the provider they go to: for stories of shared calls."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from embeddings.dispatch import Dispatcher, Items, Part, Sent, Upstream
from providers.failures import FailureKind, ProviderFailure
from tests.embeddings.building import deployment, endpoint
from tests.embeddings.fakes import vectors_for

WIDTH = 4
SOON = 10.0  # seconds; nothing here takes that long


class Vendor:
    """Stands for the provider: each call waits until it is let through, then does what it was told."""

    def __init__(self, *, open_: bool = True, bad: Callable[[Any], bool] = lambda item: False) -> None:
        self.calls: list[list[Any]] = []
        self.bad = bad
        self.failure: Exception | None = None
        self.tokens: Callable[[Sequence[Any]], int | None] = lambda items: 3 * len(items)
        self.timeouts: list[float] = []
        self._allowed = math.inf if open_ else 0
        self._moved = asyncio.Event()

    def let(self, calls: float = math.inf) -> None:
        """Lets so many calls more through, in the order in which they came."""
        self._allowed += calls
        self._moved.set()
        self._moved = asyncio.Event()

    async def __call__(self, lane: Upstream, items: Items, *, timeout_s: float) -> Sent:
        self.calls.append(list(items))
        self.timeouts.append(timeout_s)
        number = len(self.calls)
        async with asyncio.timeout(20):
            while number > self._allowed:
                await self._moved.wait()
        if self.failure is not None:
            raise self.failure
        if any(self.bad(item) for item in items):
            raise ProviderFailure(FailureKind.TEXT_REFUSED, "HTTP 400", status=400)
        return Sent(vectors_for(items, WIDTH), self.tokens(items), f"up-{number}")

    async def asked(self, calls: int) -> None:
        """Until so many calls have come."""
        async with asyncio.timeout(SOON):
            while len(self.calls) < calls:
                await asyncio.sleep(0)


class House:
    """A dispatcher, one lane of it, and requests of tenants."""

    def __init__(self, vendor: Vendor, *, slots: int = 1, credential: str = "c1", **facts: Any) -> None:
        self.dispatcher = Dispatcher(vendor)
        self.lane = self.dispatcher.lane(
            endpoint(credential=credential, max_concurrency=slots),
            deployment(**facts),
            width=WIDTH,
            input_type=None,
            takes_tokens=False,
        )

    def ask(self, *texts: Any, tenant: str = "acme", counts: Sequence[int] = (), **words: Any) -> asyncio.Task[Part]:
        words.setdefault("deadline", self.dispatcher._clock() + SOON)
        return asyncio.get_running_loop().create_task(
            self.dispatcher.submit(self.lane, list(texts), counts or [2] * len(texts), tenant=tenant, **words)
        )

    @property
    def statistics(self) -> dict[str, float]:
        return self.dispatcher.statistics()["openai"]


async def settled() -> None:
    """Lets everything happen that can happen now."""
    for _ in range(20):
        await asyncio.sleep(0)


def right(part: Part, *texts: Any) -> bool:
    return part.failure is None and np.array_equal(part.vectors, vectors_for(texts, WIDTH))
