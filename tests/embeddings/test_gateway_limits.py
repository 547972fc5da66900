"""Limits on a request's way through the gateway: what is held when, moved where, and given back."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from uuid import uuid4

import pytest

from core.errors import (
    BudgetExceeded,
    LimitsUnavailable,
    ModelUnpriced,
    ProviderError,
    QuiverError,
    QuotaExceeded,
    RateLimitExceeded,
)
from embeddings.breaker import Force
from providers.base import EmbedAnswer, EmbedCall
from providers.failures import FailureKind
from tests.embeddings.building import call, choice, deployment, limit, request, snapshot
from tests.embeddings.fakes import failing, right, vectors_for
from tests.embeddings.planes import Plane

DOLLAR = 10**9
DEAR = 10**9  # nano-dollars per million tokens: a token costs 1,000


@pytest.fixture
async def plane():
    made = Plane()
    yield made
    await made.idle()
    await made.close()


async def refusal_of(plane: Plane, asked, by) -> QuiverError:
    with pytest.raises(QuiverError) as refused:
        await plane.gateway.embed(asked, by)
    return refused.value


def spent_by_tokens(month, *, first="a", second="b", **words):
    """A tenant with two models, of two spaces and at two providers, the first preferred."""
    return snapshot(choice(deployment(first, provider=first)), choice(deployment(second, provider=second)), **words)


# Hold and settle


async def test_tokens_and_money_are_held_before_the_call_and_settled_by_what_the_row_charges(plane):
    tokens, money, count = limit("tokens", 100), limit("usd", DOLLAR), limit("requests", 10)
    of = snapshot(choice(deployment(price=DEAR)), limits=(tokens, money, count))
    seen = []

    def look(asked: EmbedCall) -> EmbedAnswer:
        seen.extend(plane.limits.counted(each) for each in (tokens, money, count))
        return right(tokens=1)(asked)

    plane.providers.behaviours["openai"] = look
    answer = await plane.gateway.embed(request("hello world"), call(of))
    assert seen == [(0, 2), (0, 2000), (0, 1)]
    assert [plane.limits.counted(each) for each in (tokens, money, count)] == [(1, 0), (1000, 0), (1, 0)]
    assert plane.limits.settled == [(answer.usage.tokens, answer.usage.cost_nano, 1)] == [(1, 1000, 1)]
    assert answer.usage.pool == answer.hold.pool == 1


@pytest.mark.parametrize("kind", [FailureKind.SERVER, FailureKind.TEXT_REFUSED, FailureKind.BAD_ANSWER])
async def test_a_failure_gives_everything_back(plane, kind):
    month = limit("tokens", 100)
    plane.providers.behaviours["openai"] = failing(kind)
    await refusal_of(plane, request(), call(snapshot(choice(), limits=(month,))))
    assert (plane.limits.counted(month), plane.limits.settled) == ((0, 0), [])


async def test_a_row_whose_commit_is_unknown_leaves_its_hold_until_the_ledger_can_be_asked(plane):
    month = limit("tokens", 100)
    plane.ledger.fails_at_commit = True
    await refusal_of(plane, request(), call(snapshot(choice(), limits=(month,))))
    assert (plane.limits.counted(month), len(plane.limits.left)) == ((0, 2), 1)
    plane.limits.expire()  # the row was not there
    assert plane.limits.counted(month) == (0, 0)


async def test_a_hold_moves_with_the_request_to_the_next_candidate(plane):
    month, of_b = limit("tokens", 2), limit("tokens", 50)
    a, b = choice(deployment("a", provider="a")), choice(deployment("b", provider="b"))
    of_b = limit("tokens", 50, of=b)
    plane.providers.behaviours["a"] = failing(FailureKind.SERVER)
    answer = await plane.gateway.embed(request("hello world"), call(snapshot(a, b, limits=(month, of_b))))
    assert answer.deployment.name == "b"  # twice held side by side, the month's two tokens would not suffice
    assert [len(ask.limits) for ask in plane.limits.asks] == [1, 2]
    assert (plane.limits.counted(month), plane.limits.counted(of_b)) == ((2, 0), (2, 0))


async def test_what_the_provider_counts_beyond_the_hold_passes_no_limit(plane):
    month = limit("tokens", 2)
    plane.providers.behaviours["openai"] = right(tokens=1000)
    await plane.gateway.embed(request("hello world"), call(snapshot(choice(), limits=(month,))))
    assert plane.limits.counted(month) == (2, 0)


async def test_many_at_once_never_pass_a_limit(plane):
    month = limit("tokens", 20)
    of = snapshot(choice(), limits=(month,))
    plane.providers.behaviours["openai"] = right(tokens=None)  # what was counted here is charged
    outcomes = await asyncio.gather(
        *(plane.gateway.embed(request(f"text {number}"), call(of)) for number in range(100)), return_exceptions=True
    )
    charged = sum(each.usage.tokens for each in outcomes if not isinstance(each, BaseException))
    assert {type(each) for each in outcomes if isinstance(each, BaseException)} == {QuotaExceeded}
    assert 18 <= charged <= 20
    assert plane.limits.counted(month) == (charged, 0)


# Refusals


async def test_a_limit_that_refuses_leaves_it_to_the_next_candidate(plane):
    a, b = choice(deployment("a", provider="a")), choice(deployment("b", provider="b"))
    of = snapshot(a, b, limits=(limit("tokens", 1, of=a), limit("tokens", 100, of=b)))
    answer = await plane.gateway.embed(request("hello world"), call(of))
    assert [(each.provider, each.outcome) for each in answer.attempts] == [("a", "limit"), ("b", "ok")]
    assert plane.providers.asked("a") == []


@pytest.mark.parametrize(
    ("terms", "error", "quota_type"),
    [
        (limit("tokens", 1, "day"), QuotaExceeded, "daily"),
        (limit("requests", 0, "month"), QuotaExceeded, "monthly"),
        (limit("usd", 1, "month"), BudgetExceeded, "monthly"),
        (limit("tokens", 1, "minute"), QuotaExceeded, "request"),
    ],
)
async def test_the_last_refusal_is_told_with_names_to_ask_for_instead(plane, terms, error, quota_type):
    of = spent_by_tokens(terms, limits=(terms,))
    refused = await refusal_of(plane, request("hello world", model="a"), call(of))
    assert (type(refused), refused.status, refused.extra["quota_type"]) == (error, 402, quota_type)
    assert refused.extra["suggested_models"] == ([] if quota_type == "request" else ["b"])
    assert [each["outcome"] for each in refused.extra["attempts"]] == ["limit"]
    assert plane.providers.made == {}


async def test_a_rate_that_is_used_up_says_when_to_come_again(plane):
    of = snapshot(choice(), limits=(limit("requests", 1, "minute"),))
    await plane.gateway.embed(request("a"), call(of))
    refused = await refusal_of(plane, request("b"), call(of))
    assert (type(refused), refused.status) == (RateLimitExceeded, 429)
    assert 1 <= refused.retry_after <= 61


@pytest.mark.parametrize("mode", ["soft", "shadow"])
async def test_limits_that_only_watch_refuse_nothing_and_count(plane, mode):
    month = limit("tokens", 1, mode=mode)
    answer = await plane.gateway.embed(request("hello world"), call(snapshot(choice(), limits=(month,))))
    assert answer.hold.would_refuse == (month,)
    assert plane.limits.counted(month) == (2, 0)


async def test_limits_that_cannot_be_read_call_nobody(plane):
    plane.limits.is_redis_up = plane.limits.is_postgres_up = False
    refused = await refusal_of(plane, request(), call(snapshot(choice(), limits=(limit(),))))
    assert (type(refused), plane.providers.made) == (LimitsUnavailable, {})


async def test_a_failure_after_a_refusal_is_what_is_told(plane):
    a, b = choice(deployment("a", provider="a")), choice(deployment("b", provider="b"))
    plane.providers.behaviours["b"] = failing(FailureKind.SERVER)
    refused = await refusal_of(plane, request(), call(snapshot(a, b, limits=(limit("tokens", 1, of=a),))))
    assert type(refused) is ProviderError
    assert [each["outcome"] for each in refused.extra["attempts"]] == ["limit", "server"]


# What holds nothing


async def test_a_request_that_was_charged_before_is_refused_by_no_limit_and_counts_in_none(plane):
    tokens, count = limit("tokens", 1), limit("requests", 0)
    again = call(snapshot(choice(), limits=(tokens, count)), claim_id=uuid4(), free=True)
    row = (await plane.gateway.embed(request("hello world"), again)).usage
    assert (row.tokens, row.cost_nano, plane.limits.settled) == (0, 0, [])
    assert [plane.limits.counted(each) for each in (tokens, count)] == [(0, 0), (0, 0)]


async def test_an_open_breaker_leaves_it_to_the_next_candidate_without_a_hold(plane):
    month = limit("tokens", 100)
    await plane.board.force("a|*", Force.OPEN)
    of = spent_by_tokens(month, limits=(month,))
    answer = await plane.gateway.embed(request("hello world"), call(of))
    assert [(each.provider, each.outcome) for each in answer.attempts] == [("a", "not_now"), ("b", "ok")]
    assert len(plane.limits.asks) == 1


async def test_an_unpriced_model_holds_nothing(plane):
    refused = await refusal_of(plane, request(), call(snapshot(choice(deployment(price=None)), limits=(limit(),))))
    assert (type(refused), plane.limits.asks) == (ModelUnpriced, [])


# Answers from the cache


async def test_all_from_the_cache_counts_in_no_limit_and_needs_no_provider(plane):
    tokens, count = limit("tokens", 2), limit("requests", 1)
    of = snapshot(choice(), limits=(tokens, count))
    await plane.gateway.embed(request("hello world"), call(of))
    await plane.board.force("*", Force.OPEN)
    plane.limits.is_redis_up = plane.limits.is_postgres_up = False
    row = (await plane.gateway.embed(request("hello world"), call(of))).usage
    assert (row.tokens, row.cost_nano, row.cached, row.attempts, row.provider_tokens) == (0, 0, 1, 0, None)
    assert [plane.limits.counted(each) for each in (tokens, count)] == [(2, 0), (1, 0)]


async def test_only_what_must_be_computed_is_held_and_charged(plane):
    month = limit("tokens", 100)
    of = snapshot(choice(), limits=(month,))
    await plane.gateway.embed(request("one two three"), call(of))
    plane.providers.behaviours["openai"] = right(tokens=1)
    row = (await plane.gateway.embed(request("one two three", "four", "one two three"), call(of))).usage
    assert (row.tokens, row.held_tokens, row.cached, row.items) == (1, 1, 2, 3)
    assert plane.limits.counted(month) == (3, 0)


@pytest.mark.parametrize(
    ("budget", "charged"), [(DOLLAR, 2000), (4000, 2000), (3999, 0)], ids=["there", "just there", "used up"]
)
async def test_a_hit_costs_the_tenants_price_of_hits_while_its_budget_lasts(plane, budget, charged):
    money, tokens = limit("usd", budget), limit("tokens", 2)
    of = snapshot(choice(deployment(price=DEAR)), limits=(money, tokens), cache_hit_cost_per_million_tokens=Decimal(1))
    await plane.gateway.embed(request("hello world"), call(of))
    row = (await plane.gateway.embed(request("hello world"), call(of))).usage
    assert (row.tokens, row.cost_nano, row.cached) == (0, charged, 1)
    assert plane.limits.counted(money) == (2000 + charged, 0)
    assert plane.limits.counted(tokens) == (2, 0)


async def test_hits_and_computed_texts_of_one_request_are_paid_together(plane):
    money = limit("usd", DOLLAR)
    of = snapshot(choice(deployment(price=DEAR)), limits=(money,), cache_hit_cost_per_million_tokens=Decimal(1))
    await plane.gateway.embed(request("hello world"), call(of))
    row = (await plane.gateway.embed(request("hello world", "four five"), call(of))).usage
    assert (row.tokens, row.cost_nano, plane.limits.counted(money)) == (2, 2000 + 2000, (2000 + 4000, 0))


# Going away


async def test_who_goes_while_waiting_for_a_slot_holds_nothing(plane):
    month = limit("tokens", 100)
    of = snapshot(choice(), limits=(month,))
    provider = plane.providers.get(of.choices[0].deployment.endpoints[0])
    provider.gate.clear()
    tasks = [asyncio.create_task(plane.gateway.embed(request(f"t{n}"), call(of))) for n in range(30)]
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        while len(provider.asked) == 0 or plane.limits.counted(month)[1] < 60:
            await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    provider.gate.set()
    await plane.idle()
    assert plane.limits.counted(month)[1] == 0


async def test_the_same_vector_whoever_pays(plane):
    of = snapshot(choice(deployment("a", provider="a")), limits=(limit("tokens", 10),))
    first = await plane.gateway.embed(request("x"), call(of))
    again = await plane.gateway.embed(request("x"), call(of))
    assert (first.vectors == again.vectors).all()
    assert (first.vectors == vectors_for(["x"], 4)).all()
