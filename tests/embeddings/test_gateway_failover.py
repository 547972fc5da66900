"""Who answers when the first cannot: breakers, retries, the caller's `fallback`, and what an agent prefers."""

from __future__ import annotations

import numpy as np
import pytest

from core.errors import InvalidRequest, KeyNotPermitted, NoModelAvailable, ProviderError, QuiverError
from embeddings.breaker import Force, Outcome
from embeddings.breaker import Settings as BreakerSettings
from embeddings.snapshot import TenantSnapshot
from providers.failures import FailureKind
from tenants.preferences import Preferences
from tests.embeddings.building import call, choice, deployment, endpoint, limit, request, snapshot
from tests.embeddings.fakes import failing, right, vectors_for
from tests.embeddings.planes import Plane

DEAD = failing(FailureKind.SERVER)


@pytest.fixture
async def plane():
    made = Plane(breakers=BreakerSettings(minimum_calls=3))
    yield made
    await made.idle()
    await made.close()


def house() -> TenantSnapshot:
    """The model `m` at two providers, `n` in the same space under a name of its own, and a fallback written down for
    `m` in another space; the last one stands only in a free choice."""
    other, last = deployment("other", provider="d"), deployment("last", provider="e")
    return snapshot(
        choice(deployment("m", provider="a", space="s"), fallback_model_id=other.model_id, is_default=True, priority=9),
        choice(deployment("m", provider="b", space="s"), priority=8),
        choice(deployment("n", provider="c", space="s"), priority=7),
        choice(last, priority=6),
        choice(other, priority=5),
    )


def dead(plane: Plane, *slugs: str) -> None:
    for slug in slugs:
        plane.providers.behaviours[slug] = DEAD


async def refusal_of(plane: Plane, asked, by) -> QuiverError:
    with pytest.raises(QuiverError) as refused:
        await plane.gateway.embed(asked, by)
    return refused.value


def tried(attempts) -> list[str]:
    return [each.provider for each in attempts]


# Breakers and retries


async def test_a_dead_provider_is_called_until_its_breaker_opens_and_not_after(plane):
    dead(plane, "a")
    of = house()
    answers = [await plane.gateway.embed(request(f"t{n}", model="m"), call(of)) for n in range(10)]
    assert len(plane.providers.asked("a")) == 3
    assert [each.attempts[0].outcome for each in answers] == ["server"] * 3 + ["not_now"] * 7
    assert {each.deployment.provider for each in answers} == {"b"}


async def test_with_every_breaker_open_nobody_is_called_and_the_caller_knows_when_to_come_again(plane):
    await plane.board.force("*", Force.OPEN)
    of = snapshot(choice(), limits=(limit(),))
    refused = await refusal_of(plane, request(), call(of))
    assert type(refused) is NoModelAvailable
    assert refused.retry_after >= 1
    assert (plane.providers.made, plane.limits.asks, plane.ledger.rows) == ({}, [], {})


async def test_another_credential_answers_while_the_breaker_of_one_is_open(plane):
    of = snapshot(choice(deployment(endpoints=(endpoint(credential="c1"), endpoint(credential="c2")))))
    await plane.board.force("openai|c1|*", Force.OPEN)
    for text in "abcd":
        await plane.gateway.embed(request(text), call(of))
    assert set(plane.providers.made) == {("openai", "c2")}


async def test_the_callers_fault_speaks_against_no_provider(plane):
    plane.providers.behaviours["openai"] = failing(FailureKind.TEXT_REFUSED)
    for text in "abcdef":
        await refusal_of(plane, request(text), call(snapshot(choice())))
    assert {outcome for _, outcome in plane.board.reports} == {Outcome.CALLER}
    assert len(plane.providers.asked()) == 6


async def warmed_up(plane: Plane, requests: int) -> None:
    """So many requests that went well: a tenth of them may be retried."""
    of = snapshot(choice(deployment("warm", provider="warm")))
    for number in range(requests):
        await plane.gateway.embed(request(f"warm {number}"), call(of))


async def test_a_route_is_tried_again_once_where_that_may_help(plane):
    await warmed_up(plane, 30)
    outcomes = iter([DEAD, right()])
    plane.providers.behaviours["openai"] = lambda asked: next(outcomes)(asked)
    answer = await plane.gateway.embed(request("x"), call(snapshot(choice())))
    assert [each.outcome for each in answer.attempts] == ["server", "ok"]


async def test_a_route_is_tried_again_once_at_most(plane):
    await warmed_up(plane, 50)
    dead(plane, "openai")
    refused = await refusal_of(plane, request("x"), call(snapshot(choice())))
    assert [each["outcome"] for each in refused.extra["attempts"]] == ["server", "server"]


async def test_without_a_budget_nothing_is_tried_again(plane):
    dead(plane, "openai")
    await refusal_of(plane, request("x"), call(snapshot(choice())))
    assert len(plane.providers.asked()) == 1
    assert plane.gateway.statistics()["retries"] == 0


# The caller's `fallback`


@pytest.mark.parametrize(
    ("fallback", "order"), [("auto", ["a", "b", "c", "d"]), ("space", ["a", "b", "c"]), ("none", ["a"])]
)
async def test_a_named_model_falls_back_as_far_as_the_caller_lets_it(plane, fallback, order):
    dead(plane, "a", "b", "c", "d")
    refused = await refusal_of(plane, request(model="m", fallback=fallback), call(house()))
    assert type(refused) is ProviderError
    assert [each["provider"] for each in refused.extra["attempts"]] == order
    assert plane.providers.asked("e") == []  # nobody wrote it down


@pytest.mark.parametrize(
    ("fallback", "order"), [("auto", ["a", "b", "c", "e", "d"]), ("space", ["a", "b", "c"]), ("none", ["a"])]
)
async def test_a_free_choice_falls_back_as_far_as_the_caller_lets_it(plane, fallback, order):
    dead(plane, "a", "b", "c", "d", "e")
    refused = await refusal_of(plane, request(fallback=fallback), call(house()))
    assert [each["provider"] for each in refused.extra["attempts"]] == order


async def test_the_fallback_written_down_answers_in_its_own_space_and_says_so(plane):
    dead(plane, "a", "b", "c")
    answer = await plane.gateway.embed(request("x", model="m"), call(house()))
    assert (answer.deployment.space, answer.usage.space, tried(answer.attempts)) == ("other", "other", list("abcd"))
    assert np.array_equal(answer.vectors, vectors_for(["x"], 4))


async def test_a_required_space_goes_before_the_fallback_written_down(plane):
    dead(plane, "a", "b", "c")
    refused = await refusal_of(plane, request(model="m", required_space="s"), call(house()))
    assert [each["provider"] for each in refused.extra["attempts"]] == ["a", "b", "c"]


# Agents


def preferring(of: TenantSnapshot, **wishes) -> TenantSnapshot:
    return snapshot(*of.choices, agents={"helper": Preferences(**wishes)})


async def test_an_agents_own_order_goes_first(plane):
    of = preferring(house(), primary="last", secondary="n")
    dead(plane, "e")
    answer = await plane.gateway.embed(request(), call(of, agent_id="helper"))
    assert tried(answer.attempts) == ["e", "c"]


async def test_an_agents_model_for_a_task_goes_before_its_primary(plane):
    of = preferring(house(), primary="last", task_models={"code": "other"})
    answer = await plane.gateway.embed(request(task_type="code"), call(of, agent_id="helper"))
    assert answer.deployment.name == "other"


async def test_an_agent_that_is_fixed_is_answered_by_its_own_models_or_by_none(plane):
    of = preferring(house(), strategy="fixed", primary="last")
    dead(plane, "e")
    refused = await refusal_of(plane, request(), call(of, agent_id="helper"))
    assert [each["provider"] for each in refused.extra["attempts"]] == ["e"]
    assert type(await refusal_of(plane, request(model="n"), call(of, agent_id="helper"))) is KeyNotPermitted


async def test_an_agent_does_not_wait_for_who_is_slow(plane):
    of = preferring(house(), max_latency_ms=100)
    for _ in range(10):
        plane.board.latencies.add("a|c1|m|", 900.0, plane.board.now / 1000)
    answer = await plane.gateway.embed(request(), call(of, agent_id="helper"))
    assert tried(answer.attempts) == ["b"]


async def test_what_an_agent_rules_out_is_refused_by_the_name_of_the_field(plane):
    of = preferring(house(), required_dimensions=4)
    refused = await refusal_of(plane, request(dimensions=3), call(of, agent_id="helper"))
    assert (type(refused), refused.param) == (InvalidRequest, "dimensions")


async def test_the_quickest_goes_first_where_latency_is_asked_for(plane):
    for slug, name, ms in (("a", "m", 300.0), ("e", "last", 3.0)):
        plane.board.latencies.add(f"{slug}|c1|{name}|", ms, plane.board.now / 1000)
    answer = await plane.gateway.embed(request(strategy="latency"), call(house()))
    assert answer.deployment.name == "last"
