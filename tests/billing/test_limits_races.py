"""Many processes full of callers on one limit: never over, and in the end everything can be spent.

Each story ends in the same check: what the ledger says was charged is what the counters say.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
import redis

from billing.counters import count, differences
from billing.limits import LimitTerms
from billing.models import Counter, Grant, Pool
from billing.partitions import make_partitions
from billing.reconciling import reconcile
from config.up.valkey import EmbeddedValkey
from tests.billing.limit_worlds import PRICE, Crowd, charged, limit, start_valkey, until
from tests.conftest import Party

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]
LEASE_S = 1.0
NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


@pytest.fixture
def valkey(tmp_path: Any, settings: Any) -> Iterator[EmbeddedValkey]:
    server = start_valkey(tmp_path / "valkey")
    settings.CACHES = {"default": {**settings.CACHES["default"], "LOCATION": server.url(0)}}
    make_partitions(today=NOW.date(), ahead=1)
    yield server
    assert server.process is not None
    server.process.send_signal(signal.SIGCONT)
    server.stop()


@pytest.fixture
def bring_to_rest() -> Callable[[UUID], None]:
    """Lets every lease run out and counts everything anew; then the ledger and the counters say the same."""

    def rested(tenant_id: UUID) -> None:
        def is_quiet() -> bool:
            reconcile(lease_s=LEASE_S)
            lost = Pool.objects.filter(tenant_id=tenant_id).exclude(kind="redis", closed_at=None)
            return not lost.exists()

        until(is_quiet)
        assert differences(tenant_id) == {}
        assert all(each.granted >= 0 for each in Counter.objects.filter(tenant_id=tenant_id))
        for each in Counter.objects.filter(tenant_id=tenant_id):
            grants = Grant.objects.filter(limit_id=each.limit_id, period_start=each.period_start)
            assert each.granted == sum(grant.given for grant in grants)

    return rested


def in_units(terms: LimitTerms, tenant_id: UUID) -> int:
    requests, tokens, nano = charged(tenant_id)
    return {"requests": requests, "tokens": tokens, "usd": nano}[terms.measure]


@pytest.mark.parametrize("period", ["day", "month"])
@pytest.mark.parametrize(
    ("measure", "amount", "fits"), [("tokens", 999, 142), ("requests", 101, 101), ("usd", 2110, 100)]
)
def test_256_callers_get_exactly_what_the_limit_allows(
    measure: str, amount: int, fits: int, period: str, acme: Party, valkey: EmbeddedValkey, bring_to_rest: Any
) -> None:
    terms = limit(acme.id, measure, period, amount)
    crowd = Crowd(valkey.url(0), [terms], tenant_id=acme.id, cost=7, lease_s=LEASE_S)
    crowd.go()
    found = crowd.results()
    assert (found["served"], found["unavailable"]) == (fits, 0)
    assert found["refused"] == 258 - fits
    assert charged(acme.id) == (fits, fits * 7, fits * 7 * PRICE)
    assert count(acme.id, [terms], datetime.now(UTC))[terms.limit_id] == (in_units(terms, acme.id), 0)
    bring_to_rest(acme.id)


def again_until_used_up(acme: Party, valkey: EmbeddedValkey, terms: LimitTerms, cost: int, rest: Any) -> None:
    """After the leases, everything that is unspent can be spent, and nothing beyond."""
    rest(acme.id)
    crowd = Crowd(valkey.url(0), [terms], tenant_id=acme.id, cost=cost, requests=6, lease_s=LEASE_S)
    crowd.go()
    found = crowd.results()
    assert found["unavailable"] == 0
    assert in_units(terms, acme.id) == terms.amount // cost * cost
    rest(acme.id)


def test_redis_flushed_three_times_never_lets_too_much_through(
    acme: Party, valkey: EmbeddedValkey, bring_to_rest: Any
) -> None:
    terms = limit(acme.id, "tokens", "day", 5_003)
    crowd = Crowd(valkey.url(0), [terms], tenant_id=acme.id, cost=5, requests=8, pause_s=0.02, lease_s=LEASE_S)
    client = redis.from_url(valkey.url(0))
    crowd.go()
    for enough in (100, 200, 300):
        until(lambda: charged(acme.id)[0] >= enough or crowd.processes[0].poll() is not None)  # noqa: B023
        client.flushall()
    crowd.results()
    assert charged(acme.id)[1] <= terms.amount
    again_until_used_up(acme, valkey, terms, 5, bring_to_rest)


def test_redis_killed_in_mid_load(acme: Party, valkey: EmbeddedValkey, bring_to_rest: Any) -> None:
    terms = limit(acme.id, "tokens", "month", 2_001)
    crowd = Crowd(valkey.url(0), [terms], tenant_id=acme.id, cost=5, requests=10, pause_s=0.02, lease_s=LEASE_S)
    crowd.go()
    until(lambda: charged(acme.id)[0] >= 50)
    assert valkey.process is not None
    valkey.process.kill()
    valkey.process.wait()
    found = crowd.results()
    assert found["direct"] > 0  # served by PostgreSQL alone
    assert charged(acme.id)[1] <= terms.amount
    valkey.start()
    valkey.wait_until_ready()
    again_until_used_up(acme, valkey, terms, 5, bring_to_rest)


def test_redis_that_says_nothing_for_two_seconds(acme: Party, valkey: EmbeddedValkey, bring_to_rest: Any) -> None:
    terms = limit(acme.id, "tokens", "day", 2_001)
    crowd = Crowd(valkey.url(0), [terms], tenant_id=acme.id, cost=5, requests=10, pause_s=0.02, lease_s=LEASE_S)
    assert valkey.process is not None
    crowd.go()
    until(lambda: charged(acme.id)[0] >= 50)
    os.kill(valkey.process.pid, signal.SIGSTOP)
    silent_until = time.monotonic() + 2
    until(lambda: time.monotonic() > silent_until)
    os.kill(valkey.process.pid, signal.SIGCONT)
    crowd.results()
    assert charged(acme.id)[1] <= terms.amount
    again_until_used_up(acme, valkey, terms, 5, bring_to_rest)


def test_workers_killed_at_random(acme: Party, valkey: EmbeddedValkey, bring_to_rest: Any) -> None:
    terms = limit(acme.id, "tokens", "day", 4_001)
    for enough in (20, 60, 100, 140):
        crowd = Crowd(valkey.url(0), [terms], tenant_id=acme.id, cost=5, requests=10, pause_s=0.05, lease_s=LEASE_S)
        crowd.go()
        until(lambda: charged(acme.id)[0] >= enough)  # noqa: B023
        for each in crowd.processes:
            each.kill()
        crowd.results()
    assert charged(acme.id)[1] <= terms.amount
    client = redis.from_url(valkey.url(0))
    holds = f"ql:{{{acme.id}}}:holds"
    assert client.zcard(holds) > 0  # what they left behind

    def is_swept() -> bool:
        reconcile(lease_s=LEASE_S)
        return client.zcard(holds) == 0

    until(is_swept)
    again_until_used_up(acme, valkey, terms, 5, bring_to_rest)


def test_midnight_begins_a_new_day_and_ends_no_month(acme: Party, valkey: EmbeddedValkey, bring_to_rest: Any) -> None:
    day, month = limit(acme.id, "tokens", "day", 100), limit(acme.id, "tokens", "month", 150)
    midnight = int(datetime(2026, 11, 25, tzinfo=UTC).timestamp() * 1000)
    crowds = [
        Crowd(valkey.url(0), [day, month], tenant_id=acme.id, processes=1, created_ms=ms, lease_s=LEASE_S)
        for ms in (midnight - 1, midnight, midnight - 1, midnight)
    ]
    for each in crowds:
        each.go()
    served = [each.results()["served"] for each in crowds]
    assert sum(served) == 150
    assert served[0] + served[2] <= 100
    assert served[1] + served[3] <= 100
    bring_to_rest(acme.id)


def test_the_end_of_a_month_begins_another_one(acme: Party, valkey: EmbeddedValkey, bring_to_rest: Any) -> None:
    terms = limit(acme.id, "usd", "month", 60 * PRICE)
    first = int(datetime(2026, 12, 1, tzinfo=UTC).timestamp() * 1000)
    crowds = [
        Crowd(valkey.url(0), [terms], tenant_id=acme.id, processes=1, created_ms=ms, lease_s=LEASE_S)
        for ms in (first - 1, first)
    ]
    for each in crowds:
        each.go()
    assert [each.results()["served"] for each in crowds] == [60, 60]
    bring_to_rest(acme.id)
