"""Blocks: how much a worker draws for a tenant's pool at a time, and that it draws once for all who wait.

While one grant is under way, the shortages of other requests gather; the next grant takes them all. A block that is
drawn again within a second was too small: it doubles. Near the limit it is an eighth of what is left, so that what one
Redis holds unspent stays small, and the last token can be spent.
"""

from __future__ import annotations

import asyncio
import time
from datetime import date
from uuid import UUID

from billing.granting import Granted, Grants, PoolClosed, Wish
from billing.limit_scripts import CREDIT
from billing.pools import Pools
from billing.redis_pipe import RedisPipe, Word

_QUICK_S = 1.0
_MOST_BLOCKS = 10_000


class Shortage:
    """What one request lacks of one limit's period."""

    __slots__ = ("field", "lacking", "limit_id", "start")

    def __init__(self, field: bytes, limit_id: UUID, start: date, lacking: int) -> None:
        self.field = field
        self.limit_id = limit_id
        self.start = start
        self.lacking = lacking


class _Round:
    """Shortages that are drawn for together."""

    def __init__(self) -> None:
        self.need: dict[bytes, int] = {}
        self.wanted: dict[bytes, int] = {}
        self.which: dict[bytes, Shortage] = {}
        self.done: asyncio.Future[dict[bytes, Granted]] = asyncio.get_running_loop().create_future()

    def add(self, shortage: Shortage) -> None:
        field, lacking = shortage.field, shortage.lacking
        self.need[field] = min(lacking, self.need.get(field, lacking))
        self.wanted[field] = self.wanted.get(field, 0) + lacking
        self.which[field] = shortage


class Refills:
    def __init__(self, grants: Grants, pipe: RedisPipe, pools: Pools) -> None:
        self._grants = grants
        self._pipe = pipe
        self._pools = pools
        self._rounds: dict[UUID, _Round] = {}  # that gather
        self._drawing: dict[UUID, asyncio.Task[None]] = {}
        self._blocks: dict[bytes, tuple[int, float]] = {}  # size of the last block, and when it was drawn
        self.count = 0

    async def draw(self, tenant_id: UUID, key: bytes, shortages: list[Shortage]) -> dict[bytes, Granted]:
        """How PostgreSQL's counters stand, after it gave what it could; a limit that is missing has been removed.
        Raises `GrantsAway`, `RedisAway`, `PoolClosed`."""
        gathering = self._rounds.get(tenant_id)
        if gathering is None:
            gathering = self._rounds[tenant_id] = _Round()
        for each in shortages:
            gathering.add(each)
        if tenant_id not in self._drawing:
            self._drawing[tenant_id] = asyncio.get_running_loop().create_task(self._draw_all(tenant_id, key))
        return await asyncio.shield(gathering.done)

    async def _draw_all(self, tenant_id: UUID, key: bytes) -> None:
        try:
            while (current := self._rounds.pop(tenant_id, None)) is not None:
                try:
                    current.done.set_result(await self._draw(tenant_id, key, current))
                except Exception as error:  # noqa: BLE001  whoever waits has to hear of it
                    current.done.set_exception(error)
                    current.done.exception()  # all of them may have left
        finally:
            del self._drawing[tenant_id]

    async def _draw(self, tenant_id: UUID, key: bytes, current: _Round) -> dict[bytes, Granted]:
        known = self._pools.known(tenant_id)
        if known is None:
            raise PoolClosed
        self.count += 1
        now = time.monotonic()
        fields = {(each.limit_id, each.start): field for field, each in current.which.items()}
        wishes = [
            Wish(
                each.limit_id, each.start, current.need[field], current.wanted[field], self._block(field, current, now)
            )
            for field, each in current.which.items()
        ]
        granted = {fields[each.limit_id, each.start]: each for each in await self._grants.grant(known[2], wishes)}
        words: list[Word] = []
        for field, each in granted.items():
            words += [field, each.total, each.base]
        if words and not await self._pipe.run(CREDIT, key, known[1], *words):
            raise PoolClosed
        return granted

    def _block(self, field: bytes, current: _Round, now: float) -> int:
        wanted = current.wanted[field]
        size, drawn_at = self._blocks.get(field, (0, 0.0))
        size = max(wanted, size * 2 if now - drawn_at < _QUICK_S else size // 2)
        if len(self._blocks) > _MOST_BLOCKS:
            self._blocks.clear()  # of past periods, mostly
        self._blocks[field] = (size, now)
        return size
