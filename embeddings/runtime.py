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
from typing import TypeVar
from uuid import UUID

import redis.asyncio as redis
from django.db import InterfaceError, OperationalError, close_old_connections

from billing.idempotency import Claims
from billing.ledger import Ledger
from catalog.deployments import Catalog
from catalog.loading import catalog_version, load_catalog
from core import changes
from core.clock import utc_now
from core.errors import Starting
from embeddings import tokens
from embeddings.configuration import Configuration, RowsAway
from embeddings.gateway import Gateway
from embeddings.http import Door
from embeddings.observing import Observer
from providers.heavy import off_loop
from providers.registry import ProviderPool
from tenants.loading import find_key, load_tenant, tenant_versions
from tenants.snapshots import KeyGrant, TenantConfig

log = logging.getLogger(__name__)
T = TypeVar("T")

_RETIRE_EVERY_S = 60.0
_REDIS_RETRY_S = 0.5
_LEASE_MARGIN_S = 2.0  # beyond the longest a request can take


@dataclass(frozen=True, slots=True)
class Limits:
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


class DjangoRows:
    """The control plane's rows, read through Django's ORM; runs in the configuration's thread."""

    def find_key(self, digest: bytes) -> KeyGrant | None:
        return _fresh(lambda: find_key(digest))

    def load_catalog(self) -> Catalog:
        return _fresh(load_catalog)

    def load_tenant(self, tenant_id: UUID) -> TenantConfig | None:
        return _fresh(lambda: load_tenant(tenant_id))

    def versions(self, tenant_ids: Collection[UUID]) -> tuple[int, dict[UUID, int]]:
        return _fresh(lambda: (catalog_version(), tenant_versions(tenant_ids) if tenant_ids else {}))


class Runtime:
    def __init__(self, limits: Limits) -> None:
        self._redis_url = limits.redis_url
        self.ledger = Ledger(limits.database_url, wait_s=limits.ledger_wait_s)
        self.claims = Claims(
            limits.database_url,
            lease_s=limits.deadline_s + limits.ledger_wait_s + _LEASE_MARGIN_S,
            wait_s=limits.ledger_wait_s,
        )
        self.configuration = Configuration(DjangoRows(), poll_s=limits.poll_s, stale_s=limits.stale_s)
        self.providers = ProviderPool()
        self.observer = Observer(self.ledger, most_tenants=limits.metric_tenants)
        self.gateway = Gateway(
            providers=self.providers,
            ledger=self.ledger,
            observer=self.observer,
            now=utc_now,
            most_tokens=limits.max_tokens_per_request,
        )
        self.door = Door(
            gateway=self.gateway,
            configuration=self.configuration,
            claims=self.claims,
            observer=self.observer,
            deadline_s=limits.deadline_s,
            most_body_bytes=limits.max_body_bytes,
        )
        self._tasks: list[asyncio.Task[None]] = []
        self._is_redis_up = False

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self.ledger.start()
        self.configuration.start()
        self.observer.start()
        self._tasks = [
            loop.create_task(self._listen(), name="changes"),
            loop.create_task(self._retire(), name="retire-providers"),
        ]
        await off_loop(tokens.encoding)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.configuration.close()
        await self.ledger.close()
        await self.claims.close()
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
            "providers": self.providers.statistics(),
        }

    async def _listen(self) -> None:
        """Applies change messages as they come, for ever."""
        while True:
            client = redis.from_url(self._redis_url, socket_connect_timeout=2, health_check_interval=5)
            try:
                async with client.pubsub(ignore_subscribe_messages=True) as messages:
                    await messages.subscribe(changes.CHANNEL)
                    self._is_redis_up = True
                    # Whatever was published before the subscription is found by comparing versions now.
                    with suppress(Starting):  # PostgreSQL is away: that is no matter of Redis'
                        await self.configuration.refresh()
                    async for message in messages.listen():
                        change = changes.decode(message["data"])
                        if change is not None:
                            self.configuration.apply(change)
            except Exception as error:  # noqa: BLE001  the listener outlives whatever Redis does
                if self._is_redis_up:
                    log.warning("changes: lost Redis (%s); polling goes on", type(error).__name__)
                self._is_redis_up = False
            finally:
                await client.aclose()
            await asyncio.sleep(_REDIS_RETRY_S)

    async def _retire(self) -> None:
        while True:
            await asyncio.sleep(_RETIRE_EVERY_S)
            await self.providers.retire(in_use=self.configuration.endpoints_in_use())


def _fresh(read: Callable[[], T]) -> T:
    """Django's per-request hygiene of connections, for reads outside a request."""
    close_old_connections()
    try:
        return read()
    except (OperationalError, InterfaceError) as error:
        raise RowsAway from error
    finally:
        close_old_connections()
