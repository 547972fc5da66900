"""Hears, for one process, the news and sessions of the tenants that have sockets here, and finds what it missed.

Owns this process's one channel in the channel layer, which groups it is in, and the number of the last event heard of
each tenant. One channel for all sockets: a subscription of each one's own costs more than the socket.

Failure: Redis away → tried again each second; whoever has come meanwhile joins then. What was missed is found by the
next event's number, or by a look at the numbers, and told as a gap.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from typing import Any
from uuid import UUID

import hiredis
import redis
from channels.layers import get_channel_layer

from billing.redis_pipe import RedisAway, RedisPipe
from embeddings import news
from embeddings.news import Event, EventId
from embeddings.presence import Session

log = logging.getLogger(__name__)

_RETRY_S = 1.0
_LOOK_EVERY_S = 5.0
_LEAVE_AFTER_LOOKS = 12  # without sockets; agents that reconnect find the group still joined
_AWAY = (RedisAway, hiredis.ReplyError)
_LOST = (redis.RedisError, OSError)


class SocketNews:
    """Lives inside one event loop."""

    def __init__(
        self,
        pipe: RedisPipe,
        *,
        tenants: Callable[[], Collection[UUID]],
        tell: Callable[[UUID, Event], None],
        tell_of_gap: Callable[[UUID, EventId], None],
        replace: Callable[[UUID, str, str], None],
    ) -> None:
        self._pipe = pipe
        self._tenants = tenants
        self._tell = tell
        self._tell_of_gap = tell_of_gap
        self._replace = replace
        self._channel = ""
        self._joined: dict[UUID, int] = {}  # and for how many looks nobody wanted it
        self._seen: dict[UUID, EventId] = {}
        self._behind: dict[UUID, EventId] = {}  # what was seen where a look found more
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._listen(), name="socket-news"),
            loop.create_task(self._look(), name="socket-news-look"),
        ]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await get_channel_layer().flush()

    async def follow(self, tenant_id: UUID) -> None:
        """From now on this tenant's news are heard; where Redis is away, from when it is back."""
        if tenant_id in self._joined or not self._channel:
            return
        try:
            await get_channel_layer().group_add(news.group_of(tenant_id), self._channel)
        except _LOST as error:
            log.warning("news: cannot join: %s", type(error).__name__)
            return
        self._joined[tenant_id] = 0

    async def current(self, tenant_id: UUID) -> EventId | None:
        """The last event of a tenant, whose events are numbered from now on; None: it cannot be known.

        What comes after it and is not heard is a gap, also where no event was heard before.
        """
        try:
            epoch, number = await self._pipe.run(news.CURRENT, news.numbers_key(tenant_id), *news.current_words())
        except _AWAY:
            return None
        latest = EventId(epoch.decode(), int(number))
        self._seen.setdefault(tenant_id, latest)
        return latest

    async def say(self, session: Session) -> None:
        """Tells all processes of a new session, so that older sockets of its agent end."""
        self._replace(session.tenant_id, session.agent_id, session.mark)
        message = {"type": news.SESSION, "tenant": session.tenant_id.hex, "agent": session.agent_id}
        try:
            await get_channel_layer().group_send(news.group_of(session.tenant_id), {**message, "mark": session.mark})
        except _LOST as error:  # the renewal of the older one finds out
            log.warning("news: cannot tell of a session: %s", type(error).__name__)

    async def _listen(self) -> None:
        while True:
            layer = get_channel_layer()
            try:
                self._channel = await layer.new_channel()
                while True:
                    self._hear(await layer.receive(self._channel))
            except _LOST as error:
                log.warning("news: cannot listen: %s", type(error).__name__)
            except Exception:
                log.exception("news: what came cannot be read")
            self._channel = ""
            self._joined.clear()
            await asyncio.sleep(_RETRY_S)

    def _hear(self, message: dict[str, Any]) -> None:
        if message["type"] == news.SESSION:
            self._replace(UUID(message["tenant"]), message["agent"], message["mark"])
            return
        tenant_id, event = news.read(message)
        self._note(tenant_id, event.id, has_come=True)
        self._tell(tenant_id, event)

    def _note(self, tenant_id: UUID, latest: EventId, *, has_come: bool) -> None:
        """Tells of a gap between what was seen and this."""
        seen = self._seen.get(tenant_id)
        if seen is not None and seen.epoch == latest.epoch and seen.number >= latest.number:
            return  # events of two processes may change places on their way
        self._seen[tenant_id] = latest
        expected = None if seen is None else EventId(seen.epoch, seen.number + has_come)
        if expected is not None and expected != latest:
            self._tell_of_gap(tenant_id, latest)

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            try:
                await self._compare()
            except Exception:
                log.exception("news: a look failed")  # and the next one comes

    async def _compare(self) -> None:
        """Joins and leaves what changed, and finds events that never came."""
        wanted = set(self._tenants())
        for tenant_id in wanted:
            is_new = tenant_id not in self._joined
            await self.follow(tenant_id)
            latest, seen = await self.current(tenant_id), self._seen.get(tenant_id)
            # An event is numbered before it is sent: one that has not come by the next look never does.
            if latest is not None and (is_new or (seen is not None and self._behind.get(tenant_id) == seen)):
                self._note(tenant_id, latest, has_come=False)
            self._behind.pop(tenant_id, None)
            if latest is not None and seen is not None and seen == self._seen.get(tenant_id) != latest:
                self._behind[tenant_id] = seen
        for tenant_id in self._behind.keys() - wanted:
            del self._behind[tenant_id]
        for tenant_id in self._seen.keys() - wanted - self._joined.keys():  # gone before their group was joined
            del self._seen[tenant_id]
        for tenant_id, looks in list(self._joined.items()):
            if tenant_id in wanted:
                self._joined[tenant_id] = 0
            elif looks < _LEAVE_AFTER_LOOKS:
                self._joined[tenant_id] = looks + 1
            else:
                del self._joined[tenant_id]
                self._seen.pop(tenant_id, None)
                await get_channel_layer().group_discard(news.group_of(tenant_id), self._channel)
