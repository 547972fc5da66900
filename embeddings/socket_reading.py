"""What an agent may look up: `models.list`, `usage.get`, `quota.get`. Reads only; rows are read in threads."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from typing import Any

from billing.standing import LimitStanding, figure, standings_for
from billing.usage import Narrowed, costs_by_model
from core.clock import utc_now
from embeddings import listing, messages, rpc
from embeddings.answers import rfc3339
from embeddings.connection import Handler, Reply, Running
from embeddings.control_rows import ControlRows

_PERIODS = {
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
    "week": timedelta(days=7),
    "month": timedelta(days=30),
}


class ReadingMethods:
    def __init__(self, *, rows: ControlRows) -> None:
        self._rows = rows

    @property
    def handlers(self) -> Mapping[str, Handler]:
        return {"models.list": self._models, "usage.get": self._usage, "quota.get": self._quota}

    async def _models(self, running: Running, params: messages.Nothing) -> Reply:
        return rpc.written(running.asked, listing.list_models(running.snapshot, running.key, utc_now()))

    async def _usage(self, running: Running, params: messages.Usage) -> Reply:
        agent_id = _agent(running)
        # The key's own where it names no agent and none is registered; all of the tenant's is another scope's.
        whose = Narrowed(agent_id=agent_id) if agent_id else Narrowed(key_id=running.key.key_id)
        until = utc_now()
        since = until - _PERIODS[params.period]
        tenant_id = running.snapshot.config.tenant_id
        act = partial(costs_by_model, tenant_id, whose, since=since, until=until)
        found = await self._rows.run(act, tenant_id=tenant_id)
        by_model = [
            {
                "model": each.of["model"],
                "provider": each.of["provider"],
                "tokens": each.tokens,
                "requests": each.requests,
                "cost_usd": f"{each.cost_usd.normalize():f}",
            }
            for each in found
        ]
        told = {
            "agent_id": agent_id or None,
            "period": params.period,
            "start_time": rfc3339(since),
            "end_time": rfc3339(until),
            "total_tokens": sum(each.tokens for each in found),
            "total_requests": sum(each.requests for each in found),
            "total_cost": f"{sum(each.cost_usd for each in found):f}",
            "by_model": by_model,
        }
        return rpc.result(running.asked, told)

    async def _quota(self, running: Running, params: messages.Nothing) -> Reply:
        tenant_id = running.snapshot.config.tenant_id
        act = partial(standings_for, tenant_id, agent_id=_agent(running), lines=running.key.lines)
        found = await self._rows.run(act, tenant_id=tenant_id)
        return rpc.result(running.asked, {"limits": [_shown(each) for each in found]})


def _agent(running: Running) -> str:
    return running.connection.agent_id or running.key.agent_id


def _shown(each: LimitStanding) -> dict[str, Any]:
    return {
        "scope": each.scope,
        "scope_id": each.scope_id,
        "measure": each.measure,
        "period": each.period,
        "mode": each.mode,
        "limit": figure(each.measure, each.amount),
        "used": figure(each.measure, each.used),
        "held": figure(each.measure, each.held),
        "remaining": figure(each.measure, each.remaining),
        "resets_at": rfc3339(each.resets_at),
    }
