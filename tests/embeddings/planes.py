"""A data plane whole, with stand-ins for everything beyond it."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable

from embeddings.breaker import Settings
from embeddings.cache_keys import KeyRing
from embeddings.computing import Computing
from embeddings.dispatch import Dispatcher
from embeddings.gateway import Gateway
from embeddings.ports import Cache
from embeddings.sending import ProvidersPort, Sender
from tests.embeddings.building import NOW
from tests.embeddings.fake_limits import FakeLimits
from tests.embeddings.fakes import FakeBoard, FakeCache, FakeLedger, FakeObserver, FakeProviders

KEYS = f"test:{base64.b64encode(bytes(range(32))).decode()}"


class Plane:
    """The gateway, what it is made of, and what it talks to. For one event loop."""

    def __init__(
        self,
        *,
        cache: Cache | None = None,
        breakers: Settings | None = None,
        vendors: ProvidersPort | None = None,
    ) -> None:
        self.providers = FakeProviders()
        self.ledger = FakeLedger()
        self.observer = FakeObserver()
        self.limits = FakeLimits()
        self.kept = FakeCache()
        self.cache = self.kept if cache is None else cache
        self.board = FakeBoard(breakers)
        self.vendors: ProvidersPort = self.providers if vendors is None else vendors
        self.dispatcher = Dispatcher(Sender(self.vendors, self.board))
        self.computing = Computing(dispatch=self.dispatcher, board=self.board)
        self.gateway = Gateway(
            computing=self.computing,
            ledger=self.ledger,
            limits=self.limits,
            cache=self.cache,
            names=KeyRing(KEYS),
            board=self.board,
            observer=self.observer,
            now=lambda: NOW,
            most_tokens=1000,
        )

    def left_behind(self) -> dict[str, object]:
        """What of the work of requests is still there; empty when nothing is."""
        figures: dict[str, object] = {**self.gateway.statistics(), **self.limits.statistics()}
        for slug, pool in self.dispatcher.statistics().items():
            figures |= {f"{slug} {name}": pool[name] for name in ("calls", "queued")}
        del figures["retries"]  # a count of what has been
        return {name: value for name, value in figures.items() if value}

    async def idle(self) -> None:
        """Once the calls under way have ended."""
        async with asyncio.timeout(5):
            while self.left_behind():
                await asyncio.sleep(0)

    async def close(self) -> None:
        await self.dispatcher.close()


async def until(is_so: Callable[[], object]) -> None:
    """Lets the event loop go on until something has become true."""
    async with asyncio.timeout(5):
        while not is_so():
            await asyncio.sleep(0)
