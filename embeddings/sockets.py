"""All agents' sockets of this process: who is there, who has been silent, whose key is gone, who must hear what.

Owns the registry and the beats: each second, sockets that said nothing for too long, keys that are not good any more,
and agents that have gone; each half minute, the sessions in Redis, also those of processes that were killed, and the
moments at which agents were last heard of. A tenant's news and
sessions reach this tenant's sockets through `_by_tenant` and no other way.

Failure: what a beat cannot do for now (`presence.py`, `socket_news.py`, `control_rows.py`) the next one does. While
PostgreSQL is away keys cannot be looked up: sockets stay, as requests over HTTP do, until what is known is too old.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any
from uuid import UUID

from core import metrics
from core.clock import unix_ms, utc_now
from core.errors import InvalidApiKey, KeyNotPermitted, QuiverError
from core.ids import uuid7_text
from embeddings.configuration import Configuration
from embeddings.connection import IDLE, REPLACED, RESTART, UNAUTHENTICATED, Connection, Handler, Notice, Send
from embeddings.control_rows import ControlRows
from embeddings.news import Event, EventId
from embeddings.pacing import SocketBounds
from embeddings.presence import Presence
from embeddings.turns import Turns
from tenants.admission import check_use
from tenants.agents import record_presence

log = logging.getLogger(__name__)

_BEAT_S = 1.0
# Bytes of large answers, of which a tenant has at most half: a few sockets that do not read may neither end the worker
# nor keep large answers from everybody else.
_MOST_HELD = 256 * 1024 * 1024
_STOPPING = "this process is stopping; connect again"


class Sockets:
    """Lives inside one event loop."""

    def __init__(
        self, *, bounds: SocketBounds, configuration: Configuration, presence: Presence, rows: ControlRows
    ) -> None:
        self.bounds = bounds
        self.configuration = configuration
        self.handlers: Mapping[str, Handler] = {}  # by method
        self.turns = Turns(most=bounds.calls, most_per_agent=bounds.calls_per_agent)
        self.is_draining = False
        self.dropped = 0  # notices that slow readers did not take
        self._held = Counter[UUID]()  # bytes of large answers, by tenant
        self._presence = presence
        self._rows = rows
        self._all: set[Connection] = set()
        self._by_tenant: defaultdict[UUID, set[Connection]] = defaultdict(set)
        self._by_key: defaultdict[bytes, set[Connection]] = defaultdict(set)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._beats: list[asyncio.Task[None]] = []
        self._counts = Counter[tuple[str, str]]()
        self._gone: set[tuple[UUID, str]] = set()  # agents whose last socket here has ended

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._beats = [
            loop.create_task(self._every(_BEAT_S, self._look), name="sockets-look"),
            loop.create_task(self._every(_BEAT_S, self._check_keys), name="sockets-keys"),
            loop.create_task(self._every(_BEAT_S, self._note_gone), name="sockets-gone"),
            loop.create_task(self._every(self._presence.renew_s, self._renew), name="sockets-renew"),
        ]

    async def close(self) -> None:
        for task in (*self._beats, *self._tasks):
            task.cancel()
        await asyncio.gather(*self._beats, *self._tasks, return_exceptions=True)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Work of a socket's, which may outlive it."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def count(self, direction: str, method: str) -> None:
        self._counts[direction, method] += 1

    def hold(self, tenant_id: UUID, size: int) -> bool:
        """Whether there is room for so much more of large answers; then it is taken, until it is let go."""
        if self._held[tenant_id] + size > _MOST_HELD // 2 or self._held.total() + size > _MOST_HELD:
            return False
        self._held[tenant_id] += size
        return True

    def let_go(self, tenant_id: UUID, size: int) -> None:
        self._held[tenant_id] -= size
        if not self._held[tenant_id]:
            del self._held[tenant_id]

    # Coming and going

    def open(self, send: Send, address: str, heard: Callable[[], float] | None = None) -> Connection:
        """`heard`: when its last frame came, which may have been no message."""
        connection = Connection(self, send, address, uuid7_text(unix_ms()), heard)
        self._all.add(connection)
        return connection

    def belongs(self, connection: Connection) -> None:
        """It has said whose it is."""
        assert connection.digest is not None
        self._by_tenant[connection.tenant_id].add(connection)
        self._by_key[connection.digest].add(connection)

    def closed(self, connection: Connection) -> None:
        """It has ended, from whichever side."""
        connection.is_closed = True
        self._all.discard(connection)
        if connection.digest is None:
            return
        for known, name in ((self._by_tenant, connection.tenant_id), (self._by_key, connection.digest)):
            known[name].discard(connection)  # type: ignore[index]
            if not known[name]:  # type: ignore[index]
                del known[name]  # type: ignore[arg-type]
        if connection.session is not None:
            self._presence.leave(connection.session)
            if not any(each.agent_id == connection.agent_id for each in self._of(connection.tenant_id)):
                self._gone.add((connection.tenant_id, connection.agent_id))

    def tenants(self) -> set[UUID]:
        """Whose news must be heard here."""
        return {tenant_id for tenant_id, some in self._by_tenant.items() if any(c.session or c.topics for c in some)}

    def _of(self, tenant_id: UUID) -> set[Connection]:
        return self._by_tenant.get(tenant_id, set())

    # Telling

    def tell(self, tenant_id: UUID, event: Event) -> None:
        """News for those of the tenant's sockets that asked for the topic."""
        params = {"event_id": str(event.id), "topic": event.topic, "at": event.at, **event.about}
        notice = Notice(event.name, params)
        for connection in self._of(tenant_id):
            if event.topic in connection.topics:
                connection.notify(notice)

    def tell_of_gap(self, tenant_id: UUID, latest: EventId) -> None:
        """Something was missed."""
        notice = Notice("resync", {"reason": "gap", "event_id": str(latest)})
        for connection in self._of(tenant_id):
            if connection.session is not None or connection.topics:
                connection.notify(notice)

    def replace(self, tenant_id: UUID, agent_id: str, mark: str) -> None:
        """A younger socket has registered this agent: older ones are told and closed."""
        for connection in list(self._of(tenant_id)):
            session = connection.session
            if session is not None and session.agent_id == agent_id and session.mark < mark:
                connection.session = None  # its presence is the younger one's now
                told = Notice("session.replaced", {"agent_id": agent_id, "session_id": session.id})
                connection.close(REPLACED, "replaced by a newer socket of the same agent", telling=told)

    # Beats

    async def _every(self, seconds: float, act: Callable[[], Coroutine[Any, Any, None]]) -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                await act()
            except Exception:
                log.exception("sockets: a beat failed")  # and the next one comes

    async def _look(self) -> None:
        now, bounds = time.monotonic(), self.bounds
        for connection in list(self._all):
            if connection.digest is None and now - connection.opened_at > bounds.authenticate_s:
                connection.close(UNAUTHENTICATED, f"no key was given within {bounds.authenticate_s:.0f} s")
            elif now - connection.last_heard > bounds.idle_s:
                connection.close(IDLE, f"nothing was heard for {bounds.idle_s:.0f} s")
        metrics.websocket_connections.set(len(self._all))
        counts, self._counts = self._counts, Counter()
        for (direction, method), count in counts.items():
            metrics.websocket_messages.labels(direction, method).inc(count)

    async def _note_gone(self) -> None:
        """Those that are connected nowhere any more are offline; who cannot be noted now is with the next beat."""
        for tenant_id, agents in _by_tenant(self._gone).items():
            self._gone -= {(tenant_id, each) for each in agents}
            absent = [each for each in agents if not any(c.agent_id == each for c in self._of(tenant_id))]
            statuses = await self._presence.statuses(tenant_id, absent, unix_ms())
            offline = [each for each in absent if statuses is not None and each not in statuses]
            if statuses is None or not await self._note(tenant_id, offline, "offline"):
                self._gone |= {(tenant_id, each) for each in absent}

    async def _check_keys(self) -> None:
        """Closes the sockets of keys that are revoked, have expired, or whose tenant is suspended."""
        for digest in list(self._by_key):
            try:
                found = self.configuration.known(digest) or await self.configuration.find(digest)
            except (InvalidApiKey, KeyNotPermitted) as error:
                self._end(digest, error.message)
                continue
            except QuiverError:  # it cannot be told now
                continue
            if found[1].config.is_suspended:
                self._end(digest, "the tenant is suspended")
                continue
            for connection in list(self._by_key.get(digest, ())):
                try:
                    check_use(found[0], now=utc_now(), address=connection.address)
                except QuiverError as error:  # of this one: another may be where the key may be used
                    connection.close(UNAUTHENTICATED, error.message)

    def _end(self, digest: bytes, reason: str) -> None:
        for connection in list(self._by_key.get(digest, ())):
            connection.close(UNAUTHENTICATED, reason)

    async def _renew(self) -> None:
        """Sessions in Redis, and when agents were heard of in PostgreSQL: one statement for all of a tenant's."""
        now = unix_ms()
        for tenant_id in list(self._by_tenant):
            heard: list[str] = []
            for connection in list(self._of(tenant_id)):
                session = connection.session
                if session is None or connection.is_closed:
                    continue
                younger = await self._presence.claim(session, connection.status, now)
                if younger is not None:
                    self.replace(tenant_id, session.agent_id, younger)
                else:
                    heard.append(session.agent_id)
            await self._note(tenant_id, heard, None)
            self._gone |= {(tenant_id, each) for each in await self._presence.sweep(tenant_id, unix_ms())}

    async def _note(self, tenant_id: UUID, agent_ids: list[str], status: str | None) -> bool:
        """Whether it could be written."""
        if not agent_ids:
            return True
        act = partial(record_presence, tenant_id=tenant_id, agent_ids=agent_ids, at=utc_now(), status=status)
        try:
            await self._rows.run(act, tenant_id=tenant_id)
        except QuiverError as error:
            log.warning("sockets: agents' presence was not written: %s", error.code)
            return False
        return True

    # The end

    async def drain(self, grace_s: float) -> None:
        """Takes no more requests; closes each socket with 1012 once it has its answers, the rest after the grace."""
        self.is_draining = True
        deadline, ours = time.monotonic() + grace_s, set(self._all)  # who comes from now on is sent away at once
        while (ours := ours & self._all) and time.monotonic() < deadline:
            for connection in [each for each in ours if not each.under_way]:
                connection.close(RESTART, _STOPPING)
            await asyncio.sleep(0.02)
        for connection in list(self._all):
            connection.close(RESTART, _STOPPING)
        if self._all:
            await asyncio.sleep(0.1)  # for the close frames to leave

    def statistics(self) -> dict[str, Any]:
        return {
            "connections": len(self._all),
            "registered": sum(each.session is not None for each in self._all),
            "tenants": len(self._by_tenant),
            "in_flight": sum(each.under_way for each in self._all),
            "held": self._held.total(),
            "notices_waiting": sum(len(each.outbox) for each in self._all),
            "notices_dropped": self.dropped,
            "tasks": len(self._tasks),
            "calls": self.turns.statistics(),
            "rows": self._rows.statistics(),
        }


def _by_tenant(agents: set[tuple[UUID, str]]) -> dict[UUID, list[str]]:
    found: defaultdict[UUID, list[str]] = defaultdict(list)
    for tenant_id, agent_id in agents:
        found[tenant_id].append(agent_id)
    return found
