"""Which models may answer, in which order, and the reason of each that may not."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import (
    ContextLengthExceeded,
    DimensionsNotSupported,
    InvalidRequest,
    KeyNotPermitted,
    ModelNotConfigured,
    ModelUnpriced,
    NoModelAvailable,
    NotSupported,
    QuiverError,
    QuotaExceeded,
    SpaceMismatch,
)
from embeddings import selection
from embeddings.inputs import Inputs
from embeddings.selection import Chain
from embeddings.tokens import BYTES
from tests.embeddings.building import NOW, choice, deployment, request, snapshot, token_request


def chain(asked, of, *, allowed_models=frozenset(), latency_ms=None) -> Chain:
    found = selection.plan(selection.question(asked, allowed_models), of, NOW)
    inputs = Inputs(asked)
    sizes = {tokenizer: inputs.size(tokenizer) for tokenizer in {e.choice.deployment.tokenizer for e in found.entries}}
    return selection.rank(found, asked, of, sizes, latency_ms=latency_ms or {}, now=NOW)


def names(found: Chain) -> list[str]:
    return [f"{c.choice.deployment.provider}/{c.choice.deployment.name}" for c in found.candidates]


def refusal_of(asked, of, **words) -> QuiverError:
    found = chain(asked, of, **words)
    assert found.candidates == ()
    return selection.refusal(found.dropped)


# Order


def test_a_named_model_goes_first_then_its_space_then_the_fallback_written_down():
    fallback = choice(deployment("other", space="elsewhere"), priority=9)
    elsewhere = choice(deployment("twin", provider="b", space="one"), priority=5)
    named = choice(deployment("small", space="one"), fallback_model_id=fallback.configured.model_id)
    found = chain(request(model="small"), snapshot(fallback, elsewhere, named))
    assert names(found) == ["openai/small", "b/twin", "openai/other"]
    assert [c.reason for c in found.candidates] == [
        "requested",
        "same space as requested",
        "fallback written down for the requested model",
    ]


def test_a_named_model_never_gets_another_space_without_a_fallback():
    of = snapshot(choice(deployment("other")), choice(deployment("small")))
    assert names(chain(request(model="small"), of)) == ["openai/small"]


def test_one_name_at_two_providers_of_one_space_is_tried_at_both():
    of = snapshot(choice(deployment("m", provider="a")), choice(deployment("m", provider="b")))
    assert names(chain(request(model="m"), of)) == ["a/m", "b/m"]


def test_one_name_for_two_spaces_means_the_one_preferred():
    of = snapshot(choice(deployment("m", provider="a", space="x")), choice(deployment("m", provider="b", space="y")))
    assert names(chain(request(model="m"), of)) == ["a/m"]


def test_provider_and_name_mean_the_model_at_that_provider():
    of = snapshot(
        choice(deployment("BAAI/m", provider="a", space="x")), choice(deployment("BAAI/m", provider="b", space="y"))
    )
    assert names(chain(request(model="b/BAAI/m"), of)) == ["b/BAAI/m"]


def test_a_name_with_a_slash_is_looked_up_whole_first():
    of = snapshot(choice(deployment("m", provider="a")), choice(deployment("a/m", provider="b")))
    assert names(chain(request(model="a/m"), of)) == ["b/a/m"]


def test_the_vendors_identifier_is_a_name_as_well():
    of = snapshot(choice(deployment("nice", identifier="vendor.nice-v2:0")))
    assert names(chain(request(model="vendor.nice-v2:0"), of)) == ["openai/nice"]


def test_a_free_choice_is_the_default_then_by_priority():
    of = snapshot(
        choice(deployment("a"), priority=2), choice(deployment("b")), choice(deployment("c"), is_default=True)
    )
    assert names(chain(request(), of)) == ["openai/c", "openai/a", "openai/b"]


def test_of_equal_priority_the_cheaper_comes_first():
    of = snapshot(
        choice(deployment("dear", price=300)),
        choice(deployment("free", price=900), nano_per_million=0),
        choice(deployment("cheap", price=100)),
        choice(deployment("first", price=900), priority=1),
    )
    assert names(chain(request(), of)) == ["openai/first", "openai/free", "openai/cheap", "openai/dear"]


def test_same_space_at_another_width_answers_in_the_width_of_the_requested_model():
    whole = choice(deployment("m", space="s", dimensions=8, is_matryoshka=True))
    cut_elsewhere = choice(deployment("m-cut", provider="b", space="s", dimensions=4))
    assert names(chain(request(model="m"), snapshot(whole, cut_elsewhere))) == ["openai/m"]
    found = chain(request(model="m-cut"), snapshot(whole, cut_elsewhere))
    assert [(c.choice.deployment.name, c.dimensions) for c in found.candidates] == [("m-cut", 4), ("m", 4)]


# Strategies


@pytest.mark.parametrize(
    ("strategy", "order"),
    [
        ("priority", ["openai/cheap", "openai/dear", "openai/unknown"]),
        ("cost", ["openai/cheap", "openai/dear", "openai/unknown"]),
        ("latency", ["openai/dear", "openai/cheap", "openai/unknown"]),
        ("quality", ["openai/cheap", "openai/dear", "openai/unknown"]),
    ],
)
def test_strategies_put_the_unknown_last(strategy, order):
    dear = deployment("dear", price=300, quality_score=60.0)
    cheap = deployment("cheap", price=100, quality_score=70.5)
    of = snapshot(choice(dear), choice(cheap), choice(deployment("unknown", price=None)), unpriced_allowed=True)
    latency = {dear.model_id: 5.0, cheap.model_id: 50.0}
    assert names(chain(request(strategy=strategy), of, latency_ms=latency)) == order


def test_the_tenants_own_price_decides_what_is_cheap():
    of = snapshot(choice(deployment("a", price=100)), choice(deployment("b", price=900), nano_per_million=50))
    found = chain(request(strategy="cost"), of)
    assert [(c.choice.deployment.name, c.nano_per_million) for c in found.candidates] == [("b", 50), ("a", 100)]


def test_no_strategy_puts_a_fallback_before_the_requested_model():
    fallback = choice(deployment("free", space="elsewhere", price=0))
    named = choice(deployment("dear"), fallback_model_id=fallback.configured.model_id)
    assert names(chain(request(model="dear", strategy="cost"), snapshot(fallback, named))) == [
        "openai/dear",
        "openai/free",
    ]


def test_a_disabled_model_never_speaks_for_the_others():
    cheap_but_disabled = choice(deployment("off", price=1), is_enabled=False)
    of = snapshot(cheap_but_disabled, choice(deployment("on", endpoints=())))
    for strategy in ("priority", "cost"):
        assert "No credential" in refusal_of(request(strategy=strategy), of).message


# Prices are dated


def test_the_price_in_force_counts():
    from catalog.deployments import PricePoint

    prices = (PricePoint(NOW + timedelta(seconds=1), 9), PricePoint(NOW, 5), PricePoint(NOW - timedelta(days=9), 1))
    found = chain(request(), snapshot(choice(deployment(prices=prices))))
    assert found.candidates[0].nano_per_million == 5


# Dropped, each with its reason

DROPPED = [
    ({"state": "unavailable"}, {}, NoModelAvailable, "is unavailable"),
    ({"state": "draft"}, {}, NoModelAvailable, "is draft"),
    ({"sunset_at": NOW}, {}, NoModelAvailable, "past its sunset of 2026-11-15"),
    ({"is_provider_enabled": False}, {}, NoModelAvailable, "switched off"),
    ({"endpoints": ()}, {}, NoModelAvailable, "No credential was added"),
    ({"minimum_tier": "enterprise"}, {}, KeyNotPermitted, "needs the tier enterprise"),
    ({"price": None}, {}, ModelUnpriced, "has no price"),
    ({}, {"dimensions": 5}, DimensionsNotSupported, "it offers 4"),
    ({"allowed_dimensions": frozenset({2})}, {"dimensions": 3}, DimensionsNotSupported, "it offers 2, 4"),
    ({"is_matryoshka": True}, {"dimensions": 5}, DimensionsNotSupported, "any up to 4"),
    ({}, {"required_space": "elsewhere"}, SpaceMismatch, "small@4"),
    ({}, {"required_space": "small", "required_space_dimensions": 2}, SpaceMismatch, "small@4"),
    ({"max_tokens": 1}, {}, ContextLengthExceeded, "has 2 tokens; small takes 1"),
    ({"max_tokens": 1, "tokenizer": BYTES}, {"truncate": True}, NotSupported, "cannot be truncated"),
    ({"price": 10**9}, {"max_cost_nano": 1999}, QuotaExceeded, "max_cost_usd"),
]


@pytest.mark.parametrize(("facts", "wishes", "error", "words"), DROPPED, ids=[each[3] for each in DROPPED])
def test_what_cannot_answer_is_dropped_and_says_why(facts, wishes, error, words):
    of = snapshot(choice(deployment(**facts)))
    free = refusal_of(request(**wishes), of)
    named = refusal_of(request(model="small", **wishes), of)
    assert type(free) is type(named) is error
    assert words in free.message


def test_a_disabled_model_is_not_configured():
    of = snapshot(choice(is_enabled=False), choice(deployment("other")))
    refused = refusal_of(request(model="small"), of)
    assert (refused.status, refused.code, refused.param) == (404, "model_not_configured", "model")
    assert refused.extra["suggested_models"] == ["other"]


def test_a_key_uses_its_own_models_only():
    of = snapshot(choice(deployment("a")), choice(deployment("b", identifier="vendor-b")))
    assert names(chain(request(), of, allowed_models={"vendor-b"})) == ["openai/b"]
    assert refusal_of(request(model="a"), of, allowed_models={"b"}).code == "key_not_permitted"


def test_tokens_that_are_no_text_need_a_model_that_takes_tokens():
    of = snapshot(choice(deployment("bytes", tokenizer=BYTES)), choice(deployment("exact")))
    assert names(chain(token_request([230]), of)) == ["openai/exact"]
    refused = refusal_of(token_request([230], model="bytes"), of)
    assert (type(refused), refused.param) == (InvalidRequest, "input")
    assert refusal_of(token_request([230], model="bytes"), of) is not refused  # a shared one would keep every traceback


def test_an_unknown_name_suggests_what_may_be_used():
    of = snapshot(choice(deployment("a")), choice(deployment("off"), is_enabled=False))
    with pytest.raises(ModelNotConfigured) as refused:
        chain(request(model="gpt"), of)
    assert (refused.value.status, refused.value.param) == (404, "model")
    assert refused.value.extra == {"suggested_models": ["a"]}


def test_without_any_model_the_refusal_says_what_to_do():
    assert "configure one first" in refusal_of(request(), snapshot()).message


def test_no_candidate_lists_all_reasons():
    of = snapshot(choice(deployment("a", endpoints=())), choice(deployment("b", state="testing")))
    assert [d["model"] for d in refusal_of(request(), of).extra["dropped"]] == ["a", "b"]


# What is held


def test_who_has_no_price_or_too_high_a_price_names_others():
    of = snapshot(choice(deployment("dear", price=2_000_000_000)), choice(deployment("other")))
    told = refusal_of(request(model="dear", max_cost_nano=1), of)
    assert (told.code, told.param, told.extra) == (
        "quota_exceeded",
        "max_cost_usd",
        {
            "quota_type": "request",
            "scope": "request",
            "limit": "0.000000001",
            "used": "0.000004000",
            "reset_time": None,
            "suggested_models": ["other"],
        },
    )
    unpriced = refusal_of(
        request(model="x"), snapshot(choice(deployment("x", price=None)), choice(deployment("other")))
    )
    assert (unpriced.code, unpriced.extra) == ("model_unpriced", {"suggested_models": ["other"]})


def test_an_unpriced_model_serves_a_tenant_that_opted_in_at_no_charge():
    found = chain(request(), snapshot(choice(deployment(price=None)), unpriced_allowed=True))
    assert (found.candidates[0].nano_per_million, found.candidates[0].held_nano) == (0, 0)


def test_the_hold_is_rounded_up_and_counts_what_is_sent_after_truncation():
    of = snapshot(choice(deployment(max_tokens=3, price=1)))
    whole = chain(request("one", "one two"), of).candidates[0]
    cut = chain(request("one", "one two three four", truncate=True), of).candidates[0]
    assert (whole.held_tokens, whole.held_nano) == (3, 1)
    assert cut.held_tokens == 1 + 3


def test_a_greatest_cost_counts_what_is_sent_after_truncation():
    of = snapshot(choice(deployment(max_tokens=1, price=10**9)))
    asked = request("one two three", truncate=True, max_cost_nano=1000)
    assert names(chain(asked, of)) == ["openai/small"]


@given(st.data())
def test_a_named_model_gets_its_space_or_the_fallback_written_down(data):
    pick = data.draw
    rows = [
        deployment(
            pick(st.sampled_from("ab"), "name"),
            provider=f"p{index}",
            space=pick(st.sampled_from("xyz"), "space"),
            dimensions=pick(st.sampled_from([2, 4]), "dimensions"),
            is_matryoshka=pick(st.booleans(), "matryoshka"),
            price=pick(st.sampled_from([None, 1, 2]), "price"),
            endpoints=pick(st.sampled_from([(), deployment().endpoints]), "endpoints"),
        )
        for index in range(pick(st.integers(1, 6), "rows"))
    ]
    ids = [row.model_id for row in rows]
    choices = [
        choice(
            row,
            is_enabled=pick(st.booleans(), "enabled"),
            fallback_model_id=pick(st.none() | st.sampled_from(ids), "fallback"),
        )
        for row in rows
    ]
    strategy = pick(st.sampled_from(["priority", "cost", "latency", "quality"]), "strategy")
    asked = request(model=rows[0].name, strategy=strategy, dimensions=pick(st.sampled_from([None, 2]), "wish"))
    found = chain(asked, snapshot(*choices))

    named = [c for c in choices if c.deployment.name == asked.model]
    meant = ([c for c in named if c.configured.is_enabled] or named)[0]
    for candidate in found.candidates:
        got = candidate.choice.deployment
        is_same = got.space == meant.deployment.space
        assert is_same or got.model_id == meant.configured.fallback_model_id
        assert candidate.choice.configured.is_enabled
        assert not is_same or candidate.dimensions == (asked.dimensions or meant.deployment.dimensions)
    assert len({c.choice.deployment.model_id for c in found.candidates}) == len(found.candidates)
    assert UUID(int=0) not in ids


def test_a_key_that_may_not_use_the_named_model_gets_no_fallback_for_it():
    fallback = choice(deployment("other", space="elsewhere"))
    named = choice(deployment("small"), fallback_model_id=fallback.configured.model_id)
    asked, of = request(model="small"), snapshot(named, fallback)
    assert isinstance(refusal_of(asked, of, allowed_models=frozenset({"other"})), KeyNotPermitted)
    assert names(chain(asked, of)) == ["openai/small", "openai/other"]


def test_a_named_model_that_its_tenant_disabled_is_not_replaced():
    fallback = choice(deployment("other", space="elsewhere"))
    named = choice(deployment("small"), fallback_model_id=fallback.configured.model_id, is_enabled=False)
    assert isinstance(refusal_of(request(model="small"), snapshot(named, fallback)), ModelNotConfigured)


@pytest.mark.parametrize("fallback", ["space", "none"])
@pytest.mark.parametrize("strategy", ["priority", "cost"])
def test_a_narrow_fallback_never_leads_to_what_was_written_down(fallback, strategy):
    other = choice(deployment("other", price=1))
    gone = deployment("m", provider="a", space="s", state="unavailable")
    twin = deployment("n", provider="b", space="s", state="unavailable", price=1)
    of = snapshot(choice(gone, fallback_model_id=other.deployment.model_id), choice(twin), other)
    found = chain(request(model="m", fallback=fallback, strategy=strategy), of)
    assert found.candidates == ()
    assert found.dropped[-1].reason == f"other at openai is left out, for `fallback` is `{fallback}`."


def test_without_a_fallback_a_model_of_another_name_does_not_stand_in_even_in_the_same_space():
    gone = deployment("m", provider="a", space="s", state="unavailable")
    of = snapshot(choice(gone), choice(deployment("n", provider="b", space="s")))
    assert names(chain(request(model="m", fallback="none"), of)) == []
    assert names(chain(request(model="m", fallback="space"), of)) == ["b/n"]


@pytest.mark.parametrize(("fallback", "left"), [("space", ["a/m", "b/m"]), ("none", ["a/m"])])
def test_what_a_narrow_fallback_leaves_out_is_listed_with_that_reason(fallback, left):
    of = snapshot(
        choice(deployment("m", provider="a", space="s")),
        choice(deployment("m", provider="b", space="s")),
        choice(deployment("other", provider="c")),
    )
    found = chain(request(fallback=fallback), of)
    assert names(found) == left
    assert len(found.dropped) == 3 - len(left)
    assert all("is left out" in each.reason for each in found.dropped)


def test_a_request_that_says_nothing_of_it_gets_the_fallback_that_its_tenant_set():
    other = choice(deployment("other", space="elsewhere"), priority=9)
    twin = choice(deployment("twin", space="one"))
    named = choice(deployment("small", space="one"), fallback_model_id=other.configured.model_id)
    found = {
        (told, said): names(chain(request(model="small", fallback=said), snapshot(other, twin, named, fallback=told)))
        for told in ("auto", "space", "none")
        for said in (None, "auto")
    }
    everybody = ["openai/small", "openai/twin", "openai/other"]
    assert [found[told, None] for told in ("auto", "space", "none")] == [everybody, everybody[:2], everybody[:1]]
    assert [found[told, "auto"] for told in ("auto", "space", "none")] == [everybody] * 3
