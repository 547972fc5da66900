"""Cached, duplicate and simultaneous texts on their way through the gateway: the right vector in the right place."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest

from core.errors import ContextLengthExceeded, InvalidRequest, LedgerUnavailable, ProviderError, QuotaExceeded
from embeddings.snapshot import TenantSnapshot
from providers.base import EmbedAnswer, EmbedCall, InputType
from providers.failures import FailureKind
from tests.embeddings.building import MALLORY, call, choice, deployment, grant, limit, request, snapshot, token_request
from tests.embeddings.fakes import failing, right, vectors_for
from tests.embeddings.planes import Plane, until


@pytest.fixture
async def plane():
    made = Plane()
    yield made
    await made.idle()
    await made.close()


@pytest.fixture
def tenant():
    return snapshot(choice())


def texts_sent(plane: Plane, slug: str = "openai") -> list[list[str]]:
    return [asked.inputs for asked in plane.providers.asked(slug)]


async def embed(plane: Plane, of: TenantSnapshot, *texts: str, **words):
    return await plane.gateway.embed(request(*texts, **words), call(of))


# Hits


async def test_partial_hits_and_duplicates_come_back_in_their_places(plane, tenant):
    await embed(plane, tenant, "b", "d")
    asked = ["a", "b", "c", "a", "d", "c", "b"]
    answer = await embed(plane, tenant, *asked)
    assert np.array_equal(answer.vectors, vectors_for(asked, 4))
    assert texts_sent(plane) == [["b", "d"], ["a", "c"]]
    assert (answer.usage.cached, answer.usage.items) == (3, 7)


async def test_duplicates_are_computed_and_held_once(plane):
    month = limit("tokens", 1)
    answer = await embed(plane, snapshot(choice(), limits=(month,)), "a", "a", "a")
    assert np.array_equal(answer.vectors, vectors_for(["a"] * 3, 4))
    assert (texts_sent(plane), answer.usage.cached, answer.usage.held_tokens) == ([["a"]], 0, 1)


async def test_no_cache_is_answered_anew_and_kept_no_store_is_answered_from_it_and_not_kept(plane, tenant):
    await embed(plane, tenant, "a", fills_cache=False)
    await embed(plane, tenant, "a", reads_cache=False)
    found = await embed(plane, tenant, "a", fills_cache=False)
    await embed(plane, tenant, "a", reads_cache=False)
    assert (len(texts_sent(plane)), found.usage.cached) == (3, 1)


async def test_a_tenant_may_do_without(plane):
    of = snapshot(choice(), cache_enabled=False)
    await embed(plane, of, "a")
    await embed(plane, of, "a")
    assert (len(texts_sent(plane)), plane.kept.kept) == (2, {})


async def test_vectors_are_kept_for_as_long_as_the_tenant_says(plane):
    await embed(plane, snapshot(choice(), cache_ttl_s=77), "a")
    assert set(plane.kept.lives.values()) == {77}


@pytest.mark.parametrize(
    "words",
    [{"input_type": InputType.QUERY}, {"dimensions": 2}],
    ids=["input type", "width"],
)
async def test_another_vector_of_the_same_text_is_no_hit(plane, words):
    of = snapshot(choice(deployment(takes_dimensions=True, allowed_dimensions=frozenset({2}))))
    await embed(plane, of, "a")
    answer = await embed(plane, of, "a", **words)
    assert (answer.usage.cached, len(texts_sent(plane))) == (0, 2)


async def test_tokens_are_not_taken_for_the_text_that_they_stand_for(plane, tenant):
    await embed(plane, tenant, "hello world")
    await plane.gateway.embed(token_request([15339, 1917]), call(tenant))
    assert texts_sent(plane) == [["hello world"], [[15339, 1917]]]


async def test_a_raised_epoch_empties_the_cache(plane):
    of = deployment()
    await embed(plane, snapshot(choice(of)), "a")
    answer = await embed(plane, snapshot(choice(replace(of, epoch=2))), "a")
    assert (answer.usage.cached, len(texts_sent(plane))) == (0, 2)


async def test_mallory_gets_nothing_of_acmes(plane):
    model = choice()
    await embed(plane, snapshot(model), "a")
    hers = await plane.gateway.embed(request("a"), call(snapshot(model, tenant_id=MALLORY), key=grant()))
    assert (hers.usage.cached, len(texts_sent(plane))) == (0, 2)


async def test_a_text_that_was_cut_answers_only_who_asks_for_what_is_left_of_it(plane):
    of = snapshot(choice(deployment(max_tokens=2)))
    await embed(plane, of, "one two three", truncate=True)
    with pytest.raises(ContextLengthExceeded):
        await embed(plane, of, "one two three")
    cut, whole = await embed(plane, of, "one two four", truncate=True), await embed(plane, of, "one two")
    assert (cut.usage.cached, whole.usage.cached, texts_sent(plane)) == (1, 1, [["one two"]])


async def test_a_full_vector_serves_its_cuts(plane):
    of = snapshot(choice(deployment(is_matryoshka=True)))
    await embed(plane, of, "a", "b")
    answer = await embed(plane, of, "b", dimensions=3)
    native = vectors_for(["b"], 4)[:, :3]
    assert (answer.usage.cached, answer.dimensions, len(texts_sent(plane))) == (1, 3, 1)
    assert np.allclose(answer.vectors, native / np.linalg.norm(native))


async def test_a_cut_never_serves_for_the_full_vector(plane):
    of = snapshot(choice(deployment(is_matryoshka=True)))
    plane.providers.behaviours["openai"] = right(native=4)
    await embed(plane, of, "a", dimensions=3)
    assert np.array_equal((await embed(plane, of, "a")).vectors, vectors_for(["a"], 4))


async def test_two_providers_of_one_space_share_what_is_kept(plane):
    a, b = choice(deployment("m", provider="a")), choice(deployment("m", provider="b"))
    await embed(plane, snapshot(a), "x")
    answer = await embed(plane, snapshot(b), "x", "y")
    assert (texts_sent(plane, "b"), answer.usage.cached) == ([["y"]], 1)


async def test_another_place_discards_what_was_found(plane):
    of = snapshot(choice(deployment("a", provider="a")), choice(deployment("b", provider="b")))
    await embed(plane, of, "x")
    plane.providers.behaviours["a"] = failing(FailureKind.SERVER)
    answer = await embed(plane, of, "x", "y")
    assert (answer.usage.space, answer.usage.cached, texts_sent(plane, "b")) == ("b", 0, [["x", "y"]])


async def test_what_is_too_dear_to_compute_is_answered_from_the_cache(plane, tenant):
    await embed(plane, tenant, "a")
    assert (await embed(plane, tenant, "a", max_cost_nano=0)).usage.cached == 1
    with pytest.raises(QuotaExceeded):
        await embed(plane, tenant, "b", max_cost_nano=0)


async def test_what_nobody_paid_for_is_not_kept(plane):
    of = snapshot(choice(deployment(max_items=1)))
    outcomes = iter([right(), failing(FailureKind.BAD_ANSWER)])
    plane.providers.behaviours["openai"] = lambda asked: next(outcomes)(asked)
    with pytest.raises(ProviderError):
        await embed(plane, of, "x", "y")
    del plane.providers.behaviours["openai"]
    again = (await embed(plane, of, "x", "y")).usage
    assert (again.cached, again.held_tokens) == (0, 2)


async def test_what_is_not_committed_is_neither_kept_nor_given_to_who_waits_for_it(plane, tenant):
    plane.ledger.fails_at_commit = True
    outcomes = await crowd(plane, tenant, ["x"], ["x"])
    assert [type(each) for each in outcomes] == [LedgerUnavailable] * 2
    assert (texts_sent(plane), plane.kept.kept) == ([["x"], ["x"]], {})


# One text at a time


async def crowd(plane: Plane, of: TenantSnapshot, *requests_of_texts: list[str]):
    """These requests at the same time, the first one at the provider before the others come; all answers."""
    provider = plane.providers.get(of.choices[0].deployment.endpoints[0])
    provider.gate.clear()
    first, *others = requests_of_texts
    tasks = [asyncio.create_task(embed(plane, of, *first))]
    await until(lambda: provider.asked)
    tasks += [asyncio.create_task(embed(plane, of, *texts)) for texts in others]
    for _ in range(20):
        await asyncio.sleep(0)
    provider.gate.set()
    return await asyncio.gather(*tasks, return_exceptions=True)


async def test_who_asks_for_what_is_under_way_waits_for_it_and_pays_nothing(plane):
    month = limit("tokens", 1)
    of = snapshot(choice(), limits=(month,))
    answers = await crowd(plane, of, ["x"], ["x"], ["x", "x"])
    assert texts_sent(plane) == [["x"]]
    assert [each.usage.tokens for each in answers] == [1, 0, 0]
    assert [each.usage.cached for each in answers] == [0, 1, 2]
    assert all(np.array_equal(row, vectors_for(["x"], 4)[0]) for each in answers for row in each.vectors)
    assert plane.limits.counted(month) == (1, 0)


async def test_only_what_nobody_computes_is_computed(plane, tenant):
    answers = await crowd(plane, tenant, ["x", "y"], ["z", "y", "x", "w"])
    assert texts_sent(plane) == [["x", "y"], ["z", "w"]]
    assert np.array_equal(answers[1].vectors, vectors_for(["z", "y", "x", "w"], 4))


async def test_when_the_first_fails_the_others_compute_it_themselves(plane):
    outcomes = iter([failing(FailureKind.TEXT_REFUSED), right(tokens=1)])
    plane.providers.behaviours["openai"] = lambda asked: next(outcomes)(asked)
    failed, answer = await crowd(plane, snapshot(choice()), ["x"], ["x"])
    assert type(failed) is InvalidRequest
    assert (answer.usage.tokens, answer.usage.cached) == (1, 0)


async def test_what_was_joined_costs_the_price_of_hits_and_is_held_for(plane):
    money = limit("usd", 10**9)
    of = snapshot(choice(deployment(price=0)), limits=(money,), cache_hit_cost_per_million_tokens=Decimal(1))
    answers = await crowd(plane, of, ["x"], ["y", "x", "x"])
    assert [each.usage.cost_nano for each in answers] == [0, 2000]
    assert max(ask.nano for ask in plane.limits.asks) == 2000
    assert plane.limits.counted(money) == (2000, 0)


async def test_mallory_never_waits_for_acme(plane):
    model = choice()
    provider = plane.providers.get(model.deployment.endpoints[0])
    provider.gate.clear()
    both = [
        asyncio.create_task(plane.gateway.embed(request("x"), call(snapshot(model, tenant_id=tenant_id))))
        for tenant_id in (MALLORY, snapshot(model).config.tenant_id)
    ]
    await until(lambda: plane.gateway.statistics()["inflight_led"] == 2)
    provider.gate.set()
    assert [each.usage.cached for each in await asyncio.gather(*both)] == [0, 0]


# Items that fail alone


def refusing_poison(asked: EmbedCall) -> EmbedAnswer:
    behaviour = failing(FailureKind.TEXT_REFUSED) if "poison" in asked.inputs else right(tokens=len(asked.inputs))
    return behaviour(asked)


async def poisoned(plane: Plane, of: TenantSnapshot, *texts: str, **words):
    plane.providers.behaviours["openai"] = refusing_poison
    return await embed(plane, of, *texts, **words)


async def test_a_refused_text_fails_alone_where_that_is_wanted(plane, tenant):
    answer = await poisoned(plane, tenant, "a", "poison", "b", "poison", is_partial=True)
    assert sorted(answer.failed) == [1, 3]
    assert {error.code for error in answer.failed.values()} == {"invalid_request"}
    assert np.array_equal(answer.vectors[[0, 2]], vectors_for(["a", "b"], 4))
    assert (answer.usage.tokens, answer.usage.held_tokens) == (2, 4)


async def test_a_refused_text_fails_its_request_and_is_named(plane, tenant):
    with pytest.raises(InvalidRequest) as refused:
        await poisoned(plane, tenant, "a", "b", "poison")
    assert refused.value.extra["index"] == 2


async def test_a_text_that_is_too_long_fails_alone_and_is_not_sent(plane):
    of = snapshot(choice(deployment(max_tokens=2)))
    answer = await embed(plane, of, "one two three", "one", is_partial=True)
    assert [(index, error.code) for index, error in answer.failed.items()] == [(0, "context_length_exceeded")]
    assert texts_sent(plane) == [["one"]]


async def test_hits_beside_a_text_that_fails_are_paid_within_the_budget(plane):
    money = limit("usd", 1500)
    words = {"limits": (money,), "cache_hit_cost_per_million_tokens": Decimal(1)}
    of = snapshot(choice(deployment(max_tokens=2, price=0)), **words)
    await embed(plane, of, "one")
    hits = [await embed(plane, of, "one two three", "one", is_partial=True) for _ in range(3)]
    assert [each.usage.cost_nano for each in hits] == [1000, 0, 0]
    assert plane.limits.counted(money) == (1000, 0)


async def test_what_one_model_could_take_stays_when_the_next_could_not(plane):
    long = deployment("m", provider="a", max_items=1, max_tokens=50)
    short = deployment("m", provider="b", max_tokens=1)
    outcomes = iter([right(), failing(FailureKind.BAD_ANSWER)])
    plane.providers.behaviours["a"] = lambda asked: next(outcomes)(asked)
    of = snapshot(choice(long), choice(short))
    answer = await embed(plane, of, "one two three", "four", model="m", is_partial=True)
    assert (answer.failed, texts_sent(plane, "b")) == ({}, [["four"]])
    assert np.array_equal(answer.vectors, vectors_for(["one two three", "four"], 4))
