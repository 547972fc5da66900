"""Claims on idempotency keys and what the ledger charges of them, on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from uuid import UUID, uuid4

import psycopg
import pytest
from asgiref.sync import sync_to_async
from django.db import connection, connections
from psycopg.conninfo import make_conninfo

from billing.idempotency import MOST_KEPT_BYTES, Claims, Fresh, Replay, digest_of
from billing.ledger import Ledger
from billing.models import IdempotencyClaim
from billing.services import forget_expired_claims
from config.up.ports import free_port
from core.errors import IdempotencyInProgress, IdempotencyMismatch, LedgerUnavailable
from tests.billing.records import TENANT, usage

SECONDS = 20.0
BODY = digest_of(b'{"input": "a"}', ())
HEADERS = [(b"x-embedding-model", b"small"), (b"link", "</v1/models/\xe9>".encode("latin-1"))]


@pytest.fixture
def address(transactional_db):
    found = connection.settings_dict
    return make_conninfo(
        host=found["HOST"], port=found["PORT"], dbname=found["NAME"], user=found["USER"], password=found["PASSWORD"]
    )


@pytest.fixture
async def make_claims(address):
    made = []

    def make(**words) -> Claims:
        made.append(Claims(address, **{"lease_s": 60.0, "wait_s": SECONDS, **words}))
        return made[-1]

    yield make
    for each in made:
        await each.close()
    await sync_to_async(connections.close_all)()  # that of the thread in which rows are read


@pytest.fixture
def claims(make_claims):
    return make_claims()


@pytest.fixture
async def ledger(address):
    ledger = Ledger(address, wait_s=SECONDS)
    ledger.start()
    yield ledger
    await ledger.close()


def claiming(claims: Claims, *, key: bytes = b"k", body: bytes = BODY, tenant_id: UUID = TENANT, request_id: str = ""):
    return claims.claim(
        tenant_id=tenant_id, key=key, body_digest=body, request_id=request_id or str(uuid4()), within_s=SECONDS
    )


def rows(address, query: str):
    with psycopg.connect(address) as direct:
        return direct.execute(query).fetchall()


CHARGES = "SELECT source, tokens, cost_usd * 1000000000 FROM billing_usagerow ORDER BY id"


# One answer for one key


async def test_the_first_goes_on_and_the_others_wait_for_it(claims):
    first = await claiming(claims)
    assert (type(first), first.is_charged) == (Fresh, False)
    with pytest.raises(IdempotencyInProgress) as refused:
        await claiming(claims)
    assert (refused.value.status, refused.value.retry_after) == (409, 1)


async def test_of_many_at_once_one_goes_on(make_claims):
    processes = [make_claims() for _ in range(4)]
    outcomes = await asyncio.gather(*(claiming(processes[n % 4]) for n in range(32)), return_exceptions=True)
    assert sorted(type(each).__name__ for each in outcomes) == ["Fresh"] + ["IdempotencyInProgress"] * 31


async def test_a_kept_answer_comes_back_as_it_was(claims):
    first = await claiming(claims)
    await claims.keep(first, status=200, headers=HEADERS, body=b"\x00\xff{}")
    again = await claiming(claims)
    assert again == Replay(200, HEADERS, b"\x00\xff{}")


async def test_another_request_with_the_key_is_refused_while_it_runs_and_afterwards(claims):
    first = await claiming(claims)
    with pytest.raises(IdempotencyMismatch):
        await claiming(claims, body=digest_of(b'{"input": "b"}', ()))
    await claims.keep(first, status=200, headers=[], body=b"{}")
    with pytest.raises(IdempotencyMismatch) as refused:
        await claiming(claims, body=digest_of(b'{"input": "b"}', ()))
    assert (refused.value.status, refused.value.param) == (422, "Idempotency-Key")


async def test_other_tenants_and_other_keys_are_other_claims(claims):
    outcomes = [
        await claiming(claims),
        await claiming(claims, tenant_id=UUID(int=9), body=digest_of(b"other", ())),
        await claiming(claims, key=b"K", body=digest_of(b"other", ())),
    ]
    assert [type(each) for each in outcomes] == [Fresh] * 3


async def test_a_forgotten_key_is_free_at_once_for_any_body(claims):
    await claims.forget(await claiming(claims))
    second = await claiming(claims, body=digest_of(b"other", ()))
    assert not second.is_charged


async def test_a_key_is_free_again_after_its_time(make_claims):
    claims = make_claims(kept_s=0.0, lease_s=0.0)
    first = await claiming(claims)
    await claims.keep(first, status=200, headers=[], body=b"{}")
    second = await claiming(claims, body=digest_of(b"other", ()))
    assert (type(second), second.is_charged, second.id == first.id) == (Fresh, False, False)


def test_headers_count_as_part_of_the_request():
    same = digest_of(b"a", (b"space", b"agent"))
    assert digest_of(b"a", (b"space", b"agent")) == same
    others = [(b"spaceagent", b""), (b"space",), (b"agent", b"space"), ()]
    assert same not in {digest_of(b"a", other) for other in others}


# Charged once


async def test_a_charge_marks_its_claim_in_the_same_transaction(claims, ledger, address):
    first = await claiming(claims)
    await asyncio.gather(ledger.commit(usage(), (), first.id), ledger.commit(usage(), ()))
    assert rows(address, "SELECT charged FROM billing_idempotencyclaim") == [(True,)]
    assert rows(address, CHARGES) == [("api", 2, 40), ("api", 2, 40)]


async def test_a_claim_is_charged_once_whoever_comes(claims, ledger, address):
    """Two that both believe to hold it: a worker that was thought dead, and who took over."""
    first = await claiming(claims)
    await asyncio.gather(*(ledger.commit(usage(), (), first.id) for _ in range(5)))
    await ledger.commit(usage(), (), first.id)
    found = rows(address, CHARGES)
    assert sorted(found) == sorted([("api", 2, 40)] + [("replay", 0, 0)] * 5)


async def test_ledgers_of_two_processes_charge_a_claim_once(claims, ledger, address):
    other = Ledger(address, wait_s=SECONDS)
    other.start()
    for number in range(20):
        first = await claiming(claims, key=b"k%d" % number)
        await asyncio.gather(ledger.commit(usage(), (), first.id), other.commit(usage(), (), first.id))
    await other.close()
    assert rows(address, "SELECT source, count(*), sum(tokens) FROM billing_usagerow GROUP BY 1 ORDER BY 1") == [
        ("api", 20, 40),
        ("replay", 20, 0),
    ]


async def test_a_row_sent_twice_stays_charged(claims, ledger, address):
    first, asked = await claiming(claims), usage()
    await ledger.commit(asked, (), first.id)
    await ledger.commit(asked, (), first.id)
    assert rows(address, CHARGES) == [("api", 2, 40)]


async def test_a_dead_workers_claim_is_taken_over_when_its_lease_has_run_out(make_claims, address):
    dead, living = make_claims(lease_s=0.0), make_claims()
    await claiming(dead)
    second = await claiming(living)
    assert (type(second), second.is_charged) == (Fresh, False)
    with pytest.raises(IdempotencyInProgress):
        await claiming(dead)


async def test_of_many_that_would_take_over_one_does(make_claims):
    await claiming(make_claims(lease_s=0.0))
    processes = [make_claims() for _ in range(4)]
    outcomes = await asyncio.gather(*(claiming(processes[n % 4]) for n in range(16)), return_exceptions=True)
    assert sorted(type(each).__name__ for each in outcomes) == ["Fresh"] + ["IdempotencyInProgress"] * 15


async def test_what_a_dead_worker_charged_is_told_to_who_takes_over(make_claims, ledger):
    dead = await claiming(make_claims(lease_s=0.0))
    await ledger.commit(usage(), (), dead.id)
    second = await claiming(make_claims())
    assert second.is_charged


async def test_who_was_taken_over_changes_nothing_any_more(make_claims):
    slow = make_claims(lease_s=0.0)
    first = await claiming(slow)
    second = await claiming(make_claims())
    await slow.keep(first, status=200, headers=[], body=b"late")
    await slow.forget(first)
    await slow.keep(second, status=200, headers=[], body=b"right")
    assert (await claiming(slow)).body == b"right"


async def test_a_charged_request_that_failed_is_not_charged_again(claims, ledger):
    """Its row was committed, and the news of it lost."""
    first = await claiming(claims)
    await ledger.commit(usage(), (), first.id)
    await claims.forget(first)
    assert (await claiming(claims)).is_charged


async def test_a_forgotten_claim_can_no_longer_be_charged(claims, ledger, address):
    first = await claiming(claims)
    await claims.forget(first)
    await ledger.commit(usage(), (), first.id)
    assert rows(address, CHARGES) == [("replay", 0, 0)]


@pytest.mark.parametrize(("size", "is_kept"), [(MOST_KEPT_BYTES, True), (MOST_KEPT_BYTES + 1, False)])
async def test_an_answer_above_a_mebibyte_is_not_kept_and_not_charged_again(claims, ledger, size, is_kept):
    first = await claiming(claims)
    await ledger.commit(usage(), (), first.id)
    await claims.keep(first, status=200, headers=[], body=bytes(size))
    again = await claiming(claims)
    assert (type(again), getattr(again, "is_charged", False)) == ((Replay, False) if is_kept else (Fresh, True))


# PostgreSQL away


async def test_without_postgresql_nothing_is_claimed():
    claims = Claims(f"postgresql://nobody@127.0.0.1:{free_port()}/none", lease_s=60.0, wait_s=0.3)
    started = time.monotonic()
    outcomes = await asyncio.gather(*(claiming(claims) for _ in range(20)), return_exceptions=True)
    assert {(type(each), each.status, each.retry_after) for each in outcomes} == {(LedgerUnavailable, 503, 1)}
    await claims.forget(Fresh(uuid4(), str(uuid4()), False))  # says so in the log and nowhere else
    assert time.monotonic() - started < 10


async def test_lost_connections_are_made_anew(claims, address):
    await asyncio.gather(*(claiming(claims, key=b"%d" % n) for n in range(8)))
    for (pid,) in rows(address, "SELECT pid FROM pg_stat_activity WHERE application_name = 'quiver-claims'"):
        os.kill(pid, signal.SIGTERM)
    assert isinstance(await claiming(claims), Fresh)


async def test_a_claim_whose_news_was_lost_is_still_ours(claims):
    request_id = str(uuid4())
    first = await claiming(claims, request_id=request_id)
    again = await claiming(claims, request_id=request_id)
    assert (again.id, again.request_id) == (first.id, first.request_id)


# Tidying up


@pytest.mark.django_db(transaction=True)
async def test_expired_claims_are_deleted_in_batches_and_no_others(make_claims):
    expired, living, running = make_claims(lease_s=0.0, kept_s=0.0), make_claims(), make_claims(kept_s=0.0)
    for number in range(5):
        await claiming(expired, key=b"old %d" % number)
    kept = [await claiming(living, key=b"new"), await claiming(running, key=b"running")]
    assert await sync_to_async(forget_expired_claims)(batch=2) == 5
    left = await sync_to_async(lambda: set(IdempotencyClaim.objects.values_list("id", flat=True)))()
    assert left == {each.id for each in kept}
