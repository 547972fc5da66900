"""The lifecycle's table, edge by edge, and what happens when several move one row at once."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest

from catalog.lifecycle import EDGES, legal_moves, refusal
from catalog.models import EmbeddingModel, State
from catalog.services import find_model, move_model
from catalog.signals import model_moved
from core.errors import IllegalTransition

ALLOWED = {
    ("draft", "testing"),
    ("testing", "available"),
    ("testing", "draft"),
    ("available", "unavailable"),
    ("available", "deprecated"),
    ("unavailable", "available"),
    ("unavailable", "deprecated"),
    ("unavailable", "removed"),
    ("deprecated", "removed"),
}
FORBIDDEN = sorted(set(product(State.values, State.values)) - ALLOWED)


def test_the_table_is_exactly_this() -> None:
    assert {(state, to) for state in EDGES for to in legal_moves(state)} == ALLOWED
    assert set(EDGES) == set(State.values)


def test_a_refusal_names_the_way_on() -> None:
    assert refusal("testing", "removed").endswith("from there it goes to available or draft.")
    assert refusal("removed", "draft").endswith("that is the end.")


@pytest.mark.parametrize(("state", "to"), sorted(ALLOWED))
def test_each_edge_can_be_walked(state: str, to: str, add_model: Callable[..., Any]) -> None:
    row = add_model(state="draft")
    EmbeddingModel.objects.filter(id=row.id).update(state=state)
    assert move_model(model_id=row.id, to=to, reason="a test").state == to


@pytest.mark.parametrize(("state", "to"), FORBIDDEN)
def test_nothing_else_can(state: str, to: str, add_model: Callable[..., Any]) -> None:
    row = add_model(state="draft")
    EmbeddingModel.objects.filter(id=row.id).update(state=state)
    with pytest.raises(IllegalTransition) as refused:
        move_model(model_id=row.id, to=to)
    assert refused.value.extra["legal"] == list(legal_moves(state))
    assert find_model(row.id).state == state


@pytest.mark.django_db(transaction=True)
def test_of_eight_that_move_one_row_at_once_one_wins(
    add_model: Callable[..., Any], at_once: Callable[..., list[Any]]
) -> None:
    row = add_model()
    ways = ["deprecated", "unavailable"] * 4
    outcomes = at_once(*(lambda to=to: move_model(model_id=row.id, to=to) for to in ways))
    won = [each for each in outcomes if isinstance(each, EmbeddingModel)]
    lost = [each for each in outcomes if not isinstance(each, EmbeddingModel)]
    # unavailable → deprecated is an edge as well, so a second move may follow the first; never two of the same.
    states = [each.state for each in won]
    assert 1 <= len(states) <= 2
    assert len(set(states)) == len(states)
    assert {type(each) for each in lost} == {IllegalTransition}
    assert find_model(row.id).state == ("deprecated" if "deprecated" in states else "unavailable")


def test_a_move_is_told_after_its_commit(add_model: Callable[..., Any], committed: Any) -> None:
    heard: list[tuple[str, str]] = []

    def hear(sender: object, *, was: str, now: str, **about: Any) -> None:
        heard.append((was, now))

    row = add_model()
    model_moved.connect(hear)
    try:
        with committed():
            move_model(model_id=row.id, to="unavailable")
            assert heard == []
    finally:
        model_moved.disconnect(hear)
    assert heard == [("available", "unavailable")]
