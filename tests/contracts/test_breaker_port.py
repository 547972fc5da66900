"""What the gateway may rely on of a board: one suite, run over the fake and over the real one on a real Valkey."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import pytest

from embeddings.breaker import GO, Force, Outcome, Settings, State, Verdict
from tests.embeddings.boards import ROUTE, Clock, processes
from tests.embeddings.fakes import FakeBoard

SETTINGS = Settings()


@dataclass
class Subject:
    """A board, and how its time passes and its news settle."""

    board: Any
    clock: Clock | None = None

    async def settle(self) -> None:
        if self.clock is not None:
            await self.board.flush()

    def wait(self, ms: int) -> None:
        (self.clock or self.board).now += ms

    async def ends(self, outcome: Outcome, times: int = 1, **words: Any) -> None:
        for _ in range(times):
            self.board.report(ROUTE, outcome, words.pop("ms", 20), **words)
        await self.settle()

    @property
    def verdict(self) -> Verdict:
        return self.board.admit(ROUTE).verdict


@pytest.fixture(params=["fake", "shared"])
async def subject(request):
    if request.param == "fake":
        yield Subject(FakeBoard())
        return
    clock = Clock()
    async with processes(os.environ["REDIS_URL"], 1, clock) as (only,):
        yield Subject(only.board, clock)


async def test_an_unknown_route_may_be_called(subject):
    assert subject.board.admit(ROUTE) is GO


async def test_good_calls_leave_it_closed(subject):
    await subject.ends(Outcome.OK, 100)
    assert subject.board.admit(ROUTE) is GO


async def test_too_many_failures_open_it_and_say_for_how_long(subject):
    await subject.ends(Outcome.FAILED, SETTINGS.minimum_calls)
    refused = subject.board.admit(ROUTE)
    assert (refused.verdict, refused.retry_after_s) == (Verdict.NOT_NOW, SETTINGS.open_ms / 1000)
    assert refused.reason == "10 of the last 10 calls failed"


async def test_one_route_says_nothing_of_another(subject):
    await subject.ends(Outcome.FAILED, SETTINGS.minimum_calls)
    assert subject.board.admit("openai|c2|small|") is GO


async def test_it_is_probed_and_closes(subject):
    await subject.ends(Outcome.FAILED, SETTINGS.minimum_calls)
    subject.wait(SETTINGS.open_ms)
    for _ in range(SETTINGS.successes):
        assert subject.verdict is Verdict.ASK
        await subject.ends(Outcome.OK, permit=await subject.board.probe(ROUTE))
    assert subject.board.admit(ROUTE) is GO


async def test_a_failed_probe_opens_it_again(subject):
    await subject.ends(Outcome.FAILED, SETTINGS.minimum_calls)
    subject.wait(SETTINGS.open_ms)
    await subject.ends(Outcome.FAILED, permit=await subject.board.probe(ROUTE))
    assert subject.board.breaker(ROUTE).state is State.OPEN


async def test_permits_are_bounded_and_come_back(subject):
    await subject.ends(Outcome.FAILED, SETTINGS.minimum_calls)
    subject.wait(SETTINGS.open_ms)
    first, second = await subject.board.probe(ROUTE), await subject.board.probe(ROUTE)
    assert await subject.board.probe(ROUTE) is None
    assert subject.verdict is Verdict.NOT_NOW
    subject.board.release(first)
    await subject.settle()
    assert await subject.board.probe(ROUTE)
    assert second.id


async def test_leases_run_out(subject):
    await subject.ends(Outcome.FAILED, SETTINGS.minimum_calls)
    subject.wait(SETTINGS.open_ms)
    assert await subject.board.probe(ROUTE)
    assert await subject.board.probe(ROUTE)
    subject.wait(SETTINGS.lease_ms)
    assert await subject.board.probe(ROUTE)


async def test_no_capacity_holds_before_anything_else_happens(subject):
    subject.board.report(ROUTE, Outcome.CAPACITY, 5, retry_after_s=3)
    refused = subject.board.admit(ROUTE)
    assert (refused.verdict, refused.retry_after_s) == (Verdict.NOT_NOW, 3.0)
    subject.wait(3_000)
    await subject.settle()
    assert subject.verdict is Verdict.GO


async def test_callers_faults_do_not_count(subject):
    await subject.ends(Outcome.CALLER, 100)
    assert subject.board.breaker(ROUTE).window == ()


async def test_a_closed_route_needs_no_permit(subject):
    permit = await subject.board.probe(ROUTE)
    assert (permit.route, permit.id) == (ROUTE, "")
    await subject.ends(Outcome.OK, permit=permit)
    assert len(subject.board.breaker(ROUTE).window) == 1


async def test_an_operators_force(subject):
    await subject.board.force("openai|*", Force.OPEN)
    assert subject.verdict is Verdict.NOT_NOW
    assert await subject.board.probe(ROUTE) is None
    await subject.board.force("openai|*", Force.CLOSED)
    await subject.ends(Outcome.FAILED, 20)
    assert subject.verdict is Verdict.GO
    await subject.board.force("openai|*", None)
    assert subject.verdict is Verdict.NOT_NOW
