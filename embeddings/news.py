"""News for agents: what is told under which topic, and how it gets from where it happens to every process with sockets.

Each tenant's events are numbered in Redis, and each carries its number: who sees a gap has missed something, and asks
anew for what it keeps. Numbers exist only while some agent of the tenant was connected in the last week: for the others
nothing is sent. An event goes to the group of its tenant in the channel layer, and to no other.

Failure: Redis away → the event is not told, logged; what was missed shows as a gap once there is news again, or with
the next look at the numbers. Redis came back empty → another epoch, which is a gap.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Collection, Mapping
from typing import Any
from uuid import UUID

import msgspec
import redis
from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django_redis import get_redis_connection

from billing.redis_pipe import Script
from core.clock import utc_now
from embeddings.messages import Topic

log = logging.getLogger(__name__)

EVENT, SESSION = "news.event", "news.session"  # types of messages in the layer
_KEPT_S = 7 * 24 * 3600
_AT_ONCE = 500
# KEYS: the tenant's numbers. ARGV: seconds to keep, an epoch for who comes first. Epoch and number of the last event.
CURRENT = Script("""
redis.call('HSETNX', KEYS[1], 'epoch', ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[1])
return {redis.call('HGET', KEYS[1], 'epoch'), redis.call('HGET', KEYS[1], 'number') or '0'}
""")
# KEYS: as above. Epoch and number of a new event; nothing where nobody listens.
_NEXT = """
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if not epoch then return {} end
return {epoch, redis.call('HINCRBY', KEYS[1], 'number', 1)}
"""


class EventId(msgspec.Struct, frozen=True, order=True):
    epoch: str
    number: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.number}"


class Event(msgspec.Struct, frozen=True):
    """One piece of news for one tenant."""

    id: EventId
    topic: Topic
    name: str  # the notification's method
    about: Mapping[str, Any]
    at: str


def numbers_key(tenant_id: UUID) -> str:
    return f"quiver:news:{{{tenant_id}}}"


def current_words() -> tuple[int, str]:
    """The arguments of `CURRENT`."""
    return _KEPT_S, secrets.token_hex(4)


def group_of(tenant_id: UUID) -> str:
    return f"tenant.{tenant_id.hex}"


def publish(tenant_ids: Collection[UUID], topic: Topic, name: str, about: Mapping[str, Any]) -> int:
    """Tells these tenants' agents, from ordinary synchronous code. Returns for how many tenants somebody may listen."""
    at = utc_now().strftime("%Y-%m-%dT%H:%M:%SZ")
    try:
        numbered = _numbered(sorted(tenant_ids))
        events = {tenant_id: _encode(Event(id, topic, name, about, at)) for tenant_id, id in numbered.items()}
        if events:
            async_to_sync(_send)(events)
    except (redis.RedisError, OSError) as error:
        log.warning("news of %s were not told: %s", name, type(error).__name__)
        return 0
    return len(events)


def read(message: Mapping[str, Any]) -> tuple[UUID, Event]:
    """The tenant and the event in a message of the layer."""
    return UUID(message["tenant"]), _decoder.decode(message["event"])


_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(Event)


def _numbered(tenant_ids: list[UUID]) -> dict[UUID, EventId]:
    client = get_redis_connection("default")
    script = client.register_script(_NEXT)
    found: dict[UUID, EventId] = {}
    for begin in range(0, len(tenant_ids), _AT_ONCE):
        some = tenant_ids[begin : begin + _AT_ONCE]
        with client.pipeline(transaction=False) as pipe:
            for tenant_id in some:
                script(keys=[numbers_key(tenant_id)], client=pipe)
            for tenant_id, answer in zip(some, pipe.execute(), strict=True):
                if answer:
                    found[tenant_id] = EventId(answer[0].decode(), int(answer[1]))
    return found


async def _send(events: Mapping[UUID, bytes]) -> None:
    layer = get_channel_layer()
    for tenant_id, event in events.items():
        await layer.group_send(group_of(tenant_id), {"type": EVENT, "tenant": tenant_id.hex, "event": event})
