"""Models whose provider has stopped serving are shown so, go on being tried, and come back."""

from __future__ import annotations

import asyncio
import os
from typing import Any
from uuid import UUID

import pytest
import time_machine
from django.core.cache import cache

from catalog.models import EmbeddingModel, ModelEvent
from catalog.validating import validate_model
from embeddings import selection
from embeddings.breaker import Outcome
from embeddings.outages import judge
from embeddings.requests import EmbeddingRequest
from embeddings.routes import route_key
from embeddings.tasks import follow_breakers
from providers.base import Endpoint, Kind
from tests.catalog.conftest import openai, table, vendor
from tests.catalog.looks import entry, look
from tests.embeddings.boards import Clock, processes
from tests.embeddings.building import NOW, choice, deployment, request, snapshot
from tests.fakes.openai import FakeOpenAI

__all__ = ["openai", "table", "vendor"]

OUT = {"state": "unavailable", "unavailable_cause": "provider"}
SMALL = deployment("small")
AT = ("openai", "small")


def test_a_model_is_out_only_after_all_its_routes_failed_for_long_enough():
    first = judge([SMALL], {AT: ["open", "half_open"]}, {}, now=100, after_s=300)
    assert (first.out, first.back, first.since) == ([], [], {SMALL.model_id: 100})
    almost = judge([SMALL], {AT: ["open", "open"]}, first.since, now=399, after_s=300)
    assert (almost.out, almost.since) == ([], {SMALL.model_id: 100})
    assert judge([SMALL], {AT: ["open", "open"]}, almost.since, now=400, after_s=300).out == [SMALL.model_id]


def test_one_closed_route_makes_it_well_and_starts_the_clock_anew():
    found = judge([SMALL], {AT: ["open", "closed"]}, {SMALL.model_id: 0}, now=900, after_s=300)
    assert (found.out, found.since) == ([], {})


def test_nothing_is_concluded_of_a_model_that_nobody_calls():
    assert judge([SMALL], {}, {SMALL.model_id: 0}, now=900, after_s=1) == judge([], {}, {}, now=900, after_s=1)


@pytest.mark.parametrize("cause", ["operator", "drift"])
def test_what_somebody_else_took_out_is_not_brought_back(cause):
    gone = deployment("small", state="unavailable", unavailable_cause=cause)
    assert judge([gone], {AT: ["closed"]}, {}, now=1, after_s=1).back == []


def test_it_comes_back_when_a_trial_closed_its_breaker():
    gone = deployment("small", **OUT)
    assert judge([gone], {AT: ["half_open"]}, {}, now=1, after_s=1).back == []
    assert judge([gone], {AT: ["closed"]}, {}, now=1, after_s=1).back == [gone.model_id]


def test_calls_that_pass_do_not_bring_back_what_its_vendor_does_not_list():
    gone = deployment("small", **OUT, is_delisted=True)
    assert judge([gone], {AT: ["closed"]}, {}, now=1, after_s=1).back == []


@pytest.mark.parametrize(("cause", "is_tried"), [("provider", True), ("drift", False), ("operator", False)])
def test_real_traffic_goes_on_trying_what_only_its_provider_took_out(cause, is_tried):
    of = snapshot(choice(deployment("small", state="unavailable", unavailable_cause=cause)))
    asked: EmbeddingRequest = request(model="small")
    (entry,) = selection.plan(selection.question(asked, frozenset()), of, NOW).entries
    assert (entry.fault is None) is is_tried


def outcomes(route: str, *told: Outcome) -> None:
    """What one process reports of a route."""

    async def report() -> None:
        async with processes(os.environ["REDIS_URL"], 1, Clock()) as (process,):
            for outcome in told:
                process.board.report(route, outcome, 5)
            await process.board.flush()

    asyncio.run(report())


@pytest.mark.django_db
def test_beat_shows_a_dead_provider_and_its_return(add_model: Any):
    cache.delete("outages-since")
    row = add_model("of-outages")
    route = route_key(Endpoint("vendor", Kind.OPENAI, credential_id="c1"), row.identifier)
    outcomes(route, *[Outcome.FAILED] * 10)
    with time_machine.travel(1_900_000_000, tick=False) as clock:
        assert follow_breakers() == {"out": 0, "back": 0}
        clock.shift(299)
        assert follow_breakers() == {"out": 0, "back": 0}
        clock.shift(1)
        assert follow_breakers() == {"out": 1, "back": 0}
        assert follow_breakers() == {"out": 0, "back": 0}
    assert state_of(row.id) == ("unavailable", "provider")
    event = ModelEvent.objects.filter(model=row).first()
    assert event is not None
    assert "300 s" in str(event.reason)


@pytest.fixture
def gone(vendor: FakeOpenAI) -> EmbeddingModel:
    """A model that three lists of its vendor lacked, though calls to it pass."""
    look()
    EmbeddingModel.objects.update(state="available")
    vendor.switch(listed=[entry("text-embedding-3-large")])
    for _ in range(3):
        look()
    row = EmbeddingModel.objects.get(name="text-embedding-3-small")
    outcomes(route_key(Endpoint("vendor", Kind.OPENAI, credential_id="c1"), row.identifier), Outcome.OK)
    return row


@pytest.mark.django_db(transaction=True)
def test_what_its_vendor_does_not_list_stays_out_until_it_is_in_a_list_again(vendor: FakeOpenAI, gone: EmbeddingModel):
    assert state_of(gone.id) == ("unavailable", "provider")
    assert follow_breakers()["back"] == 0
    look()
    assert state_of(gone.id) == ("unavailable", "provider")
    vendor.switch(listed=[entry("text-embedding-3-large"), entry("text-embedding-3-small")])
    look()
    assert follow_breakers()["back"] == 1
    assert state_of(gone.id) == ("available", "")


@pytest.mark.django_db(transaction=True)
def test_or_until_a_validation_passes_which_no_list_gainsays(vendor: FakeOpenAI, gone: EmbeddingModel):
    assert validate_model(model_id=gone.id).passed
    assert state_of(gone.id) == ("available", "")
    for _ in range(4):
        look()
        follow_breakers()
    assert state_of(gone.id) == ("available", "")


def state_of(model_id: UUID) -> tuple[str, str]:
    row = EmbeddingModel.objects.get(id=model_id)
    return row.state, row.unavailable_cause
