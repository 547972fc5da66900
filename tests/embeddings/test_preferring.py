"""Preferences put to work: an agent's order, its bounds, and that it can only narrow what its tenant allows."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import InvalidRequest, KeyNotPermitted, ModelNotConfigured, NoModelAvailable, QuotaExceeded
from embeddings import preferring
from embeddings.explaining import Explained, candidates_of, dropped_of, explain
from embeddings.requests import EmbeddingRequest
from embeddings.selection import refusal
from embeddings.snapshot import TenantSnapshot
from embeddings.tokens import Size
from tenants.preferences import Preferences, parse, to_json
from tests.embeddings.building import NOW, choice, deployment, request, snapshot

NONE = Preferences()
HEADER = "X-Require-Embedding-Space"


def explained(
    asked: EmbeddingRequest, of: TenantSnapshot, preferences: Preferences = NONE, *, tokens: int = 10, **words: Any
) -> Explained:
    def sizes(tokenizers: Any) -> dict[str, Size]:
        return dict.fromkeys(tokenizers, Size((tokens,), (tokens,), tokens))

    return explain(asked, of, sizes, preferences=preferences, now=NOW, **{"latency_ms": {}, **words})


def names(found: Explained) -> list[str]:
    return [candidate.choice.deployment.name for candidate in found.chain.candidates]


def reasons(found: Explained) -> list[str]:
    return [candidate.reason for candidate in found.chain.candidates]


@pytest.fixture
def four() -> TenantSnapshot:
    """A tenant whose default is `a`, then `b`, `c` and `d` by priority; `d` is the cheapest."""
    return snapshot(
        choice(deployment("a"), is_default=True),
        choice(deployment("b", price=30_000_000), priority=2),
        choice(deployment("c", price=40_000_000), priority=1),
        choice(deployment("d", price=10_000_000)),
    )


# Order


def test_the_tasks_model_goes_first_then_primary_secondary_tertiary_then_the_tenants_order(four):
    agent = Preferences(primary="c", secondary="b", tertiary="a", task_models={"search": "d"})
    found = explained(request(task_type="search"), four, agent)
    assert names(found) == ["d", "c", "b", "a"]
    assert reasons(found) == [
        "the agent's model for task 'search'",
        "the agent's primary",
        "the agent's secondary",
        "the agent's tertiary",
    ]


def test_without_its_task_the_model_of_a_task_counts_for_nothing(four):
    agent = Preferences(primary="c", task_models={"search": "d"})
    for asked in (request(), request(task_type="chat")):
        found = explained(asked, four, agent)
        assert (names(found), reasons(found)) == (
            ["c", "a", "b", "d"],
            ["the agent's primary", "the tenant's default", "by priority", "by priority"],
        )


def test_an_agents_strategy_orders_what_follows_the_models_it_names(four):
    found = explained(request(), four, Preferences(strategy="cost", primary="c"))
    assert names(found) == ["c", "d", "a", "b"]
    assert reasons(found) == ["the agent's primary", "by price", "the tenant's default", "by price"]


def test_what_a_request_asks_for_goes_over_what_its_agent_prefers(four):
    found = explained(request(strategy="cost"), four, Preferences(strategy="latency", primary="c"))
    assert names(found) == ["d", "a", "b", "c"]
    assert reasons(found)[3] == "the agent's primary"


def test_a_request_that_names_a_model_gets_that_one_whatever_its_agent_prefers(four):
    assert names(explained(request(model="b"), four, Preferences(primary="c", task_models={"t": "d"}))) == ["b"]


def test_a_name_at_two_providers_means_both_of_the_space_preferred():
    of = snapshot(
        choice(deployment("m", provider="x", space="one")),
        choice(deployment("m", provider="y", space="two")),
        choice(deployment("m", provider="z", space="one")),
    )
    found = preferring.preferred(of, Preferences(primary="m"), "")
    assert [(c.deployment.provider, why) for c, why in found] == [
        ("x", "the agent's primary"),
        ("z", "the agent's primary"),
    ]
    assert preferring.preferred(of, Preferences(primary="y/m"), "")[0][0].deployment.provider == "y"


def test_a_model_that_is_gone_is_told_and_the_next_one_answers(four):
    found = explained(request(), four, Preferences(primary="gone", secondary="b"))
    assert names(found)[0] == "b"
    assert dropped_of(found) == [
        {
            "model": "gone",
            "provider": None,
            "reason": "gone is the agent's primary, but the tenant has no such model any more.",
        }
    ]


def test_a_disabled_primary_does_not_speak_for_the_others():
    of = snapshot(choice(deployment("off"), is_enabled=False), choice(deployment("dear")))
    found = explained(request(max_cost_nano=0), of, Preferences(primary="off"))
    assert isinstance(refusal(found.chain.dropped), QuotaExceeded)


def test_a_chain_is_shown_with_what_it_costs_and_why(four):
    shown = candidates_of(explained(request(), four, Preferences(primary="d"), tokens=100))
    assert shown[0] == {
        "model": "d",
        "provider": "openai",
        "space": "d",
        "dimensions": 4,
        "estimated_cost": "0.000001000",
        "reasons": ["the agent's primary"],
    }


# Bounds


def test_fixed_means_its_own_models_and_never_others(four):
    agent = Preferences(strategy="fixed", primary="b", secondary="gone")
    found = explained(request(), four, agent)
    assert names(found) == ["b"]
    assert {each["reason"] for each in dropped_of(found)[1:]} == {
        f"{name} at openai is none of the models that the agent is fixed to." for name in "acd"
    }


def test_fixed_refuses_others_by_name_and_their_fallbacks_with_them():
    own = choice(deployment("own"))
    of = snapshot(choice(deployment("other"), fallback_model_id=own.configured.model_id), own)
    found = explained(request(model="other"), of, Preferences(strategy="fixed", primary="own"))
    assert found.chain.candidates == ()
    assert isinstance(refusal(found.chain.dropped), KeyNotPermitted)
    assert names(explained(request(model="own"), of, Preferences(strategy="fixed", primary="own"))) == ["own"]


def test_fixed_to_a_model_that_is_switched_off_says_so(four):
    of = snapshot(*four.choices, choice(deployment("off"), is_enabled=False))
    found = explained(request(), of, Preferences(strategy="fixed", primary="off"))
    assert isinstance(refusal(found.chain.dropped), ModelNotConfigured)
    assert refusal(found.chain.dropped).message == "off is disabled by the tenant."


def test_the_lower_of_two_costs_holds(four):
    agent = Preferences(max_cost_per_request_nano=200)
    assert set(names(explained(request(), four, agent))) == {"a", "d"}
    assert set(names(explained(request(max_cost_nano=100), four, agent))) == {"d"}
    assert set(names(explained(request(max_cost_nano=1000), four, agent))) == {"a", "d"}


def test_models_that_are_slow_at_present_are_left_out_and_unknown_ones_are_not(four):
    slow, quick = (four.by_name[name][0].deployment.model_id for name in "ab")
    found = explained(request(), four, Preferences(max_latency_ms=100), latency_ms={slow: 250.4, quick: 99.0})
    assert set(names(found)) == {"b", "c", "d"}
    (dropped,) = found.chain.dropped
    assert isinstance(dropped.error, NoModelAvailable)
    assert dropped.reason == "a at openai answers in about 250 ms at present; the agent waits at most 100."


def test_a_width_that_an_agent_needs_is_asked_for():
    of = snapshot(choice(deployment("narrow")), choice(deployment("wide", dimensions=8, is_matryoshka=True)))
    found = explained(request(), of, Preferences(required_dimensions=6))
    assert [(c.choice.deployment.name, c.dimensions) for c in found.chain.candidates] == [("wide", 6)]


def test_a_space_that_an_agent_needs_is_the_only_one(four):
    assert names(explained(request(), four, Preferences(required_space="c"))) == ["c"]


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"dimensions": 4}, "dimensions"),
        ({"required_space": "c", "required_space_dimensions": 4}, HEADER),
        ({"required_space": "b"}, HEADER),
    ],
)
def test_a_request_that_asks_for_what_its_agent_rules_out_is_refused_by_field(asked, field, four):
    with pytest.raises(InvalidRequest) as refused:
        explained(request(**asked), four, Preferences(required_dimensions=8, required_space="c"))
    assert refused.value.param == field


def test_saying_the_same_twice_is_no_contradiction():
    asked = request(dimensions=8, required_space="c", required_space_dimensions=8)
    assert preferring.narrowed(asked, Preferences(required_dimensions=8, required_space="c")) == asked


# Whatever an agent sets, it can only narrow

NAMES = ("a", "b", "c", "d", "gone")
names_or_none = st.none() | st.sampled_from(NAMES)


@st.composite
def tenants(draw: st.DrawFn) -> TenantSnapshot:
    found = []
    for name in NAMES[:-1]:
        width = draw(st.sampled_from([4, 8]))
        words = {
            "space": draw(st.sampled_from(["one", "two"])),
            "provider": draw(st.sampled_from(["x", "y"])),
            "price": draw(st.sampled_from([None, 0, 10_000_000, 20_000_000])),
            "state": draw(st.sampled_from(["available", "available", "deprecated", "unavailable"])),
            "sunset_at": draw(st.sampled_from([None, NOW - timedelta(days=1)])),
            "minimum_tier": draw(st.sampled_from(["free", "free", "enterprise"])),
        }
        fallback = draw(st.none() | st.sampled_from(found)) if found else None
        found.append(
            choice(
                deployment(name, dimensions=width, is_matryoshka=draw(st.booleans()), **words),
                is_enabled=draw(st.booleans()),
                is_default=False,
                fallback_model_id=None if fallback is None else fallback.configured.model_id,
            )
        )
    return snapshot(*found, unpriced_allowed=draw(st.booleans()))


@st.composite
def preferences(draw: st.DrawFn) -> Preferences:
    return Preferences(
        strategy=draw(st.sampled_from(["tenant_default", "fixed", "cost", "latency", "quality"])),
        primary=draw(names_or_none),
        secondary=draw(names_or_none),
        tertiary=draw(names_or_none),
        task_models=draw(st.dictionaries(st.sampled_from(["search", "chat"]), st.sampled_from(NAMES))),
        max_cost_per_request_nano=draw(st.none() | st.integers(0, 300)),
        max_latency_ms=draw(st.none() | st.integers(1, 300)),
        required_dimensions=draw(st.none() | st.sampled_from([2, 4, 8])),
        required_space=draw(st.none() | st.sampled_from(["one", "two"])),
    )


def outcomes(found: Explained) -> set[tuple[UUID, int, int, str]]:
    """Model, cost, width and space of each that may answer."""
    return {
        (c.choice.configured.tenant_model_id, c.held_nano, c.dimensions, c.choice.deployment.space)
        for c in found.chain.candidates
    }


asked_for = st.builds(
    request,
    model=st.none() | st.sampled_from(NAMES[:-1]),
    strategy=st.sampled_from(["priority", "cost", "latency", "quality"]),
    task_type=st.sampled_from(["", "search", "other"]),
    max_cost_nano=st.none() | st.integers(0, 300),
)
latencies = st.dictionaries(st.integers(0, 3), st.floats(0, 500))


@pytest.mark.slow
@settings(max_examples=150)
@given(tenants(), preferences(), asked_for, latencies, st.sets(st.sampled_from(NAMES)))
def test_preferences_only_narrow(of, agent, asked, usual, allowed):
    latency_ms = {of.choices[index].deployment.model_id: ms for index, ms in usual.items()}
    words = {"latency_ms": latency_ms, "allowed_models": allowed}
    found = explained(asked, of, agent, **words)
    # Nothing that the same request without the agent would not get, had it asked for that width and space itself.
    without = explained(preferring.narrowed(asked, agent), of, **words)
    assert outcomes(found) <= outcomes(without)
    own = {name for name in agent.models if name in of.by_name}
    for candidate in found.chain.candidates:
        its = candidate.choice.deployment
        assert candidate.choice.configured.is_enabled
        assert candidate.held_nano <= min(
            each for each in (asked.max_cost_nano, agent.max_cost_per_request_nano, 10**9) if each is not None
        )
        assert agent.required_dimensions in (None, candidate.dimensions)
        assert agent.required_space in (None, its.space)
        assert latency_ms.get(its.model_id, 0) <= (agent.max_latency_ms or 1000)
        assert agent.strategy != "fixed" or its.name in own
        assert not allowed or its.name in allowed


@settings(max_examples=60)
@given(tenants(), preferences(), asked_for)
def test_an_order_alone_takes_nobody_out_and_everybody_has_a_reason(of, agent, asked):
    order = Preferences(
        strategy="cost",
        primary=agent.primary,
        secondary=agent.secondary,
        tertiary=agent.tertiary,
        task_models=agent.task_models,
    )
    found = explained(asked, of, order)
    assert outcomes(found) == outcomes(explained(asked, of))
    assert len(outcomes(found)) == len(found.chain.candidates)
    assert all(each["reasons"] != [""] for each in candidates_of(found))
    assert all(each["reason"] for each in dropped_of(found))


@given(tenants(), asked_for)
def test_no_preferences_are_as_if_there_were_no_agent(of, asked):
    assert preferring.narrowed(asked, NONE) == asked
    found, without = explained(asked, of, parse(to_json(NONE))), explained(asked, of)
    assert (candidates_of(found), dropped_of(found)) == (candidates_of(without), dropped_of(without))
