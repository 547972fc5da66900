"""Builds the data plane for one process, starts and stops it, and says how it is.

Owns what lives as long as the process: connections, threads, caches. Start-up needs neither PostgreSQL nor Redis: they
are connected in the background, and requests answer 503 until then.

Failure: Redis away → change messages are missed until it is back, and the poll finds what changed; what else may be
away is told by the modules that talk to it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeVar
from uuid import UUID

import redis.asyncio as redis
from django.db import InterfaceError, OperationalError, close_old_connections

from billing.idempotency import Claims
from billing.ledger import Ledger
from billing.limit_terms import LimitTerms
from billing.limits import SCRIPTS, Limits
from billing.loading import load_limits
from billing.redis_pipe import RedisPipe
from catalog.deployments import Catalog
from catalog.loading import catalog_version, load_catalog
from core import changes, metrics
from core.clock import utc_now
from core.errors import QuiverError, Starting
from embeddings import breaker_wire, news, presence, tokens
from embeddings.breaker_board import Board
from embeddings.breaker_copies import Change
from embeddings.cache import VectorCache
from embeddings.cache_keys import KeyRing
from embeddings.computing import Computing
from embeddings.configuration import Configuration, RowsAway
from embeddings.control_rows import ControlRows
from embeddings.dispatch import Dispatcher
from embeddings.estimating import Estimates
from embeddings.gateway import Gateway
from embeddings.http import Door
from embeddings.observing import Observer
from embeddings.pacing import SocketBounds
from embeddings.presence import Presence
from embeddings.receivers import tell_of_breaker
from embeddings.sending import Sender
from embeddings.socket_agents import AgentMethods
from embeddings.socket_embeddings import EmbeddingMethods
from embeddings.socket_news import SocketNews
from embeddings.socket_reading import ReadingMethods
from embeddings.sockets import Sockets
from providers.heavy import off_loop
from providers.registry import ProviderPool
from tenants import key_use
from tenants.loading import find_key, load_tenant, tenant_versions
from tenants.minting import record_use
from tenants.snapshots import KeyGrant, TenantConfig

log = logging.getLogger(__name__)
T = TypeVar("T")

_RETIRE_EVERY_S = 60.0
_RECORD_USE_EVERY_S = 30.0
_TELL_EVERY_S = 1.0
_REDIS_RETRY_S = 0.5
_LEASE_MARGIN_S = 2.0  # beyond the longest a request can take


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the environment sets for the data plane; names as in `config.environment`."""

    database_url: str
    redis_url: str
    deadline_s: float
    max_body_bytes: int
    max_tokens_per_request: int
    ledger_wait_s: float
    poll_s: float
    stale_s: float
    metric_tenants: int
    encryption_keys: str
    hold_lease_s: float
    cache_bytes: int
    sockets: SocketBounds


class DjangoRows:
    """The control plane's rows, read through Django's ORM; runs in the configuration's thread."""

    def find_key(self, digest: bytes) -> KeyGrant | None:
        return _fresh(lambda: find_key(digest))

    def load_catalog(self) -> Catalog:
        return _fresh(load_catalog)

    def load_tenant(self, tenant_id: UUID) -> tuple[TenantConfig, tuple[LimitTerms, ...]] | None:
        def read() -> tuple[TenantConfig, tuple[LimitTerms, ...]] | None:
            # In this order: limits newer than the version that they are kept under are found by the next poll.
            config = load_tenant(tenant_id)
            return None if config is None else (config, load_limits(tenant_id))

        return _fresh(read)

    def versions(self, tenant_ids: Collection[UUID]) -> tuple[int, dict[UUID, int]]:
        return _fresh(lambda: (catalog_version(), tenant_versions(tenant_ids) if tenant_ids else {}))


class Runtime:
    def __init__(self, bounds: Bounds) -> None:
        self._redis_url = bounds.redis_url
        self.ledger = Ledger(bounds.database_url, wait_s=bounds.ledger_wait_s)
        self.claims = Claims(
            bounds.database_url,
            lease_s=bounds.deadline_s + bounds.ledger_wait_s + _LEASE_MARGIN_S,
            wait_s=bounds.ledger_wait_s,
        )
        self.configuration = Configuration(DjangoRows(), poll_s=bounds.poll_s, stale_s=bounds.stale_s)
        self.providers = ProviderPool()
        scripts = (*SCRIPTS, *breaker_wire.SCRIPTS, *presence.SCRIPTS, news.CURRENT)
        self.pipe = RedisPipe(bounds.redis_url, scripts=scripts)
        # Vectors go over a pipe of their own: a megabyte of them must not stand before a hold.
        self.vector_pipe = RedisPipe(bounds.redis_url)
        self.limits = Limits(bounds.database_url, self.pipe, lease_s=bounds.hold_lease_s)
        self.board = Board(self.pipe)
        self.cache = VectorCache(self.vector_pipe, most_local_bytes=bounds.cache_bytes)
        self.dispatcher = Dispatcher(Sender(self.providers, self.board))
        self.observer = Observer(
            self.ledger, most_tenants=bounds.metric_tenants, counted=(self.dispatcher.count, self.cache.count)
        )
        computing = Computing(dispatch=self.dispatcher, board=self.board)
        self.gateway = Gateway(
            computing=computing,
            ledger=self.ledger,
            limits=self.limits,
            cache=self.cache,
            names=KeyRing(bounds.encryption_keys),
            board=self.board,
            observer=self.observer,
            now=utc_now,
            most_tokens=bounds.max_tokens_per_request,
        )
        estimates = Estimates(gateway=self.gateway, computing=computing, limits=self.limits)
        self.door = Door(
            gateway=self.gateway,
            estimates=estimates,
            configuration=self.configuration,
            claims=self.claims,
            observer=self.observer,
            deadline_s=bounds.deadline_s,
            most_body_bytes=bounds.max_body_bytes,
        )
        self._build_sockets(bounds, estimates)
        self._tasks: list[asyncio.Task[None]] = []
        self._is_redis_up = False

    def _build_sockets(self, bounds: Bounds, estimates: Estimates) -> None:
        """The other door, on the same gateway."""
        self.rows = ControlRows()
        presence = Presence(self.pipe, period_s=bounds.sockets.presence_s)
        self.sockets = Sockets(
            bounds=bounds.sockets, configuration=self.configuration, presence=presence, rows=self.rows
        )
        self.socket_news = SocketNews(
            self.pipe,
            tenants=self.sockets.tenants,
            tell=self.sockets.tell,
            tell_of_gap=self.sockets.tell_of_gap,
            replace=self.sockets.replace,
        )
        agents = AgentMethods(
            bounds=bounds.sockets,
            configuration=self.configuration,
            rows=self.rows,
            presence=presence,
            news=self.socket_news,
        )
        texts = EmbeddingMethods(
            gateway=self.gateway, estimates=estimates, turns=self.sockets.turns, deadline_s=bounds.deadline_s
        )
        self.sockets.handlers = {**agents.handlers, **texts.handlers, **ReadingMethods(rows=self.rows).handlers}
        self.board.on_change(self._tell_of_breaker)

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self.pipe.start()
        self.vector_pipe.start()
        self.limits.start()
        self.board.start()
        self.ledger.start()
        self.configuration.start()
        self.observer.start()
        self.sockets.start()
        self.socket_news.start()
        self._tasks = [
            loop.create_task(self._listen(), name="changes"),
            loop.create_task(self._retire(), name="retire-providers"),
            loop.create_task(self._tell(), name="tell-what-is-under-way"),
            loop.create_task(self._record_use(), name="record-use-of-keys"),
        ]
        await off_loop(tokens.encoding)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.sockets.close()
        await self.socket_news.close()
        self.rows.close()
        await asyncio.to_thread(record_use_of_keys)
        await self.configuration.close()
        await self.dispatcher.close()
        await self.ledger.close()
        await self.claims.close()
        await self.limits.close()
        await self.board.close()
        await self.pipe.close()
        await self.vector_pipe.close()
        await self.observer.close()
        await self.providers.close()

    def readiness(self) -> dict[str, str]:
        """Each dependency: `ok` or what is the matter."""
        return {
            "postgresql": "ok" if self.ledger.is_up else "the ledger has no connection",
            "configuration": "ok" if self.configuration.is_confirmed else "not read yet, or too old",
            "redis": "ok" if self._is_redis_up else "not connected; changes arrive by polling",
        }

    def statistics(self) -> dict[str, object]:
        return {
            "ledger": self.ledger.statistics(),
            "configuration": self.configuration.statistics(),
            "door": self.door.statistics(),
            "sockets": self.sockets.statistics(),
            "gateway": self.gateway.statistics(),
            "dispatcher": self.dispatcher.statistics(),
            "limits": self.limits.statistics(),
            "cache": self.cache.statistics(),
            "breakers": self.board.statistics(),
            "redis": self.pipe.statistics(),
            "providers": self.providers.statistics(),
        }

    def _tell_of_breaker(self, change: Change) -> None:
        """In the process where it was decided; the rows that say whom it concerns are read in a thread."""
        if change.is_decided_here:
            self.sockets.spawn(self._find_who_hears(change))

    async def _find_who_hears(self, change: Change) -> None:
        try:
            await self.rows.run(partial(tell_of_breaker, change))
        except QuiverError as error:
            log.warning("news: agents are not told of a breaker: %s", error.code)
        except Exception:
            log.exception("news: agents are not told of a breaker")

    async def _listen(self) -> None:
        """Applies change messages as they come, for ever."""
        while True:
            client = redis.from_url(self._redis_url, socket_connect_timeout=2, health_check_interval=5)
            try:
                async with client.pubsub(ignore_subscribe_messages=True) as messages:
                    await messages.subscribe(changes.CHANNEL, breaker_wire.CHANNEL)
                    self._is_redis_up = True
                    # Whatever was published before the subscription is found by comparing versions now.
                    with suppress(Starting):  # PostgreSQL is away: that is no matter of Redis'
                        await self.configuration.refresh()
                    async for message in messages.listen():
                        if message["channel"] == breaker_wire.CHANNEL.encode():
                            self.board.apply(message["data"])
                        elif (change := changes.decode(message["data"])) is not None:
                            self.configuration.apply(change)
            except Exception as error:  # noqa: BLE001  the listener outlives whatever Redis does
                if self._is_redis_up:
                    log.warning("changes: lost Redis (%s); polling goes on", type(error).__name__)
                self._is_redis_up = False
            finally:
                await client.aclose()
            await asyncio.sleep(_REDIS_RETRY_S)

    async def _tell(self) -> None:
        """What is under way, as metrics."""
        while True:
            metrics.requests_active.set(self.gateway.statistics()["requests"])
            for slug, pool in self.dispatcher.statistics().items():
                metrics.provider_calls_active.labels(slug).set(pool["calls"])
            await asyncio.sleep(_TELL_EVERY_S)

    async def _record_use(self) -> None:
        while True:
            await asyncio.sleep(_RECORD_USE_EVERY_S)
            await asyncio.to_thread(record_use_of_keys)

    async def _retire(self) -> None:
        while True:
            await asyncio.sleep(_RETIRE_EVERY_S)
            await self.providers.retire(in_use=self.configuration.endpoints_in_use())


def record_use_of_keys() -> None:
    """Writes which keys this process let in since the last time; a database that is away is told of it later."""
    seen = key_use.take()
    try:
        _fresh(lambda: record_use(seen))
    except RowsAway:
        key_use.put_back(seen)


def _fresh(read: Callable[[], T]) -> T:
    """Django's per-request hygiene of connections, for reads outside a request."""
    close_old_connections()
    try:
        return read()
    except (OperationalError, InterfaceError) as error:
        raise RowsAway from error
    finally:
        close_old_connections()
