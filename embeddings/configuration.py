"""What this process knows of keys, tenants and the catalogue, and how fresh that is.

Owns the caches and their one rule: a cached key counts only beside a snapshot of the very tenant version it was read
at, so whoever changes a tenant raises one version and everything old is gone at once. Changes come as messages (within
milliseconds); versions are polled as well, in case a message is lost. Rows are read by Django's ORM in one thread.

Failure: PostgreSQL away → what is known goes on serving until it is `stale_s` old, then 503 `starting`; unknown keys
cannot be looked up: 503 at once. Redis away → changes arrive with the poll.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar
from uuid import UUID

from billing.limit_terms import LimitTerms
from catalog.deployments import Catalog
from core.changes import Change
from core.errors import InvalidApiKey, KeyNotPermitted, Starting
from embeddings.snapshot import TenantSnapshot, compose
from tenants.snapshots import KeyGrant, TenantConfig

log = logging.getLogger(__name__)
T = TypeVar("T")

MOST_KEYS = 10_000
MOST_TENANTS = 5_000
_RETRY_S = 0.1  # between two looks for a database that is away; each waits for a connection by itself


class RowsAway(Exception):
    """The database cannot be reached."""


class Rows(Protocol):
    """Reads of the control plane's rows; synchronous, called in a thread. Each may raise `RowsAway`."""

    def find_key(self, digest: bytes) -> KeyGrant | None: ...
    def load_catalog(self) -> Catalog: ...
    def load_tenant(self, tenant_id: UUID) -> tuple[TenantConfig, tuple[LimitTerms, ...]] | None: ...
    def versions(self, tenant_ids: Collection[UUID]) -> tuple[int, dict[UUID, int]]:
        """The catalogue's version and those of the tenants."""
        ...


@dataclass(slots=True)
class _Known:
    snapshot: TenantSnapshot
    is_current: bool = True


class Configuration:
    def __init__(
        self, rows: Rows, *, poll_s: float, stale_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rows = rows
        self._poll_s = poll_s
        self._stale_s = stale_s
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="configuration")
        self._keys: dict[bytes, KeyGrant] = {}
        self._tenants: dict[UUID, _Known] = {}
        self._catalog: Catalog | None = None
        self._is_catalog_current = False
        self._is_away = False  # the rows, when last looked for
        self._confirmed_at = float("-inf")
        self._loading: dict[object, asyncio.Task[Any]] = {}
        self._poller: asyncio.Task[None] | None = None
        self._generation = 0

    def start(self) -> None:
        self._poller = asyncio.get_running_loop().create_task(self._poll(), name="configuration-poll")

    async def close(self) -> None:
        if self._poller is not None:
            self._poller.cancel()
            await asyncio.gather(self._poller, return_exceptions=True)
        self._thread.shutdown(wait=False, cancel_futures=True)

    def known(self, digest: bytes) -> tuple[KeyGrant, TenantSnapshot] | None:
        """Grant and snapshot if both are in memory, belong together and are fresh; the way of nearly every request."""
        grant = self._keys.get(digest)
        if grant is None or grant.tenant_id is None:
            return None
        known = self._tenants.get(grant.tenant_id)
        if known is None or not known.is_current or known.snapshot.config.version != grant.tenant_version:
            return None
        if self._clock() - self._confirmed_at > self._stale_s:
            return None
        return grant, known.snapshot

    async def find(self, digest: bytes) -> tuple[KeyGrant, TenantSnapshot]:
        """As `known`, reading what is missing. Raises `InvalidApiKey`, `Starting`, or for a platform's key
        `KeyNotPermitted`."""
        for _ in range(3):  # a change between two reads makes them disagree; the third time it is a storm
            found = self.known(digest)
            if found is not None:
                return found
            grant = await self._shared(digest, partial(self._load_key, digest))
            if grant is None:
                raise InvalidApiKey("This API key is unknown or was revoked.")
            if grant.tenant_id is None:
                raise KeyNotPermitted("A platform key has no tenant to embed for; mint a key for one.")
            snapshot = await self._shared(grant.tenant_id, partial(self._load_snapshot, grant.tenant_id))
            if snapshot is None:
                raise InvalidApiKey("The tenant of this API key is gone.")
            if snapshot.config.version == grant.tenant_version:
                return grant, snapshot
        raise Starting("The configuration changes faster than it can be read; try again.", retry_after=1)

    def apply(self, change: Change) -> None:
        """Forgets what a change made old. What is being read at this moment may be old as well and is not kept."""
        self._generation += 1
        if change.tenant_id is None:
            self._is_catalog_current = False
            for known in self._tenants.values():
                known.is_current = False
        elif (old := self._tenants.get(change.tenant_id)) is not None:
            old.is_current = False

    @property
    def is_confirmed(self) -> bool:
        """Whether the rows were reachable lately."""
        return self._clock() - self._confirmed_at <= self._stale_s

    def endpoints_in_use(self) -> list[Any]:
        """All endpoints in force, of the catalogue and of tenants' own credentials, for retiring the adapters of
        others."""
        catalog = self._catalog
        found = [] if catalog is None else [e for d in catalog.deployments.values() for e in d.endpoints]
        for known in self._tenants.values():
            if known.is_current:
                found += [e for routes in known.snapshot.own.values() for e in (*routes.first, *routes.last)]
        return found

    def statistics(self) -> dict[str, int]:
        return {"keys": len(self._keys), "tenants": len(self._tenants), "generation": self._generation}

    async def refresh(self) -> None:
        """Compares versions once, and reads the catalogue where it is not known yet."""
        tenants = {tenant_id: known.snapshot.config.version for tenant_id, known in self._tenants.items()}
        catalog_version, versions = await self._in_thread(
            lambda: self._rows.versions(tenants.keys()), even_if_away=True
        )
        self._confirmed_at = self._clock()
        if self._catalog is None or catalog_version != self._catalog.version:
            self.apply(Change())
            await self._shared("catalog", self._load_catalog)
        for tenant_id, version in tenants.items():
            if versions.get(tenant_id) != version:
                self.apply(Change(tenant_id))

    async def _poll(self) -> None:
        while True:
            try:
                await self.refresh()
            except Exception as error:  # noqa: BLE001  the poll outlives whatever the database does
                log.warning("configuration: cannot compare versions: %s", type(error).__name__)
            await asyncio.sleep(min(self._poll_s, _RETRY_S) if self._is_away else self._poll_s)

    async def _load_key(self, digest: bytes) -> KeyGrant | None:
        generation = self._generation
        grant: KeyGrant | None = await self._in_thread(lambda: self._rows.find_key(digest))
        self._keys.pop(digest, None)
        if grant is not None and generation == self._generation:
            while len(self._keys) >= MOST_KEYS:
                del self._keys[next(iter(self._keys))]
            self._keys[digest] = grant
        return grant

    async def _load_catalog(self) -> Catalog:
        generation = self._generation
        catalog = await self._in_thread(self._rows.load_catalog)
        self._catalog = catalog
        self._is_catalog_current = generation == self._generation
        return catalog

    async def _load_snapshot(self, tenant_id: UUID) -> TenantSnapshot | None:
        catalog = self._catalog
        if catalog is None or not self._is_catalog_current:
            catalog = await self._shared("catalog", self._load_catalog)
        generation = self._generation
        found = await self._in_thread(lambda: self._rows.load_tenant(tenant_id))
        if found is None:
            self._tenants.pop(tenant_id, None)
            return None
        snapshot = compose(catalog, *found)
        while len(self._tenants) >= MOST_TENANTS:
            del self._tenants[next(iter(self._tenants))]
        self._tenants[tenant_id] = _Known(snapshot, generation == self._generation and self._is_catalog_current)
        return snapshot

    async def _shared(self, name: object, load: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """One reading at a time for each thing; who comes meanwhile waits for it, and who goes does not end it."""
        task = self._loading.get(name)
        if task is None:
            task = self._loading[name] = asyncio.get_running_loop().create_task(load())
            task.add_done_callback(lambda _: self._loading.pop(name, None))
        result: T = await asyncio.shield(task)
        return result

    async def _in_thread(self, read: Callable[[], T], *, even_if_away: bool = False) -> T:
        """Finding out that the database is away takes seconds, in the one thread there is: once that is known, only
        the poll goes on trying, and everybody else is told at once."""

        def look() -> T:  # in the thread, so that those who queue behind it know at once as well
            if self._is_away and not even_if_away:
                raise RowsAway
            try:
                found = read()
            except RowsAway:
                self._is_away = True
                raise
            self._is_away = False
            return found

        was_away = self._is_away
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, look)
        except Exception as error:
            if not was_away:
                log.warning("configuration: cannot read: %s", type(error).__name__)
            raise Starting("The configuration cannot be read now; try again.", retry_after=1) from error
