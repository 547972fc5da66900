"""What becomes of holds whose worker died, of lost pools, and of limits that are new or lower: as the ledger says."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
import redis

from billing.counters import count, differences
from billing.limits import Hold, HoldAsk, Refused
from billing.loading import load_limits
from billing.models import Counter, Pool, UsageRow
from billing.partitions import make_partitions
from billing.reconciling import Reconciled, reconcile
from billing.services import change_limit, remove_limit
from config.up.valkey import EmbeddedValkey
from tests.billing.limit_worlds import Worker, ask, limit, row_of, start_valkey, until
from tests.conftest import Party

pytestmark = pytest.mark.django_db(transaction=True)
LEASE_S = 0.4


@pytest.fixture
def valkey(tmp_path: Any, settings: Any) -> Iterator[EmbeddedValkey]:
    server = start_valkey(tmp_path / "valkey", durable=True)
    settings.CACHES = {"default": {**settings.CACHES["default"], "LOCATION": server.url(0)}}
    make_partitions(today=datetime.now(UTC).date(), ahead=1)
    yield server
    server.stop()


@pytest.fixture
def worker(valkey: EmbeddedValkey) -> Iterator[Worker]:
    found = Worker(valkey.url(0), lease_s=LEASE_S)
    found.connect()
    yield found
    found.stop()


def swept(enough: Callable[[Reconciled], bool]) -> Reconciled:
    """Runs of the reconciliation, added up, until it has found enough."""
    total = Reconciled()

    def look() -> bool:
        found = reconcile(lease_s=LEASE_S)
        for name in ("settled", "released", "unresolved", "pools"):
            setattr(total, name, getattr(total, name) + getattr(found, name))
        return enough(total)

    until(look)
    return total


def commit(worker: Worker, asked: HoldAsk, hold: Hold, tokens: int) -> None:
    """The row alone: the worker dies before it settles."""
    worker.run(worker.ledger.commit(row_of(asked, hold, tokens), ()))


def fits_exactly(worker: Worker, tenant_id: UUID, limits: Any, tokens: int) -> None:
    """So much can be held, and nothing beyond."""
    hold = worker.hold(ask(tenant_id, limits, tokens))
    with pytest.raises(Refused):
        worker.hold(ask(tenant_id, limits, 1))
    worker.release(hold)


def test_a_worker_that_died_before_its_call_holds_nothing_after_its_lease(acme: Party, worker: Worker) -> None:
    terms = (limit(acme.id, "tokens", "day", 100),)
    asked = ask(acme.id, terms, 60)
    worker.hold(asked)
    assert swept(lambda total: total.unresolved == 1) == Reconciled(unresolved=1)
    row = UsageRow.objects.get(id=asked.request_id)
    assert (row.status, row.tokens, row.held_tokens, row.cost_usd) == ("unresolved", 0, 60, 0)
    fits_exactly(worker, acme.id, terms, 100)


def test_one_that_died_after_its_commit_keeps_what_was_charged(acme: Party, worker: Worker) -> None:
    terms = (limit(acme.id, "tokens", "day", 100), limit(acme.id, "usd", "month", 300))
    asked = ask(acme.id, terms, 60)
    commit(worker, asked, worker.hold(asked), 10)
    assert swept(lambda total: total.settled == 1) == Reconciled(settled=1)
    fits_exactly(worker, acme.id, terms, 90)


def test_one_that_only_slept_cannot_charge_any_more(acme: Party, worker: Worker) -> None:
    terms = (limit(acme.id, "tokens", "day", 100),)
    asked = ask(acme.id, terms, 60)
    hold = worker.hold(asked)
    swept(lambda total: total.unresolved == 1)
    worker.finish(asked, hold, 60)
    assert UsageRow.objects.get(id=asked.request_id).tokens == 0
    fits_exactly(worker, acme.id, terms, 100)


def test_a_request_without_limits_that_died_is_seen_too(acme: Party, worker: Worker) -> None:
    asked = ask(acme.id, (), 60)
    worker.hold(asked)
    swept(lambda total: total.unresolved == 1)
    assert UsageRow.objects.get(id=asked.request_id).status == "unresolved"


def test_what_redis_lost_comes_back_from_the_ledger(acme: Party, worker: Worker, valkey: EmbeddedValkey) -> None:
    terms = (limit(acme.id, "tokens", "day", 100),)
    worker.serve(ask(acme.id, terms, 30))
    under_way = ask(acme.id, terms, 20)
    hold = worker.hold(under_way)
    redis.from_url(valkey.url(0)).flushall()
    worker.finish(under_way, hold, 15)
    swept(lambda total: total.pools == 1)
    assert differences(acme.id) == {}
    fits_exactly(worker, acme.id, terms, 55)


def test_a_restart_with_old_data_is_not_believed(acme: Party, worker: Worker, valkey: EmbeddedValkey) -> None:
    terms = (limit(acme.id, "tokens", "day", 100),)
    worker.serve(ask(acme.id, terms, 10))
    client = redis.from_url(valkey.url(0))
    key = f"ql:{{{acme.id}}}"
    old = client.hgetall(key)
    worker.serve(ask(acme.id, terms, 60))
    client.delete(key)
    client.hset(key, mapping=old)  # as if the last seconds had not reached the disk
    assert valkey.process is not None
    valkey.process.send_signal(signal.SIGTERM)
    valkey.process.wait()
    valkey.start()
    valkey.wait_until_ready()
    until(lambda: _is_new(worker))
    with pytest.raises(Refused):
        worker.hold(ask(acme.id, terms, 31))
    swept(lambda total: total.pools == 1)
    fits_exactly(worker, acme.id, terms, 30)


def _is_new(worker: Worker) -> bool:
    worker.quiesce()
    return worker.pipe.is_up and bool(worker.run(_ping(worker)))


async def _ping(worker: Worker) -> bool:
    try:
        await worker.pipe.call("PING")
    except Exception:  # noqa: BLE001  it is not there yet
        return False
    return True


def test_what_was_held_without_redis_is_counted_when_it_is_over(acme: Party, valkey: EmbeddedValkey) -> None:
    terms = (limit(acme.id, "tokens", "day", 100), limit(acme.id, "requests", "month", 9))
    alone = Worker("redis://127.0.0.1:1/0", lease_s=LEASE_S)
    alone.serve(ask(acme.id, terms, 40), 25)
    asked = ask(acme.id, terms, 30)
    alone.hold(asked)  # and dies
    assert count(acme.id, terms, datetime.now(UTC))[terms[0].limit_id] == (0, 55)
    swept(lambda total: total.pools == 1)
    assert differences(acme.id) == {}
    assert count(acme.id, terms, datetime.now(UTC)) == {terms[0].limit_id: (25, 0), terms[1].limit_id: (1, 0)}
    fits_exactly(alone, acme.id, terms, 75)  # from a new pool
    alone.stop()


def test_what_comes_back_from_another_pool_is_not_shown_as_used(acme: Party, worker: Worker) -> None:
    terms = (limit(acme.id, "tokens", "day", 100_000),)
    died = Worker("redis://127.0.0.1:1/0", lease_s=LEASE_S)
    asked = ask(acme.id, terms, 60)
    commit(died, asked, died.hold(asked), 10)
    died.stop()
    worker.serve(ask(acme.id, terms, 5))
    swept(lambda total: total.pools == 1)
    [found] = worker.run(worker.limits.standing(ask(acme.id, terms, 1)))
    assert (found.used, found.held) == (15, 0)


def test_a_limit_that_is_lowered_bites_at_once(acme: Party, worker: Worker) -> None:
    terms = (limit(acme.id, "tokens", "day", 1000),)
    worker.serve(ask(acme.id, terms, 100))
    change_limit(tenant_id=acme.id, limit_id=terms[0].limit_id, amount=Decimal(120))
    lower = load_limits(acme.id)
    assert lower[0].amount == 120
    fits_exactly(worker, acme.id, lower, 20)


def test_a_new_limit_counts_what_was_before_and_what_was_under_way(acme: Party, worker: Worker) -> None:
    old = limit(acme.id, "requests", "month", 1000)
    worker.serve(ask(acme.id, (old,), 10))
    under_way = ask(acme.id, (old,), 7)
    hold = worker.hold(under_way)
    new = limit(acme.id, "tokens", "day", 100)
    assert Counter.objects.get(limit_id=new.limit_id).settled == 10
    Counter.objects.filter(limit_id=new.limit_id).update(recount_at=datetime.now(UTC))
    worker.finish(under_way, hold, 7)
    swept(lambda total: total.pools == 1)
    assert differences(acme.id) == {}
    fits_exactly(worker, acme.id, (old, new), 83)


def test_a_limit_that_is_removed_refuses_nobody(acme: Party, worker: Worker) -> None:
    gone, kept = limit(acme.id, "tokens", "day", 5), limit(acme.id, "requests", "day", 2)
    remove_limit(tenant_id=acme.id, limit_id=gone.limit_id)
    terms = (gone, kept)  # a snapshot that does not know yet
    worker.hold(ask(acme.id, terms, 50))
    worker.hold(ask(acme.id, terms, 50))
    with pytest.raises(Refused) as refused:
        worker.hold(ask(acme.id, terms, 50))
    assert refused.value.terms == kept
    assert not Counter.objects.filter(limit_id=gone.limit_id).exists()


def test_a_soft_limit_that_becomes_hard_has_counted_all_along(acme: Party, worker: Worker) -> None:
    soft = (limit(acme.id, "tokens", "day", 100, "soft"),)
    worker.serve(ask(acme.id, soft, 90))
    change_limit(tenant_id=acme.id, limit_id=soft[0].limit_id, mode="hard")
    fits_exactly(worker, acme.id, load_limits(acme.id), 10)


def test_the_limits_of_one_tenant_are_not_anothers(acme: Party, mallory: Party, worker: Worker) -> None:
    hers, his = (limit(mallory.id, "tokens", "day", 10),), (limit(acme.id, "tokens", "day", 10),)
    worker.serve(ask(mallory.id, hers, 10))
    assert worker.hold(ask(acme.id, his, 10)).pool is not None
    assert set(Pool.objects.values_list("tenant_id", flat=True)) == {acme.id, mallory.id}
    assert load_limits(acme.id) == his


def test_a_pool_that_was_closed_elsewhere_is_not_spent_from_for_long(acme: Party, worker: Worker) -> None:
    terms = (limit(acme.id, "tokens", "day", 1000),)
    first = worker.serve(ask(acme.id, terms, 100))
    Pool.objects.update(closed_at=datetime.now(UTC))  # by those who see another server
    worker.run(worker.limits._pools.confirm())
    assert worker.hold(ask(acme.id, terms, 1)).pool != first.pool
