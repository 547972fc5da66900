"""Which agents are connected now, over all processes: sessions in Redis that expire when nobody renews them.

Owns what stands there and that of two sockets of one agent the younger one holds the session. An entry begins with the
moment and the id of its session, so that entries compare as they stand: a claim never displaces a younger one, and who
goes takes away only what is its own. Renewing tells a socket of a younger one, also where the message was lost. What a
process left that was killed is swept by those who live.

Failure: Redis away → nobody counts as known to be connected (`None`), registrations go on, and the next renewal claims
what could not be claimed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from uuid import UUID

import hiredis
import msgspec

from billing.redis_pipe import RedisAway, RedisPipe, Script
from core.ids import uuid7_text

_AWAY = (RedisAway, hiredis.ReplyError)
_KEPT_S = 24 * 3600  # so that who comes back first finds whom nobody has seen leave
_MARK = 52  # letters of an entry's beginning: 15 of the moment, a point, 36 of the id

# KEYS: the tenant's sessions, by agent. ARGV: agent, entry, now, how long it is good (ms). 1, or the younger entry.
_CLAIM = Script(f"""
local was = redis.call('HGET', KEYS[1], ARGV[1])
if was then
  local until_ms, entry = string.match(was, '^(%d+) (.*)$')
  if tonumber(until_ms) > tonumber(ARGV[3]) and string.sub(entry, 1, {_MARK}) > string.sub(ARGV[2], 1, {_MARK}) then
    return entry
  end
end
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f', ARGV[3] + ARGV[4]) .. ' ' .. ARGV[2])
redis.call('EXPIRE', KEYS[1], {_KEPT_S})
return 1
""")
# KEYS: as above. ARGV: agent, the beginning of the entry.
_LEAVE = Script(f"""
local was = redis.call('HGET', KEYS[1], ARGV[1])
if was and string.sub(string.match(was, '^%d+ (.*)$'), 1, {_MARK}) == ARGV[2] then
  return redis.call('HDEL', KEYS[1], ARGV[1])
end
return 0
""")
# KEYS: as above. ARGV: now, how long it is good (ms). The agents whose entries nobody renewed, which go; one process at
# a time looks, and says in a field without a name when the next one may.
_SWEEP = Script("""
local now = tonumber(ARGV[1])
if tonumber(redis.call('HGET', KEYS[1], '') or '0') > now then return {} end
local found = redis.call('HGETALL', KEYS[1])
local gone = {}
for i = 1, #found, 2 do
  if found[i] ~= '' and tonumber(string.match(found[i + 1], '^%d+')) <= now then
    gone[#gone + 1] = found[i]
    redis.call('HDEL', KEYS[1], found[i])
  end
end
if #found > 0 then redis.call('HSET', KEYS[1], '', string.format('%.0f', now + ARGV[2] / 6)) end
return gone
""")
SCRIPTS = (_CLAIM, _LEAVE, _SWEEP)


class Session(msgspec.Struct, frozen=True):
    """One registration of an agent on one socket."""

    tenant_id: UUID
    agent_id: str
    began_ms: int
    id: str

    @property
    def mark(self) -> str:
        """Later ones are greater."""
        return f"{self.began_ms:015d}.{self.id}"


def begin(tenant_id: UUID, agent_id: str, now_ms: int) -> Session:
    return Session(tenant_id, agent_id, now_ms, uuid7_text(now_ms))


class Presence:
    """Lives inside one event loop."""

    def __init__(self, pipe: RedisPipe, *, period_s: float) -> None:
        self._pipe = pipe
        self._good_ms = int(period_s * 1000)
        self.renew_s = period_s / 3

    async def claim(self, session: Session, status: str, now_ms: int) -> str | None:
        """Writes or renews a session. Returns the mark of a younger one where there is one, else None."""
        try:
            found = await self._pipe.run(
                _CLAIM, _key(session.tenant_id), session.agent_id, f"{session.mark} {status}", now_ms, self._good_ms
            )
        except _AWAY:
            return None
        return None if found == 1 else found.decode()[:_MARK]

    def leave(self, session: Session) -> None:
        """The socket is gone; nobody waits for this."""
        self._pipe.tell(b"EVALSHA", _LEAVE.sha, 1, _key(session.tenant_id), session.agent_id, session.mark)

    async def sweep(self, tenant_id: UUID, now_ms: int) -> list[str]:
        """The agents of sessions that nobody renewed, which are forgotten now; mostly none."""
        try:
            found = await self._pipe.run(_SWEEP, _key(tenant_id), now_ms, self._good_ms)
        except _AWAY:
            return []
        return [each.decode() for each in found]

    async def statuses(self, tenant_id: UUID, agent_ids: Collection[str], now_ms: int) -> Mapping[str, str] | None:
        """Of those that are connected; None: it cannot be known."""
        if not agent_ids:
            return {}
        try:
            found = await self._pipe.call("HMGET", _key(tenant_id), *agent_ids)
        except _AWAY:
            return None
        entries = ((agent_id, _status(entry, now_ms)) for agent_id, entry in zip(agent_ids, found, strict=True))
        return {agent_id: status for agent_id, status in entries if status is not None}


def _key(tenant_id: UUID) -> str:
    return f"quiver:sessions:{{{tenant_id}}}"


def _status(entry: bytes | None, now_ms: int) -> str | None:
    if entry is None:
        return None
    until, _, rest = entry.decode().partition(" ")
    return rest[_MARK + 1 :] if int(until) > now_ms else None
