"""Limits of days and months hold to the token and the nano-dollar, through the public door: 256 callers behind a
barrier, three web workers, Redis flushed, killed and silent, workers killed.

Each story has a tenant of its own that never asked anything before, and ends in the same check (`check_books`). What
happens at midnight and at the end of a month needs another clock: `tests/billing/test_limits_races.py`.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
from dataclasses import replace
from decimal import Decimal

import pytest
import redis

from tests.scenarios.accounts import add_caller, add_limit, bring_to_rest, check_books
from tests.scenarios.crowd import CALLERS, COST, NANO, Crowd
from tests.up.processes import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
FITS = 100
# Of each measure a limit that allows 100 requests, and not quite another one.
AMOUNTS = {
    "tokens": COST * FITS + COST - 1,
    "requests": FITS,
    "usd": str(Decimal(NANO * FITS + NANO - 1).scaleb(-9)),
}
names = itertools.count()


@pytest.fixture
def who(crowded):
    """Someone new. In the end, the books are checked: ledger, counters and what is shown are the same."""
    caller = add_caller(crowded, f"crowd-{next(names)}", crowded.model_id)
    yield caller
    check_books(crowded, caller)


@pytest.mark.parametrize(
    ("scope", "measure", "period"),
    [
        ("tenant", "tokens", "day"),
        ("model", "tokens", "month"),
        ("agent", "requests", "day"),
        ("key", "requests", "month"),
        ("tenant", "usd", "month"),
        ("model", "usd", "day"),
        ("agent", "tokens", "month"),
        ("key", "usd", "day"),
    ],
)
async def test_256_callers_get_exactly_what_a_limit_allows(crowded, who, scope, measure, period):
    add_limit(crowded, who, measure, period, AMOUNTS[measure], scope)
    crowd = Crowd(crowded.port, who.key)
    await crowd.run()
    assert (crowd.granted, crowd.statuses[402]) == (FITS, CALLERS - FITS)
    assert (crowd.statuses[200], crowd.broken) == (FITS, 0)
    assert {each["scope"] for each in crowd.refusals} == {scope}


async def test_of_many_limits_the_tightest_decides(crowded, who):
    for scope, period in itertools.product(("tenant", "model", "agent", "key"), ("day", "month")):
        add_limit(crowded, who, "tokens", period, COST * 500, scope)
    add_limit(crowded, who, "requests", "month", 90, "key")
    add_limit(crowded, who, "usd", "day", str(Decimal(NANO * 70).scaleb(-9)))
    crowd = Crowd(crowded.port, who.key)
    await crowd.run()
    assert (crowd.granted, crowd.statuses[402]) == (70, CALLERS - 70)


async def test_a_key_gets_what_its_limit_allows_once_however_often_it_rotates_itself_and_mints(crowded):
    """It rotates itself with and without overlap and mints children, who all ask at once in the end."""
    caller = add_caller(crowded, "shedding", crowded.model_id)
    minted = crowded.mint(caller.tenant, "embeddings", "keys:write", agent_id="crawler")
    who = replace(caller, key=minted["key"], key_id=minted["id"])
    add_limit(crowded, who, "tokens", "day", COST * FITS + COST - 1, "key")
    granted, alive = 0, []
    for overlap in (0, 3600, 0, 3600, 3600):
        crowd = Crowd(crowded.port, who.key, callers=10)
        await crowd.run()
        granted += crowd.granted
        child = {"name": "child", "scopes": ["embeddings"]}
        alive.append(crowded.operate("POST", "/api-keys", child, who.key)["key"])
        alive += [who.key] if overlap else []
        new = crowded.operate("POST", f"/api-keys/{who.key_id}/rotate", {"overlap_seconds": overlap}, who.key)
        who = replace(who, key=new["key"], key_id=new["id"])
    crowds = [Crowd(crowded.port, key, callers=16) for key in (*alive, who.key)]
    await asyncio.gather(*(each.run() for each in crowds))
    assert granted == 50
    assert (len(crowds), granted + sum(each.granted for each in crowds)) == (9, FITS)
    assert {refusal["scope"] for each in crowds for refusal in each.refusals} == {"key"}
    found = crowded.operate("GET", f"/limits?scope=key&scope_id={who.key_id}", key=who.admin_key)["results"]
    assert [Decimal(each["amount"]) for each in found] == [COST * FITS + COST - 1]
    check_books(crowded, who)


# What goes wrong while a crowd asks; each is over when its function returns.


async def flush_redis_three_times(platform, crowd):
    with redis.from_url(platform.environment["REDIS_URL"]) as client:
        for enough in (100, 200, 300):
            await crowd.until_granted(enough)
            await asyncio.to_thread(client.flushdb)


async def kill_redis(platform, crowd):
    await crowd.until_granted(150)
    platform.valkey.process.kill()
    await asyncio.to_thread(platform.valkey.process.wait)
    await crowd.until_granted(250)  # by PostgreSQL alone
    platform.valkey.start()
    await asyncio.to_thread(platform.valkey.wait_until_ready)
    # As whoever runs it would: Celery's worker ends when its broker goes while it has a task in hand.
    await asyncio.to_thread(platform.stop_worker)
    platform.start_worker()


async def silence_redis_for_two_seconds(platform, crowd):
    await crowd.until_granted(150)
    os.kill(platform.valkey.process.pid, signal.SIGSTOP)
    await asyncio.sleep(2)
    os.kill(platform.valkey.process.pid, signal.SIGCONT)


async def kill_four_workers(platform, crowd):
    dice, killed = random.Random(4), set[int]()
    for number in range(4):
        await crowd.until_granted(80 * (number + 1))
        alive = await asyncio.to_thread(eventually, lambda: {*platform.worker_pids} - killed, 30)
        victim = dice.choice(sorted(alive))
        os.kill(victim, signal.SIGKILL)
        killed.add(victim)
    assert crowd.broken > 0  # they did die with requests under way
    await asyncio.to_thread(eventually, lambda: len(platform.worker_pids) == 3, 30)


FITS_WHATEVER = 800
# What is asked again after its answer was lost comes from the cache and is charged nothing: a row all the same.
CHARGED = "SELECT count(*) FROM billing_usagerow WHERE tenant_id = '{tenant}' AND status = 'ok' AND tokens > 0"
UNRESOLVED = "SELECT count(*) FROM billing_usagerow WHERE tenant_id = '{tenant}' AND status = 'unresolved'"


def rows_of(platform, who, query: str) -> int:
    return platform.rows(query.format(tenant=who.tenant))[0][0]


async def test_whatever_goes_wrong_nothing_is_beyond_and_in_the_end_all_of_it_can_be_spent(crowded, capsys):
    """Two limits run out together, of tokens and of money, and both hold. What was lost on the way (blocks that Redis
    had, holds of dead workers) comes back when the leases are over."""
    stories = []
    for harm in (flush_redis_three_times, silence_redis_for_two_seconds, kill_four_workers, kill_redis):
        who = add_caller(crowded, harm.__name__.replace("_", "-"), crowded.model_id)
        add_limit(crowded, who, "tokens", "month", COST * FITS_WHATEVER + COST - 1)
        add_limit(crowded, who, "usd", "day", str(Decimal(NANO * FITS_WHATEVER + NANO - 1).scaleb(-9)), "key")
        crowd = Crowd(crowded.port, who.key, requests=4)
        await crowd.start()
        await harm(crowded, crowd)
        await crowd.finish()
        served = rows_of(crowded, who, CHARGED)
        assert crowd.granted <= served <= FITS_WHATEVER  # an answer may have been lost on its way, never its row
        stories.append((harm.__name__, who, crowd, served))
    for story, who, crowd, served in stories:
        await asyncio.to_thread(bring_to_rest, crowded, who)
        rest = Crowd(crowded.port, who.key, requests=4)
        await rest.run()
        figures = {
            "served meanwhile": served,
            "afterwards": rest.granted,
            "beyond": served + rest.granted - FITS_WHATEVER,
            "unresolved": rows_of(crowded, who, UNRESOLVED),
            "broken": crowd.broken,
            **crowd.statuses,
        }
        with capsys.disabled():
            print(f"\n{story}: " + ", ".join(f"{name} {value}" for name, value in figures.items()))  # noqa: T201
        assert served + rest.granted == FITS_WHATEVER
        await asyncio.to_thread(check_books, crowded, who)
