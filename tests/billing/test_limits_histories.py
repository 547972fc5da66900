"""Random histories of holding, settling, releasing, crashing, flushing and reconciling, on real servers.

The model is arithmetic: what was charged, and what living requests hold, is never more than the limit; and once all is
at rest, exactly what is unspent can be held.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from django.db import connection
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing.counters import differences
from billing.limits import Hold, HoldAsk, Refused
from billing.partitions import make_partitions
from billing.reconciling import reconcile
from config.up.valkey import EmbeddedValkey
from core.clock import utc_now
from tests.billing.limit_worlds import Worker, ask, charged, limit, row_of, start_valkey
from tests.conftest import make_party

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]
AMOUNT = 60
WORKERS = st.integers(0, 1)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("hold"), WORKERS, st.integers(0, 40)),
        st.tuples(st.just("settle"), WORKERS, st.integers(0, 40)),
        st.tuples(st.just("release"), WORKERS),
        st.tuples(st.just("die"), WORKERS, st.booleans()),  # before or after its commit
        st.tuples(st.just("flush")),
        st.tuples(st.just("rest")),
    ),
    min_size=3,
    max_size=25,
)


class World:
    """Two workers of one tenant, one that never sees Redis among them if so wished."""

    def __init__(self, valkey: EmbeddedValkey, number: int) -> None:
        self.tenant_id = make_party(f"acme-{number}").id
        self.limits = (
            limit(self.tenant_id, "tokens", "day", AMOUNT),
            limit(self.tenant_id, "usd", "month", AMOUNT * 3),
            limit(self.tenant_id, "requests", "day", 1000, "soft"),
        )
        self.redis = redis.from_url(valkey.url(0))
        self.alive: list[tuple[Worker, HoldAsk, Hold]] = []

    def step(self, workers: list[Worker], what: str, *words: Any) -> None:
        if what == "flush":
            self.redis.flushall()
        elif what == "rest":
            self.rest()
        elif what == "hold":
            asked = ask(self.tenant_id, self.limits, words[1])
            with contextlib.suppress(Refused):
                self.alive.append((workers[words[0]], asked, workers[words[0]].hold(asked)))
        elif mine := [each for each in self.alive if each[0] is workers[words[0]]]:
            self.alive.remove(mine[0])
            self._end(*mine[0], what, *words[1:])
        assert charged(self.tenant_id)[1] + sum(asked.tokens for _, asked, _ in self.alive) <= AMOUNT

    def rest(self) -> None:
        """All requests are over or dead, and every lease has run out."""
        for worker, _, hold in self.alive:
            worker.release(hold)
        self.alive.clear()
        holds = f"ql:{{{self.tenant_id}}}:holds"
        for member in self.redis.zrange(holds, 0, -1):
            self.redis.zadd(holds, {member: 0})
        with connection.cursor() as cursor:
            cursor.execute("UPDATE billing_pool SET used_at = now() - interval '1 hour' WHERE kind = 'direct'")
        for _ in range(2):  # the first run may have to close what the second one counts
            reconcile(lease_s=0)
        assert differences(self.tenant_id) == {}

    def _end(self, worker: Worker, asked: HoldAsk, hold: Hold, what: str, word: Any = None) -> None:
        if what == "release":
            worker.release(hold)
        elif what == "settle":
            worker.finish(asked, hold, min(word, asked.tokens))
        elif word:
            worker.run(worker.ledger.commit(row_of(asked, hold, asked.tokens // 2), ()))


@pytest.fixture
def valkey(tmp_path: Any, settings: Any) -> Iterator[EmbeddedValkey]:
    server = start_valkey(tmp_path / "valkey")
    settings.CACHES = {"default": {**settings.CACHES["default"], "LOCATION": server.url(0)}}
    make_partitions(today=utc_now().date(), ahead=1)
    yield server
    server.stop()


@pytest.mark.parametrize("second_sees_redis", [True, False])
def test_whatever_happens_never_over_and_nothing_lost(valkey: EmbeddedValkey, second_sees_redis: bool) -> None:
    second = valkey.url(0) if second_sees_redis else "redis://127.0.0.1:1/0"
    workers = [Worker(valkey.url(0), patience_s=10.0), Worker(second, patience_s=10.0)]
    for each in workers[: 1 + second_sees_redis]:
        each.connect()
    numbers = iter(range(10_000))

    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(steps=STEPS)
    def history(steps: list[tuple[Any, ...]]) -> None:
        world = World(valkey, next(numbers))
        for step in steps:
            world.step(workers, *step)
        world.rest()
        left = AMOUNT - charged(world.tenant_id)[1]
        hold = workers[0].hold(ask(world.tenant_id, world.limits, left))
        with pytest.raises(Refused):
            workers[0].hold(ask(world.tenant_id, world.limits, 1))
        workers[0].release(hold)

    try:
        history()
    finally:
        for each in workers:
            each.stop()
