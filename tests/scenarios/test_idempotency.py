"""One key, one charge: callers behind a barrier over three workers, Redis flushed, workers killed in mid-request."""

from __future__ import annotations

import http.client
import os
import signal
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from tests.fakes.openai import FakeOpenAI
from tests.scenarios.platform import Answer, Platform
from tests.up.processes import eventually

CALLERS, WORKERS = 32, 3
NO_CACHE = "no-cache, no-store"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]
# From here on, keeping an answer lasts longer than any worker waits for it.
STALL = """
CREATE FUNCTION stall() RETURNS trigger AS 'BEGIN PERFORM pg_sleep(600); RETURN NEW; END' LANGUAGE plpgsql;
CREATE TRIGGER stall BEFORE UPDATE OF status ON billing_idempotencyclaim FOR EACH ROW EXECUTE FUNCTION stall();
"""
GO_ON = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'quiver-claims';
DROP TRIGGER stall ON billing_idempotencyclaim;
DROP FUNCTION stall;
"""


@pytest.fixture(scope="module")
def vendor_of_three():
    with FakeOpenAI() as fake:
        yield fake


@pytest.fixture(scope="module")
def three(tmp_path_factory, vendor_of_three):
    """Leases last 8 seconds: the deadline, the wait for the ledger, and two."""
    settings = {"QUIVER_DEADLINE_MS": "2000", "QUIVER_LEDGER_WAIT_MS": "4000"}
    with Platform(tmp_path_factory.mktemp("three") / "home", WORKERS, settings) as platform:
        platform.add_provider("fake", vendor_of_three.base_url, vendor_of_three.key)
        platform.tenant, platform.key = platform.add_tenant("acme")
        platform.configure(platform.key, platform.add_model("fake"))
        yield platform


@pytest.fixture
def vendor(vendor_of_three):
    vendor_of_three.reset()
    yield vendor_of_three
    vendor_of_three.reset()


def ask(platform: Platform, name: str) -> Answer:
    """A request for two tokens (40 nano-dollars) with this key."""
    return platform.embed(platform.key, {"input": "hello world"}, Idempotency_Key=name, Cache_Control=NO_CACHE)


def at_once(platform: Platform, name: str) -> Counter[tuple[int, str]]:
    """Status and `Idempotent-Replayed` of all callers, released together."""
    barrier = threading.Barrier(CALLERS)

    def caller(_: int) -> tuple[int, str]:
        barrier.wait(30)
        answer = ask(platform, name)
        return answer.status, answer.headers.get("idempotent-replayed", "")

    with ThreadPoolExecutor(CALLERS) as callers:
        return Counter(callers.map(caller, range(CALLERS)))


def charges(platform: Platform, since: int = 0) -> list[tuple[str, int]]:
    found = platform.rows("SELECT source, cost_usd FROM billing_usagerow WHERE status = 'ok' ORDER BY id")
    return [(source, int(cost * 10**9)) for source, cost in found[since:]]


def all_workers_live(platform: Platform) -> bool:
    return len(platform.worker_pids) == WORKERS


def kill_workers(platform: Platform) -> None:
    for pid in platform.worker_pids:
        os.kill(pid, signal.SIGKILL)


def dies_with_its_worker(platform: Platform, name: str) -> threading.Thread:
    """A caller whose connection will break."""

    def caller() -> None:
        with pytest.raises((http.client.HTTPException, OSError)):
            ask(platform, name)

    thread = threading.Thread(target=caller)
    thread.start()
    return thread


@pytest.mark.parametrize("flush", [False, True], ids=["Redis as it is", "Redis flushed in between"])
def test_thirty_two_at_once_are_one_call_and_one_charge(three, vendor, flush):
    before, name = len(charges(three)), f"barrier {flush}"
    vendor.switch(latency_s=0.5)
    first = at_once(three, name)
    for _ in range(int(flush)):
        redis.from_url(three.valkey.url(0)).flushall()
    later = at_once(three, name)
    assert first[200, ""] == 1
    assert first[409, ""] >= 1
    assert first.keys() <= {(200, ""), (409, ""), (200, "true")}
    assert later == {(200, "true"): CALLERS}
    assert len(vendor.calls) == 1
    assert charges(three, before) == [("api", 40)]


def test_who_is_refused_is_told_when_to_come_again(three, vendor):
    vendor.switch(latency_s=1.0)
    with ThreadPoolExecutor(1) as other:
        running = other.submit(ask, three, "slow")
        eventually(lambda: vendor.calls)
        refused = ask(three, "slow")
        assert refused.error == (409, "idempotency_in_progress", "Idempotency-Key")
        assert (refused.headers["retry-after"], refused.json["error"]["retry_after"]) == ("1", 1)
        assert running.result(30).status == 200


def test_a_worker_that_died_before_its_charge_is_followed_by_one_that_charges(three, vendor):
    before = len(charges(three))
    vendor.switch(fault="hang")
    caller = dies_with_its_worker(three, "died early")
    eventually(lambda: vendor.calls)
    ((lease_until,),) = three.rows("SELECT max(lease_until) FROM billing_idempotencyclaim")
    kill_workers(three)
    caller.join(30)
    vendor.reset()
    eventually(lambda: all_workers_live(three) and three.is_ready(), 30)
    answer = eventually(lambda: (got := ask(three, "died early")).status == 200 and got, 30)
    assert three.rows("SELECT max(created_at) FROM billing_usagerow")[0][0] >= lease_until
    assert "idempotent-replayed" not in answer.headers
    assert ask(three, "died early").body == answer.body
    assert charges(three, before) == [("api", 40)]
    assert len(vendor.calls) == 1


def test_a_worker_that_died_after_its_charge_is_followed_by_one_that_does_not(three, vendor):
    before = len(charges(three))
    three.execute(STALL)
    caller = dies_with_its_worker(three, "died late")
    eventually(lambda: len(charges(three)) > before)
    kill_workers(three)
    caller.join(30)
    three.execute(GO_ON)
    eventually(lambda: all_workers_live(three) and three.is_ready(), 30)
    answer = eventually(lambda: (got := ask(three, "died late")).status == 200 and got, 30)
    assert answer.headers["idempotent-replayed"] == "true"
    assert ask(three, "died late").body == answer.body
    assert charges(three, before) == [("api", 40), ("replay", 0)]
    assert len(vendor.calls) == 2


def test_without_postgresql_nobody_is_called(three, vendor):
    at_once(three, "warm")
    called = len(vendor.calls)
    three.postgres.stop("immediate")
    # A worker that the key has not come to yet says `starting`.
    eventually(lambda: ask(three, "away").error == (503, "ledger_unavailable", None), 30)
    three.postgres.start()
    three.postgres.wait_until_ready()
    assert len(vendor.calls) == called
    assert eventually(lambda: ask(three, "away").status == 200, 30)
