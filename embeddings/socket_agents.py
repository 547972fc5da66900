"""Who an agent is and how it is: what `session.*` and `agent.*` do, and asking for news.

Agents are rows of the control plane, written by `billing.agents` in threads (`control_rows.py`); who is connected is
`presence.py`'s. An agent belongs to the tenant of the key, whatever it calls itself; what it prefers can only narrow.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from audit.actors import Actor, Kind
from billing.agents import change_agent, register_agent
from core.changes import Change
from core.clock import unix_ms, utc_now
from core.errors import Conflict, KeyNotPermitted
from embeddings import messages, presence, rpc
from embeddings.answers import rfc3339
from embeddings.configuration import Configuration
from embeddings.connection import Connection, Handler, Notice, Reply, Running
from embeddings.control_rows import ControlRows
from embeddings.frames import MOST_PAYLOAD
from embeddings.news import EventId
from embeddings.pacing import SocketBounds
from embeddings.presence import Presence
from embeddings.snapshot import TenantSnapshot
from embeddings.socket_news import SocketNews
from tenants.agents import preferences_of
from tenants.preferences import parse, to_json
from tenants.rights import check_agent
from tenants.scopes import Scope, allows
from tenants.selectors import KnownAgent, page_of_agents

_FACTS = ("agent_type", "name", "version", "capabilities", "preferences", "metadata")


class AgentMethods:
    def __init__(
        self,
        *,
        bounds: SocketBounds,
        configuration: Configuration,
        rows: ControlRows,
        presence: Presence,
        news: SocketNews,
    ) -> None:
        self._bounds = bounds
        self._configuration = configuration
        self._rows = rows
        self._presence = presence
        self._news = news

    @property
    def handlers(self) -> Mapping[str, Handler]:
        return {
            "session.authenticate": self._authenticate,
            "agent.register": self._register,
            "agent.heartbeat": self._heartbeat,
            "agent.update": self._update,
            "agent.list": self._list,
            "subscribe": self._subscribe,
            "unsubscribe": self._unsubscribe,
            "ping": self._ping,
        }

    async def _authenticate(self, running: Running, params: messages.Authenticate) -> Reply:
        if running.connection.digest is not None:
            raise Conflict("This socket has said who it is already.")
        key, snapshot = await running.connection.authenticate(params.api_key)
        found = {"tenant": snapshot.config.slug, "key_id": str(key.key_id), "scopes": sorted(key.scopes)}
        return rpc.result(running.asked, found)

    async def _register(self, running: Running, params: messages.Register) -> Reply:
        connection, tenant_id = running.connection, running.snapshot.config.tenant_id
        check_agent(running.key, params.agent_id)
        if connection.agent_id not in ("", params.agent_id):
            raise Conflict(f"This socket is the agent {connection.agent_id!r}; open another one.", param="agent_id")
        facts: Any = {name: given for name in _FACTS if (given := getattr(params, name)) is not None}
        if "preferences" in facts:
            parse(facts["preferences"])  # refused before anything is written
        facts |= {"agent_id": params.agent_id, "seen_at": utc_now(), "status": "available"}
        act = partial(register_agent, tenant_id=tenant_id, **facts)
        row, is_new = await self._rows.run(act, tenant_id=tenant_id, who=_actor(running, params.agent_id))
        self._see(row, running.snapshot)
        await self._news.follow(tenant_id)
        if connection.session is None:
            connection.session = presence.begin(tenant_id, params.agent_id, unix_ms())
        session = connection.session
        connection.agent_id, connection.status = params.agent_id, "available"
        connection.speaks_binary = running.asked.is_binary
        await self._presence.claim(session, connection.status, unix_ms())
        await self._news.say(session)
        latest = await self._news.current(tenant_id)
        if latest is not None and params.last_event_id not in (None, str(latest)):
            connection.notify(_gap(latest))
        connection.last_told = None if connection.topics else latest
        found = {
            "agent_id": params.agent_id,
            "session_id": session.id,
            "resumed": not is_new,
            "limits": self._limits(),
            "event_id": None if latest is None else str(latest),
        }
        return rpc.result(running.asked, found)

    async def _heartbeat(self, running: Running, params: messages.Heartbeat) -> Reply:
        connection = running.connection
        if params.status is not None:
            await self._say_status(connection, params.status)
        found = {"agent_id": connection.agent_id, "status": connection.status, "at": rfc3339(utc_now())}
        return rpc.result(running.asked, found)

    async def _update(self, running: Running, params: messages.Update) -> Reply:
        connection = running.connection
        facts: Any = {n: given for n in ("preferences", "status") if (given := getattr(params, n)) is not None}
        if "preferences" in facts:
            parse(facts["preferences"])
        tenant_id = running.snapshot.config.tenant_id
        act = partial(change_agent, tenant_id=tenant_id, agent_id=connection.agent_id, **facts)
        row = await self._rows.run(act, tenant_id=tenant_id, who=_actor(running, connection.agent_id))
        self._see(row, running.snapshot)
        if params.status is not None:
            await self._say_status(connection, params.status)
        found = {
            "agent_id": connection.agent_id,
            "status": connection.status,
            "preferences": to_json(preferences_of(row)),
        }
        return rpc.result(running.asked, found)

    async def _list(self, running: Running, params: messages.ListAgents) -> Reply:
        tenant_id = running.snapshot.config.tenant_id
        wanted: Any = {"agent_type": params.agent_type, "after": params.after or "", "limit": params.limit + 1}
        rows = await self._rows.run(partial(page_of_agents, tenant_id, **wanted), tenant_id=tenant_id)
        more, rows = len(rows) > params.limit, rows[: params.limit]
        statuses = await self._presence.statuses(tenant_id, [row.agent_id for row in rows], unix_ms())
        agents = [_shown(row, statuses) for row in rows]
        shown = [each for each in agents if params.status in (None, each["status"])]
        return rpc.result(running.asked, {"agents": shown, "next": rows[-1].agent_id if more else None})

    async def _subscribe(self, running: Running, params: messages.Topics) -> Reply:
        if "alerts" in params.topics and not allows(running.key.scopes, Scope.USAGE_READ):
            raise KeyNotPermitted(f"The topic `alerts` needs the scope `{Scope.USAGE_READ}`.", param="topics")
        connection, tenant_id = running.connection, running.snapshot.config.tenant_id
        connection.topics |= frozenset(params.topics)  # first: what is heard while we ask is for this agent too
        await self._news.follow(tenant_id)
        latest = await self._news.current(tenant_id)
        if latest is not None and connection.last_told not in (None, latest):
            connection.notify(_gap(latest))
        connection.last_told = None  # from now on `SocketNews` watches
        return rpc.result(running.asked, {"topics": sorted(connection.topics)})

    async def _unsubscribe(self, running: Running, params: messages.Topics) -> Reply:
        running.connection.topics -= frozenset(params.topics)
        return rpc.result(running.asked, {"topics": sorted(running.connection.topics)})

    async def _ping(self, running: Running, params: messages.Nothing) -> Reply:
        return rpc.result(running.asked, {"pong": True})

    async def _say_status(self, connection: Connection, status: Any) -> None:
        connection.status = status
        if connection.session is not None:
            await self._presence.claim(connection.session, status, unix_ms())

    def _see(self, row: Any, snapshot: TenantSnapshot) -> None:
        """The next request on this socket is to find what it has just said, sooner than the message of it arrives."""
        if snapshot.config.agents.get(row.agent_id) != preferences_of(row):
            self._configuration.apply(Change(row.tenant_id))

    def _limits(self) -> dict[str, int | float]:
        bounds = self._bounds
        return {
            "messages_per_minute": bounds.messages_per_minute,
            "burst": bounds.burst,
            "text_bytes": bounds.text_bytes,
            "payload_bytes": MOST_PAYLOAD,
            "in_flight": bounds.in_flight,
            "batch_items": messages.MOST_BATCH_ITEMS,
            "notifications": bounds.notifications,
            "idle_seconds": bounds.idle_s,
        }


def _gap(latest: EventId) -> Notice:
    return Notice("resync", {"reason": "gap", "event_id": str(latest)})


def _actor(running: Running, agent_id: str) -> Actor:
    return Actor(Kind.AGENT, agent_id, f"{agent_id} with key {running.key.key_id}", running.connection.address)


def _shown(row: KnownAgent, statuses: Mapping[str, str] | None) -> dict[str, Any]:
    """Where it cannot be known who is connected, the row's own status stands, and `connected` is null."""
    is_connected = None if statuses is None else row.agent_id in statuses
    status = row.status if statuses is None else statuses.get(row.agent_id, "offline")
    return {
        "agent_id": row.agent_id,
        "agent_type": row.agent_type,
        "name": row.name,
        "version": row.version,
        "capabilities": row.capabilities,
        "status": status,
        "connected": is_connected,
        "last_seen_at": rfc3339(row.last_seen_at),
    }
