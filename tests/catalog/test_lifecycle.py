"""The lifecycle's table, edge by edge, and what happens when several move one row at once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from itertools import product
from typing import Any

import pytest

from catalog.lifecycle import BEYOND, DIAGRAM, EDGES, Cause, Proof, legal_moves, missing_proof, refusal
from catalog.models import EmbeddingModel, ModelEvent, State
from catalog.moves import change_sunset
from catalog.services import change_model, find_model, move_model
from catalog.signals import model_moved
from core.clock import utc_now
from core.errors import Conflict, IllegalTransition, InvalidRequest

# The published diagram.
DRAWN = {
    ("draft", "testing"),
    ("testing", "available"),
    ("testing", "draft"),
    ("available", "unavailable"),
    ("unavailable", "available"),
    ("available", "deprecated"),
    ("deprecated", "removed"),
}
ALLOWED = DRAWN | {("unavailable", "deprecated"), ("unavailable", "removed")}
FORBIDDEN = sorted(set(product(State.values, State.values)) - ALLOWED)


def test_the_table_is_exactly_this() -> None:
    assert DIAGRAM == DRAWN
    assert {(state, to) for state in EDGES for to in legal_moves(state)} == DIAGRAM | BEYOND == ALLOWED
    assert set(EDGES) == set(State.values)


def test_a_refusal_names_the_way_on() -> None:
    assert refusal("testing", "removed").endswith("from there it goes to available or draft.")
    assert refusal("removed", "draft").endswith("that is the end.")
    assert refusal("unavailable", "deprecated") == (
        "The model became unavailable meanwhile; if it shall still become deprecated, move it again."
    )


def put(row: EmbeddingModel, state: str, **facts: Any) -> None:
    """Sets a row into a state without a move."""
    facts.setdefault("unavailable_cause", "operator" if state == "unavailable" else "")
    EmbeddingModel.objects.filter(id=row.id).update(state=state, validated_at=utc_now(), **facts)


@pytest.mark.parametrize(("state", "to"), sorted(ALLOWED))
def test_each_edge_can_be_walked(state: str, to: str, add_model: Callable[..., Any]) -> None:
    row = add_model(state="draft")
    put(row, state)
    assert move_model(model_id=row.id, to=to, reason="a test", actor="somebody").state == to
    event = ModelEvent.objects.first()
    assert event is not None
    assert (event.was, event.now, event.actor, event.reason) == (state, to, "somebody", "a test")


@pytest.mark.parametrize(("state", "to"), FORBIDDEN)
def test_nothing_else_can(state: str, to: str, add_model: Callable[..., Any]) -> None:
    row = add_model(state="draft")
    put(row, state)
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
    heard: list[tuple[str, str, str]] = []

    def hear(sender: object, *, was: str, now: str, cause: str, **about: Any) -> None:
        heard.append((was, now, cause))

    row = add_model()
    model_moved.connect(hear)
    try:
        with committed():
            move_model(model_id=row.id, to="unavailable")
            assert heard == []
    finally:
        model_moved.disconnect(hear)
    assert heard == [("available", "unavailable", "operator")]


def test_a_model_in_testing_is_released_after_its_validation_only(add_model: Callable[..., Any]) -> None:
    row = add_model(state="testing")
    with pytest.raises(IllegalTransition, match="has not passed its validation") as refused:
        move_model(model_id=row.id, to="available")
    assert refused.value.extra["legal"] == ["draft"]
    EmbeddingModel.objects.filter(id=row.id).update(validated_at=utc_now())
    change_model(model_id=row.id, max_tokens=7)  # what was validated is no longer what would be released
    with pytest.raises(IllegalTransition):
        move_model(model_id=row.id, to="available")
    EmbeddingModel.objects.filter(id=row.id).update(validated_at=utc_now())
    change_model(model_id=row.id, quality_score=None)
    assert move_model(model_id=row.id, to="available").state == "available"


def test_a_second_stay_in_testing_needs_a_second_validation(add_model: Callable[..., Any]) -> None:
    row = add_model(state="testing")
    EmbeddingModel.objects.filter(id=row.id).update(validated_at=utc_now())
    move_model(model_id=row.id, to="draft")
    move_model(model_id=row.id, to="testing")
    with pytest.raises(IllegalTransition):
        move_model(model_id=row.id, to="available")


# Which proof brings a model back from which cause.
BACK = {
    (Cause.PROVIDER, Proof.TRIALS),
    (Cause.PROVIDER, Proof.EQUALITY),
    (Cause.PROVIDER, Proof.HAND),
    (Cause.DRIFT, Proof.EQUALITY),
    (Cause.OPERATOR, Proof.HAND),
}


@pytest.mark.parametrize(("cause", "proof"), list(product(Cause, Proof)))
def test_each_cause_has_its_way_back(cause: Cause, proof: Proof) -> None:
    lacking = missing_proof(state="unavailable", to="available", cause=cause, proof=proof, is_validated=True)
    assert (lacking is None) == ((cause, proof) in BACK)


@pytest.mark.parametrize(("cause", "proof"), [(Cause.PROVIDER, Proof.TRIALS), (Cause.OPERATOR, Proof.HAND)])
def test_what_changed_since_it_was_measured_comes_back_only_once_it_is_measured_anew(
    cause: Cause, proof: Proof
) -> None:
    facts: dict[str, Any] = {"state": "unavailable", "to": "available", "cause": cause, "proof": proof}
    lacking = missing_proof(**facts, is_validated=False, was_validated=True)
    assert lacking is not None
    assert "run its probes first" in lacking
    assert missing_proof(**facts, is_validated=False, was_validated=False) is None  # seeded


def test_an_unavailable_model_says_why_and_stops_saying_so(add_model: Callable[..., Any]) -> None:
    row = add_model()
    out = move_model(model_id=row.id, to="unavailable", cause=Cause.PROVIDER, reason="open for ten minutes")
    assert (out.unavailable_cause, out.state_reason) == ("provider", "open for ten minutes")
    back = move_model(model_id=row.id, to="available", proof=Proof.TRIALS)
    assert back.unavailable_cause == ""


def test_drift_is_not_mended_by_hand(add_model: Callable[..., Any]) -> None:
    row = add_model()
    move_model(model_id=row.id, to="unavailable", cause=Cause.DRIFT)
    with pytest.raises(IllegalTransition, match="drifted") as refused:
        move_model(model_id=row.id, to="available")
    assert refused.value.extra["legal"] == ["deprecated", "removed"]


@pytest.mark.parametrize("state", ["available", "testing"])
def test_edits_keep_the_state(state: str, add_model: Callable[..., Any]) -> None:
    row = add_model(state=state)
    assert change_model(model_id=row.id, max_tokens=5).state == state


def test_a_removed_model_is_not_edited(add_model: Callable[..., Any]) -> None:
    row = add_model(state="deprecated")
    move_model(model_id=row.id, to="removed")
    with pytest.raises(Conflict):
        change_model(model_id=row.id, max_tokens=5)


def test_a_promised_sunset_is_kept_unless_forced(add_model: Callable[..., Any]) -> None:
    row = add_model()
    move_model(model_id=row.id, to="deprecated", sunset_at=utc_now() + timedelta(days=9))
    with pytest.raises(Conflict, match="force"):
        move_model(model_id=row.id, to="removed")
    assert move_model(model_id=row.id, to="removed", force=True).state == "removed"


def test_a_sunset_lies_ahead(add_model: Callable[..., Any]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        move_model(model_id=add_model().id, to="deprecated", sunset_at=utc_now() - timedelta(days=1))
    assert refused.value.param == "sunset_at"


def test_successors_never_make_a_circle(add_model: Callable[..., Any]) -> None:
    one, two, three = (add_model(name) for name in ("one", "two", "three"))
    move_model(model_id=one.id, to="deprecated", successor=two.id)
    move_model(model_id=two.id, to="deprecated", successor=three.id)
    for wrong in (three.id, one.id):
        with pytest.raises(InvalidRequest) as refused:
            move_model(model_id=three.id, to="deprecated", successor=wrong)
        assert refused.value.param == "successor"
    assert find_model(three.id).state == "available"


@pytest.mark.django_db(transaction=True)
def test_two_that_name_each_other_at_once_make_none_either(
    add_model: Callable[..., Any], at_once: Callable[..., list[Any]]
) -> None:
    one, two = add_model("one"), add_model("two")
    outcomes = at_once(
        lambda: move_model(model_id=one.id, to="deprecated", successor=two.id),
        lambda: move_model(model_id=two.id, to="deprecated", successor=one.id),
    )
    assert sorted(type(each).__name__ for each in outcomes) == ["EmbeddingModel", "InvalidRequest"]


def test_a_removed_model_succeeds_nobody(add_model: Callable[..., Any]) -> None:
    gone = add_model("gone", state="deprecated")
    move_model(model_id=gone.id, to="removed")
    with pytest.raises(InvalidRequest):
        move_model(model_id=add_model().id, to="deprecated", successor=gone.id)


def test_an_end_can_be_moved_and_says_so(add_model: Callable[..., Any]) -> None:
    row = add_model(state="deprecated")
    later = utc_now() + timedelta(days=30)
    assert change_sunset(model_id=row.id, sunset_at=later, reason="asked for", actor="me").sunset_at == later
    assert ModelEvent.objects.filter(kind="sunset moved", actor="me").count() == 1
    with pytest.raises(Conflict):
        change_sunset(model_id=add_model("other").id, sunset_at=later)


def test_an_erased_draft_leaves_nothing(add_model: Callable[..., Any]) -> None:
    from catalog.services import remove_model

    row = add_model(state="testing")
    remove_model(model_id=row.id)
    assert ModelEvent.objects.count() == 0
