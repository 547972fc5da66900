"""Which pool a worker spends from: the tenant's one in Redis, or its own while Redis is away.

Owns the epochs (`<run id>:<pool>`) that this worker believes in. It believes only what PostgreSQL confirmed within half
a lease: a pool that was closed elsewhere, as when this worker alone still sees an old server, is dropped before what it
may have spent is counted for good.

Failure: PostgreSQL away → no pool can be opened (`GrantsAway`), and after half a lease none is believed in.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from uuid import UUID

from billing.granting import Grants, GrantsAway
from billing.limit_plans import keys_of
from billing.limit_scripts import INSTALL
from billing.redis_pipe import RedisAway, RedisPipe

V = TypeVar("V")


class Once:
    """At most one run of something per key at a time; who comes meanwhile shares its outcome."""

    def __init__(self) -> None:
        self._running: dict[object, asyncio.Future[Any]] = {}

    async def run(self, key: object, make: Callable[[], Awaitable[V]]) -> V:
        task: asyncio.Future[V] | None = self._running.get(key)
        if task is None:
            task = self._running[key] = asyncio.ensure_future(make())
            task.add_done_callback(lambda _: self._running.pop(key, None))
        return await asyncio.shield(task)  # a caller that leaves takes nobody along


class Pools:
    def __init__(self, grants: Grants, pipe: RedisPipe, *, lease_s: float) -> None:
        self._grants = grants
        self._pipe = pipe
        self._lease_s = lease_s
        self._epochs: dict[UUID, tuple[str, str, int]] = {}  # run id, epoch, pool
        self._direct: dict[UUID, int] = {}
        self._once = Once()
        self._confirmed_at = time.monotonic()

    def known(self, tenant_id: UUID) -> tuple[str, str, int] | None:
        """The tenant's pool in the Redis of now, as far as this worker knows."""
        found = self._epochs.get(tenant_id)
        return found if found is not None and found[0] == self._pipe.run_id else None

    async def is_current(self, tenant_id: UUID, epoch: str) -> bool:
        """Whether an epoch that was read in Redis is of the tenant's pool; asks PostgreSQL where this worker has not
        spent anything of it yet. Raises `GrantsAway`."""
        known = self.known(tenant_id)
        if known is not None:
            return epoch == known[1]
        run, _, pool = epoch.rpartition(":")
        return bool(run) and run == self._pipe.run_id and not await self._grants.closed([int(pool)])

    async def open(self, tenant_id: UUID) -> tuple[str, str, int]:
        """Looks which pool is the tenant's, or opens one. Raises `GrantsAway` or `RedisAway`."""
        return await self._once.run(tenant_id, lambda: self._open(tenant_id))

    def forget(self, tenant_id: UUID) -> None:
        self._epochs.pop(tenant_id, None)

    async def direct(self, tenant_id: UUID) -> int:
        """This worker's own pool for the tenant. Raises `GrantsAway`."""
        found = self._direct.get(tenant_id)
        if found is None:
            found = await self._once.run(("direct", tenant_id), lambda: self._grants.open_direct(tenant_id))
            self._direct[tenant_id] = found
        return found

    def forget_direct(self, tenant_id: UUID, pool_id: int) -> None:
        if self._direct.get(tenant_id) == pool_id:
            del self._direct[tenant_id]

    async def confirm(self) -> None:
        """Asks PostgreSQL which pools are closed, and drops them. To be called every few seconds."""
        known = {pool: tenant_id for tenant_id, (_, _, pool) in self._epochs.items()}
        try:
            closed = await self._grants.closed(list(known)) if known else set()
        except GrantsAway:
            if time.monotonic() - self._confirmed_at > self._lease_s / 2:
                self._epochs.clear()
            return
        self._confirmed_at = time.monotonic()
        for pool in closed:
            tenant_id = known[pool]
            if tenant_id in self._epochs and self._epochs[tenant_id][2] == pool:
                self.forget(tenant_id)

    async def _open(self, tenant_id: UUID) -> tuple[str, str, int]:
        key = keys_of(tenant_id)[0]
        async with self._grants.opening(tenant_id) as turn:
            run_id = self._pipe.run_id
            stored: bytes | None = await self._pipe.call(b"HGET", key, b"e")
            epoch = (stored or b"").decode()
            run, _, pool = epoch.rpartition(":")
            if run == run_id and await turn.is_open(int(pool)):
                found = (run_id, epoch, int(pool))
            else:
                opened = await turn.new()
                found = (run_id, f"{run_id}:{opened}", opened)
                there: bytes = await self._pipe.run(INSTALL, key, epoch, found[1])
                if there.decode() != found[1] or self._pipe.run_id != run_id:
                    raise RedisAway("the server changed meanwhile")
        self._epochs[tenant_id] = found
        return found
