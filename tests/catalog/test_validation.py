"""The judge of probes: what passes, and each way of failing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.equality import LEAST_COSINE, Measured, cosines, differences
from catalog.probes import all_probes, probes_for, short_probes
from catalog.validation import Claims, Question, Reading, judge, plan
from embeddings.tokens import encoding, upper_bound

CLAIMS = Claims(dimensions=16, allowed_dimensions=(), takes_dimensions=False, is_matryoshka=False, is_exact=True)
CUT = replace(CLAIMS, takes_dimensions=True, is_matryoshka=True)


def vectors(question: Question, width: int = 16) -> Any:
    """Unit vectors that depend on the text alone; a narrower one is the native one's cut."""
    rows = [np.random.default_rng(len(each.text) * 1000 + each.cl100k).standard_normal(16) for each in question.probes]
    cut = np.array(rows)[:, : question.dimensions or width]
    return (cut / np.linalg.norm(cut, axis=1, keepdims=True)).astype(np.float32)


def answered(claims: Claims) -> list[Reading]:
    """What a good model answers to all questions."""
    questions = plan(claims, all_probes())
    return [Reading(each, vectors(each), sum(probe.cl100k for probe in each.probes)) for each in questions]


def bent(claims: Claims, at: int, **words: Any) -> list[Reading]:
    """The same with one reading changed."""
    readings = answered(claims)
    readings[at] = replace(readings[at], **words)
    return readings


def test_there_are_24_texts_of_all_kinds_and_each_is_counted_right() -> None:
    probes = all_probes()
    assert len({each.name for each in probes}) == len({each.text for each in probes}) == 24
    assert {each.kind for each in probes} == {"short", "multilingual", "code", "long", "near the limit"}
    assert [each.cl100k for each in probes] == [len(encoding().encode_ordinary(each.text)) for each in probes]
    assert all(each.cl100k <= each.most_tokens == upper_bound(each.text) for each in probes)


@pytest.mark.parametrize(
    ("max_tokens", "is_exact", "longest"),
    [(512, True, 485), (512, False, 287), (2048, True, 1981), (2048, False, 1281), (8192, True, 7982), (16, True, 16)],
)
def test_a_model_gets_what_it_takes(max_tokens: int, is_exact: bool, longest: int) -> None:
    assert max(each.cl100k for each in probes_for(max_tokens, is_exact=is_exact)) == longest


def test_what_is_sent_daily_is_a_few_hundred_tokens() -> None:
    assert 200 < sum(each.cl100k for each in short_probes(8192, is_exact=True)) < 500


@pytest.mark.parametrize("claims", [CLAIMS, CUT, replace(CLAIMS, takes_dimensions=True, allowed_dimensions=(4, 8))])
def test_a_good_model_passes(claims: Claims) -> None:
    assert judge(claims, answered(claims)).failed == ()


def test_whether_it_may_be_cut_is_measured() -> None:
    assert judge(CUT, answered(CUT)).cuts == "measured"
    assert judge(CLAIMS, answered(CLAIMS)).cuts == ""
    asked = [each.question.dimensions for each in answered(CUT)]
    assert asked == [None, None, 4, 8]


def test_a_model_that_is_cut_otherwise_is_no_matryoshka() -> None:
    readings = answered(CUT)
    other = readings[2].vectors
    assert other is not None
    verdict = judge(CUT, [*readings[:2], replace(readings[2], vectors=other[:, ::-1]), readings[3]])
    assert verdict.cuts == "refuted"
    assert verdict.failed[0].probe == "4 dimensions: one word"


def test_widths_are_asked_for_up_to_six() -> None:
    many = replace(CLAIMS, dimensions=100, takes_dimensions=True, allowed_dimensions=tuple(range(1, 100)))
    asked = [each.dimensions for each in plan(many, all_probes())[2:]]
    assert (len(asked), asked[0], asked[-1]) == (6, 1, 99)


@pytest.mark.parametrize(
    ("at", "words", "probe"),
    [
        (0, {"vectors": None, "failure": "server: 500"}, "native"),
        (0, {"vectors": np.ones((23, 16), np.float32)}, "native"),
        (0, {"vectors": np.ones((24, 15), np.float32)}, "native"),
        (0, {"vectors": np.zeros((24, 16), np.float32)}, "native: one word"),
        (0, {"vectors": np.full((24, 16), np.nan, np.float32)}, "native: one word"),
        (0, {"vectors": np.full((24, 16), np.inf, np.float32)}, "native: one word"),
        (0, {"vectors": np.full((24, 16), 1e6, np.float32)}, "native: one word"),
        (0, {"vectors": np.ones((24, 16), np.float32)}, "all"),
        (0, {"tokens": 1}, "tokens"),
        (1, {"vectors": None, "failure": "timeout: too late"}, "again"),
        (1, {"vectors": np.ones((4, 16), np.float32)}, "again: a question"),
    ],
)
def test_each_fault_is_named(at: int, words: dict[str, Any], probe: str) -> None:
    assert judge(CLAIMS, bent(CLAIMS, at, **words)).failed[0].probe == probe


@pytest.mark.parametrize(("tokens", "fails"), [(None, False), (1, False), (0, True), (10**7, True)])
def test_an_unknown_tokenizer_is_held_to_its_bound(tokens: int | None, fails: bool) -> None:
    claims = replace(CLAIMS, is_exact=False)
    assert bool(judge(claims, bent(claims, 0, tokens=tokens)).failed) is fails


def measured(rows: Any) -> Measured:
    return Measured(tuple(f"p{index}" for index in range(len(rows))), np.asarray(rows, dtype=np.float32))


def turned(rows: Any, degrees: float) -> Any:
    """Each row turned by an angle towards a direction at right angles to it."""
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    aside = np.roll(rows, 1, axis=1)
    aside = aside - np.einsum("ij,ij->i", aside, rows)[:, None] * rows
    aside /= np.linalg.norm(aside, axis=1, keepdims=True)
    angle = np.radians(degrees)
    return np.cos(angle) * rows + np.sin(angle) * aside


BOUND = float(np.degrees(np.arccos(LEAST_COSINE)))
ANGLES = st.floats(0, BOUND - 0.01) | st.floats(BOUND + 0.01, 90)


@given(seed=st.integers(0, 2**32), degrees=ANGLES, length=st.floats(0.01, 100))
def test_equal_is_an_angle_below_its_bound_whatever_the_length(seed: int, degrees: float, length: float) -> None:
    rows = np.random.default_rng(seed).standard_normal((8, 12))
    found = differences(measured(rows), measured(turned(rows, degrees) * length), "it")
    assert len(found) == (0 if degrees < BOUND else 8)


def test_five_degrees_are_another_space() -> None:
    rows = np.random.default_rng(1).standard_normal((8, 1536))
    assert len(differences(measured(rows), measured(turned(rows, 5)), "it")) == 8


def test_one_probe_that_differs_is_enough() -> None:
    rows = np.random.default_rng(1).standard_normal((8, 12))
    other = rows.copy()
    other[3] = -other[3]
    [found] = differences(measured(rows), measured(other), "it")
    assert (found.probe, found.got) == ("p3", "-1.0000")


def test_a_narrower_model_is_compared_with_the_cut() -> None:
    rows = np.random.default_rng(1).standard_normal((8, 12))
    assert differences(measured(rows), measured(rows[:, :6]), "it") == []
    assert differences(measured(rows[:, :6]), measured(rows), "it")[0].got == "12"


def test_too_few_texts_in_common_prove_nothing() -> None:
    rows = np.random.default_rng(1).standard_normal((8, 12))
    few = measured(rows[:5])
    assert differences(measured(rows), few, "it")[0].got == "5 in common"


def test_a_vector_that_is_none_is_like_nothing() -> None:
    assert cosines(np.zeros((1, 3), np.float32), np.ones((1, 3), np.float32)).tolist() == [-1.0]
