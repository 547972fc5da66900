"""Preferences of agents: what is taken, what is refused by which name, and that writing them down loses nothing."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InvalidRequest, UnknownField
from tenants.preferences import FIELDS, Preferences, check_models, named_models, parse, to_json

MODELS = ("small", "large", "BAAI/bge-m3", "vendor/small")
WHOLE: dict[str, Any] = {
    "strategy": "cost",
    "primary": "small",
    "secondary": "large",
    "tertiary": None,
    "task_models": {"search": "BAAI/bge-m3"},
    "max_cost_per_request_usd": "0.000000001",
    "monthly_budget_usd": "12.5",
    "max_latency_ms": 200,
    "required_dimensions": 256,
    "required_space": "small",
}
tasks = st.text(st.characters(categories=("L", "N", "P")), min_size=1, max_size=100)
usd = st.decimals(0, 1_000_000, places=9, allow_nan=False, allow_infinity=False)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.decimals(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def valid(draw: st.DrawFn) -> dict[str, Any]:
    """Preferences that somebody may mean."""
    slots = draw(st.permutations(MODELS))
    found = {
        "strategy": draw(st.sampled_from(["tenant_default", "fixed", "cost", "latency", "quality"])),
        "primary": slots[0],
        "secondary": draw(st.sampled_from([slots[1], None])),
        "tertiary": draw(st.sampled_from([slots[2], None])),
        "task_models": draw(st.dictionaries(tasks, st.sampled_from(MODELS), max_size=4)),
        "max_cost_per_request_usd": draw(st.none() | usd.map(str)),
        "monthly_budget_usd": draw(st.none() | usd.map(str)),
        "max_latency_ms": draw(st.none() | st.integers(1, 600_000)),
        "required_dimensions": draw(st.none() | st.integers(1, 65_536)),
        "required_space": draw(st.none() | st.sampled_from(MODELS)),
    }
    return {name: found[name] for name in draw(st.sets(st.sampled_from(FIELDS))) | {"primary"}}


def outcome(act: Callable[[], Any]) -> tuple[Any, InvalidRequest | None]:
    """What came of it, or why it was refused."""
    try:
        return act(), None
    except InvalidRequest as error:
        return None, error


def test_preferences_are_read_whole() -> None:
    assert parse(WHOLE) == Preferences(
        strategy="cost",
        primary="small",
        secondary="large",
        task_models={"search": "BAAI/bge-m3"},
        max_cost_per_request_nano=1,
        monthly_budget_nano=12_500_000_000,
        max_latency_ms=200,
        required_dimensions=256,
        required_space="small",
    )
    assert to_json(parse(WHOLE)) == WHOLE


def test_nothing_and_null_are_no_preference() -> None:
    assert parse({}) == parse(dict.fromkeys(FIELDS)) == Preferences()
    assert parse({}).models == frozenset()


def test_the_wire_names_what_the_contract_names() -> None:
    assert set(to_json(Preferences())) == set(FIELDS) == set(WHOLE)


@given(valid())
def test_writing_down_loses_nothing(raw: dict[str, Any]) -> None:
    assert parse(to_json(parse(raw))) == parse(raw)


@given(st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=10), anything, max_size=4) | anything)
def test_whatever_comes_is_taken_or_refused_by_name(raw: Any) -> None:
    found, refused = outcome(lambda: parse(raw))
    assert (found is None) is not (refused is None)
    assert found is None or parse(to_json(found)) == found
    assert refused is None or str(refused.param).partition(".")[0] == "preferences"


@given(st.integers(0, 10**15))
def test_money_is_exact(nano: int) -> None:
    text = f"{Decimal(nano).scaleb(-9):f}"
    assert parse({"max_cost_per_request_usd": text}).max_cost_per_request_nano == nano


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        ({"strategy": "cheap"}, "strategy"),
        ({"primary": ""}, "primary"),
        ({"primary": 7}, "primary"),
        ({"primary": "small", "secondary": "small"}, "secondary"),
        ({"strategy": "fixed"}, "primary"),
        ({"task_models": ["small"]}, "task_models"),
        ({"task_models": {"search": None}}, "task_models.search"),
        ({"task_models": {"": "small"}}, "task_models"),
        ({"task_models": {"a\x00": "small"}}, "task_models"),
        ({"task_models": {str(n): "small" for n in range(101)}}, "task_models"),
        ({"max_cost_per_request_usd": -1}, "max_cost_per_request_usd"),
        ({"max_cost_per_request_usd": "NaN"}, "max_cost_per_request_usd"),
        ({"max_cost_per_request_usd": "1E+999999999"}, "max_cost_per_request_usd"),
        ({"max_cost_per_request_usd": "0.0000000001"}, "max_cost_per_request_usd"),
        ({"max_cost_per_request_usd": "0.1000000000000000000000000000000001"}, "max_cost_per_request_usd"),
        ({"max_cost_per_request_usd": "1e-999999999"}, "max_cost_per_request_usd"),
        ({"monthly_budget_usd": "lots"}, "monthly_budget_usd"),
        ({"monthly_budget_usd": True}, "monthly_budget_usd"),
        ({"max_latency_ms": 0}, "max_latency_ms"),
        ({"max_latency_ms": 1.5}, "max_latency_ms"),
        ({"required_dimensions": 65_537}, "required_dimensions"),
        ({"required_space": ""}, "required_space"),
    ],
)
def test_a_refusal_names_the_field(raw: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse(raw)
    assert refused.value.param == f"preferences.{field}"
    with pytest.raises(InvalidRequest) as refused:
        parse(raw, within="")
    assert refused.value.param == field


def test_an_unknown_preference_is_refused_with_those_known() -> None:
    with pytest.raises(UnknownField, match="known are strategy") as refused:
        parse({"primary": "small", "colour": "red"})
    assert refused.value.param == "preferences.colour"


@given(valid(), st.sets(st.sampled_from(MODELS)))
def test_models_are_those_of_the_tenant_or_the_field_is_named(raw: dict[str, Any], configured: set[str]) -> None:
    found = parse(raw)
    unknown = [f"preferences.{field}" for field, name in named_models(found) if name not in configured]
    _, refused = outcome(lambda: check_models(found, configured))
    assert (refused.param if refused else None) in (unknown or [None])
