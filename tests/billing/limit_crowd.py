"""One worker process full of callers, told what to do by its argument; begins when it hears `go`."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any
from uuid import UUID

from billing.ledger import Ledger
from billing.limits import SCRIPTS, HoldAsk, Limits, LimitTerms, Refused
from billing.redis_pipe import RedisPipe
from core.errors import LimitsUnavailable
from core.ids import uuid7_text
from tests.billing.records import usage

PRICE = 3


async def crowd(plan: dict[str, Any]) -> dict[str, int]:
    tenant_id = UUID(plan["tenant_id"])
    terms = tuple(LimitTerms(UUID(each[0]), *each[1:]) for each in plan["limits"])
    pipe = RedisPipe(plan["redis_url"], patience_s=0.3, scripts=SCRIPTS)
    pipe.start()
    limits = Limits(plan["conninfo"], pipe, lease_s=plan["lease_s"])
    limits.start()
    ledger = Ledger(plan["conninfo"], wait_s=20.0)
    ledger.start()
    await ledger.ready(within_s=20.0)
    async with asyncio.timeout(20):
        while not pipe.is_up:
            await asyncio.sleep(0.01)
    print("ready", flush=True)  # noqa: T201
    await asyncio.to_thread(sys.stdin.readline)
    counts = {"served": 0, "refused": 0, "unavailable": 0, "direct": 0}

    async def caller() -> None:
        for _ in range(plan["requests"]):
            ms, cost = plan["created_ms"], plan["cost"]
            asked = HoldAsk(tenant_id, uuid7_text(ms), ms, UUID(int=7), terms, cost, cost * PRICE)
            try:
                hold = await limits.hold(asked)
            except Refused:
                counts["refused"] += 1
            except LimitsUnavailable:
                counts["unavailable"] += 1
            else:
                if plan["pause_s"]:
                    await asyncio.sleep(plan["pause_s"])
                row = usage(
                    id=asked.request_id,
                    created_ms=ms,
                    tenant_id=tenant_id,
                    model_id=asked.model_id,
                    tokens=cost,
                    held_tokens=cost,
                    cost_nano=cost * PRICE,
                    pool=hold.pool,
                )
                await ledger.commit(row, ())
                limits.settle(hold, tokens=cost, nano=cost * PRICE)
                counts["served"] += 1
                counts["direct"] += hold.is_direct

    await asyncio.gather(*(caller() for _ in range(plan["callers"])))
    await asyncio.sleep(0)
    if pipe.is_up:
        await asyncio.gather(pipe.call("PING"), return_exceptions=True)
    await limits.close()
    await ledger.close()
    await pipe.close()
    return counts


if __name__ == "__main__":
    print(json.dumps(asyncio.run(crowd(json.loads(sys.argv[1])))), flush=True)  # noqa: T201
