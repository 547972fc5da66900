"""At which parts of a limit somebody is told: once each, the highest alone, ended when it is over."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.thresholds import Verdict, is_crossed, judge, kind_of, thresholds_of

DEFAULT = (80, 90, 95, 100)
AMOUNTS = st.integers(0, 10**15)
PERCENTS = st.sets(st.integers(1, 100), max_size=8)
STEPS = st.lists(st.tuples(AMOUNTS, AMOUNTS), max_size=30)


class Period:
    """One period of one limit, as the alerts of it would be kept."""

    def __init__(self, thresholds: set[int]) -> None:
        self.thresholds = thresholds
        self.told: list[int] = []
        self.resolved: set[int] = set()

    def look(self, *, amount: int, used: int) -> Verdict:
        verdict = judge(amount=amount, used=used, thresholds=self.thresholds, told=self.told, resolved=self.resolved)
        self.told += [] if verdict.tell is None else [verdict.tell]
        self.resolved = (self.resolved | set(verdict.cleared)) - set(verdict.returned)
        return verdict


@given(PERCENTS, STEPS)
def test_no_threshold_is_told_twice_whatever_happens(thresholds: set[int], steps: list[tuple[int, int]]) -> None:
    period = Period(thresholds)
    for amount, used in steps:
        period.look(amount=amount, used=used)
    assert len(period.told) == len(set(period.told)) <= len(thresholds)
    assert set(period.told) <= thresholds


@given(PERCENTS, STEPS)
def test_what_is_open_is_what_is_crossed_of_what_was_told(thresholds: set[int], steps: list[tuple[int, int]]) -> None:
    period = Period(thresholds)
    for amount, used in steps:
        period.look(amount=amount, used=used)
        is_open = set(period.told) - period.resolved
        assert is_open == {each for each in period.told if is_crossed(each, amount=amount, used=used)}


@given(PERCENTS, AMOUNTS, AMOUNTS)
def test_looking_again_says_nothing_new(thresholds: set[int], amount: int, used: int) -> None:
    period = Period(thresholds)
    period.look(amount=amount, used=used)
    assert period.look(amount=amount, used=used) == Verdict(None)


@given(PERCENTS, AMOUNTS, AMOUNTS)
def test_the_first_look_tells_the_highest_and_covers_the_rest(thresholds: set[int], amount: int, used: int) -> None:
    crossed = sorted(each for each in thresholds if is_crossed(each, amount=amount, used=used))
    verdict = Period(thresholds).look(amount=amount, used=used)
    told = [*verdict.covered, *([] if verdict.tell is None else [verdict.tell])]
    assert told == crossed
    assert (verdict.cleared, verdict.returned) == ((), ())


@given(PERCENTS, AMOUNTS, st.lists(AMOUNTS, min_size=1, max_size=20))
def test_while_use_only_grows_everything_crossed_was_told_or_covered(
    thresholds: set[int], amount: int, uses: list[int]
) -> None:
    period = Period(thresholds)
    heard: set[int] = set()
    for used in sorted(uses):
        verdict = period.look(amount=amount, used=used)
        heard |= {*verdict.covered, *([] if verdict.tell is None else [verdict.tell])}
        assert verdict.cleared == ()
    assert heard == {each for each in thresholds if is_crossed(each, amount=amount, used=max(uses))}


@pytest.mark.parametrize(
    ("amount", "used", "percents"),
    [
        (1000, 799, []),
        (1000, 800, [80]),
        (1000, 999, [80, 90, 95]),
        (1000, 1000, [80, 90, 95, 100]),
        (1000, 5000, [80, 90, 95, 100]),
        (3, 2, []),
        (0, 0, []),
        (0, 1, [80, 90, 95, 100]),
    ],
)
def test_crossing_is_reaching(amount: int, used: int, percents: list[int]) -> None:
    assert [each for each in DEFAULT if is_crossed(each, amount=amount, used=used)] == percents


def test_a_raised_limit_clears_and_a_lowered_one_brings_back() -> None:
    period = Period(set(DEFAULT))
    assert period.look(amount=100, used=96) == Verdict(tell=95, covered=(80, 90))
    assert period.look(amount=200, used=96) == Verdict(None, cleared=(95,))
    assert period.look(amount=100, used=96) == Verdict(None, returned=(95,))
    assert period.look(amount=100, used=100) == Verdict(tell=100)


@pytest.mark.parametrize(
    ("own", "is_hard", "expected"),
    [
        ((), True, DEFAULT),
        ((50,), False, (50,)),
        ((50,), True, (50, 100)),
        ((100, 20), True, (20, 100)),
    ],
)
def test_the_limits_own_come_before_the_tenants(own: tuple[int, ...], is_hard: bool, expected: tuple[int, ...]) -> None:
    assert thresholds_of(own, DEFAULT, is_hard=is_hard) == expected


@pytest.mark.parametrize(
    ("measure", "threshold", "kind"),
    [
        ("tokens", 99, "quota_warning"),
        ("requests", 100, "quota_exceeded"),
        ("usd", 80, "budget_warning"),
        ("usd", 100, "budget_exceeded"),
    ],
)
def test_kinds(measure: str, threshold: int, kind: str) -> None:
    assert kind_of(measure, threshold) == kind
