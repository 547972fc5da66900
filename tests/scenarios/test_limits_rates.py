"""Rates per minute through the public door: exact while Redis keeps its data, at most one window more after it lost it,
and whoever waits as long as told is served."""

from __future__ import annotations

import asyncio
import itertools
import struct
from uuid import UUID

import pytest
import redis

from billing.limit_plans import keys_of
from billing.limit_scripts import BUCKETS
from tests.scenarios.accounts import Caller, add_caller, add_limit
from tests.scenarios.crowd import CALLERS, COST, Crowd

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
FITS = 40
names = itertools.count()


@pytest.fixture
def who(crowded):
    return add_caller(crowded, f"rate-{next(names)}", crowded.model_id)


def make_older(platform, who: Caller, limit_id: str, seconds: int) -> None:
    """What was used in the last minute was used so much earlier: waiting for it, without the wait. Redis' clock is the
    only one that counts, so the ring of seconds that Redis keeps is turned back."""
    key, field = keys_of(UUID(who.tenant))[0], b"r:" + UUID(limit_id).hex.encode()
    with redis.from_url(platform.environment["REDIS_URL"]) as client:
        total, last, *ring = struct.unpack(f"<{BUCKETS + 2}d", client.hget(key, field))
        older = [ring[(slot + seconds) % BUCKETS] for slot in range(BUCKETS)]
        client.hset(key, field, struct.pack(f"<{BUCKETS + 2}d", total, last - seconds, *older))


@pytest.mark.parametrize(("measure", "amount"), [("requests", FITS), ("tokens", COST * FITS + COST - 1)])
async def test_256_callers_get_exactly_what_a_minute_allows(crowded, who, measure, amount):
    add_limit(crowded, who, measure, "minute", amount)
    crowd = Crowd(crowded.port, who.key)
    await crowd.run()
    assert (crowd.granted, crowd.statuses[429]) == (FITS, CALLERS - FITS)
    assert all(1 <= each["retry_after"] <= BUCKETS for each in crowd.refusals)


async def test_a_flush_gives_at_most_one_window_more(crowded, who):
    add_limit(crowded, who, "requests", "minute", FITS)
    first, second = Crowd(crowded.port, who.key), Crowd(crowded.port, who.key)
    await first.run()
    with redis.from_url(crowded.environment["REDIS_URL"]) as client:
        client.flushdb()
    await second.run()
    assert (first.granted, second.granted) == (FITS, FITS)


async def test_whoever_waits_as_long_as_told_is_served(crowded, who):
    limit_id = add_limit(crowded, who, "requests", "minute", 2)
    first = Crowd(crowded.port, who.key, callers=3)
    await first.run()
    make_older(crowded, who, limit_id, 56)
    refused = await asyncio.to_thread(crowded.embed, who.key, input="one text too much")
    assert (first.granted, refused.status) == (2, 429)
    assert 1 <= int(refused.headers["retry-after"]) <= 6
    await asyncio.sleep(int(refused.headers["retry-after"]))
    served = await asyncio.to_thread(crowded.embed, who.key, input="one text too much")
    assert served.status == 200
