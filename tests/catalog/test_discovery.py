"""What a list of models means: the pure difference."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.discovery import Change, Facts, Garbage, Kind, Known, checked, compare, embeds
from providers.base import ListedModel

TODAY = date(2026, 11, 25)
ROW = Known("id-1", "embed-1", "embed-1", "available", 8, 100, missed=0, was_listed=True)
LISTED = ListedModel("embed-1")


def diff(*listed: ListedModel, known: tuple[Known, ...] = (ROW,), ignored: Any = (), **facts: Facts) -> list[Change]:
    found = checked(listed, is_expected=False)
    return list(compare(found, known, facts, ignored=ignored, today=TODAY).changes)


@pytest.mark.parametrize(
    ("identifier", "expected"),
    [
        ("text-embedding-3-small", True),
        ("amazon.titan-embed-text-v2:0", True),
        ("BAAI/bge-m3", True),
        ("intfloat/e5-mistral-7b-instruct", True),
        ("sentence-transformers/all-MiniLM-L6-v2", True),
        ("gpt-5", False),
        ("whisper-large", False),
        ("BAAI/bge-reranker-v2-m3", False),
        ("the-best-e500", False),
    ],
)
def test_names_tell_which_models_embed(identifier: str, expected: bool) -> None:
    assert embeds(identifier) is expected


def test_a_list_that_is_known_is_no_news() -> None:
    assert diff(LISTED, ListedModel("gpt-9")) == []


def test_a_new_model_comes_with_what_is_known_of_it() -> None:
    fact = Facts(dimensions=16, max_tokens=512, usd_per_million=Decimal("0.1"), source="snapshot")
    [change] = compare(
        checked([LISTED, ListedModel("embed-2", "Embed 2", None, 600)], is_expected=True),
        [ROW],
        {"embed-2": fact},
        ignored=(),
        today=TODAY,
    ).changes
    assert (change.key, change.waits) == ("new:embed-2", "")
    assert change.now == {
        "name": "Embed 2",
        "dimensions": 16,
        "max_tokens": 600,
        "usd_per_million": "0.1",
        "price_source": "snapshot",
    }


@pytest.mark.parametrize(
    ("model", "known", "waits"),
    [
        (ListedModel("embed-2"), ROW, "its width is not known"),
        (ListedModel("embed-2", dimensions=8), replace(ROW, name="embed-2"), "another row has this name"),
        (ListedModel("embed-2", dimensions=8, is_deprecated=True), ROW, "the vendor is retiring it"),
    ],
)
def test_what_cannot_be_registered_alone_waits(model: ListedModel, known: Known, waits: str) -> None:
    [change] = diff(LISTED, model, known=(known,))
    assert change.waits.startswith(waits)


def test_an_ignored_model_is_not_offered_again() -> None:
    assert diff(LISTED, ListedModel("embed-2"), ignored=["embed-2"]) == []


@pytest.mark.parametrize(("state", "waits"), [("draft", ""), ("testing", ""), ("available", "its vectors would be")])
def test_a_changed_width_never_changes_a_released_row(state: str, waits: str) -> None:
    [change] = diff(replace(LISTED, dimensions=16), known=(replace(ROW, state=state),))
    assert (change.kind, change.was, change.now) == (Kind.CHANGED, {"dimensions": 8}, {"dimensions": 16})
    assert change.waits.startswith(waits)
    assert bool(change.waits) is bool(waits)


@pytest.mark.parametrize(("missed", "kinds"), [(0, []), (1, []), (2, [Kind.GONE]), (3, [Kind.GONE])])
def test_gone_is_who_was_missed_three_times_in_a_row(missed: int, kinds: list[Kind]) -> None:
    other = replace(ROW, model_id="id-2", identifier="embed-2", name="embed-2")
    found = compare(
        checked([ListedModel("embed-2")], is_expected=True),
        [replace(ROW, missed=missed), other],
        {},
        ignored=(),
        today=TODAY,
    )
    assert [each.kind for each in found.changes] == kinds
    assert (found.listed, found.missed) == ({"id-2"}, {"id-1"})


def test_what_was_never_listed_is_not_missed() -> None:
    found = compare({}, [replace(ROW, was_listed=False, missed=5)], {}, ignored=(), today=TODAY)
    assert (found.changes, found.missed) == ((), frozenset())


def test_an_inference_profile_is_its_model() -> None:
    row = replace(ROW, identifier="us.cohere.embed-v4:0", missed=2)
    assert diff(ListedModel("cohere.embed-v4:0", dimensions=8), known=(row,))[-1].kind is Kind.NEW
    found = compare(checked([ListedModel("cohere.embed-v4:0")], is_expected=True), [row], {}, ignored=(), today=TODAY)
    assert found.listed == {"id-1"}


@pytest.mark.parametrize(
    ("listing", "ends_on", "expected"),
    [
        (replace(LISTED, is_deprecated=True), None, {"ends_on": None}),
        (LISTED, date(2027, 3, 1), {"ends_on": "2027-03-01"}),
        (replace(LISTED, is_deprecated=True), date(2028, 3, 1), {"ends_on": "2028-03-01"}),
        (LISTED, date(2026, 11, 1), {"ends_on": None}),
    ],
)
def test_an_end_is_news_when_the_vendor_says_so_or_it_is_near(
    listing: ListedModel, ends_on: date | None, expected: dict[str, Any]
) -> None:
    found = compare({"embed-1": listing}, [ROW], {"embed-1": Facts(ends_on=ends_on)}, ignored=["embed-1"], today=TODAY)
    [change] = found.changes
    assert (change.kind, change.now) == (Kind.DEPRECATED, expected)


def test_an_end_in_a_year_is_no_news() -> None:
    facts = {"embed-1": Facts(ends_on=date(2028, 2, 9))}
    assert compare({"embed-1": LISTED}, [ROW], facts, ignored=(), today=TODAY).changes == ()


@pytest.mark.parametrize(
    "listed",
    [
        [],
        [ListedModel("with a space")],
        [ListedModel("")],
        [ListedModel("x" * 201)],
        [ListedModel(None)],  # type: ignore[arg-type]  # SDKs check little
        [ListedModel(7)],  # type: ignore[arg-type]
        [ListedModel("embed\x00")],
        [ListedModel("embed", dimensions=0)],
        [ListedModel("embed", dimensions=10**9)],
        [ListedModel(f"embed-{index}") for index in range(20_001)],
    ],
)
def test_garbage_is_refused_as_a_whole(listed: list[ListedModel]) -> None:
    with pytest.raises(Garbage):
        checked([*listed, *([ListedModel("embed-good")] if listed else [])], is_expected=True)


names = st.from_regex(r"[a-z]{1,3}-embed-[0-9]{1,2}", fullmatch=True)


@given(listed=st.sets(names), held=st.sets(names), missed=st.integers(0, 5))
def test_every_row_is_listed_or_missed_and_every_other_model_is_new(
    listed: set[str], held: set[str], missed: int
) -> None:
    rows = [replace(ROW, model_id=name, identifier=name, name=name, missed=missed) for name in sorted(held)]
    found = compare({name: ListedModel(name) for name in listed}, rows, {}, ignored=(), today=TODAY)
    assert (found.listed, found.missed) == (held & listed, held - listed)
    assert {each.identifier for each in found.changes if each.kind is Kind.NEW} == listed - held
    gone = {each.identifier for each in found.changes if each.kind is Kind.GONE}
    assert gone == (held - listed if missed >= 2 else set())


@given(listed=st.sets(names))
def test_what_was_applied_is_no_news_the_next_time(listed: set[str]) -> None:
    rows = [replace(ROW, model_id=name, identifier=name, name=name) for name in listed]
    assert compare({name: ListedModel(name) for name in listed}, rows, {}, ignored=(), today=TODAY).changes == ()
