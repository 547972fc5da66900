"""The retry budget, and the pause before a retry."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embeddings.retrying import MOST_WAIT_S, PAUSE_S, WINDOW_S, Retries, pause
from providers.failures import MEANING, FailureKind, ProviderFailure


def rich() -> Retries:
    """A budget that ten requests at 0 s have paid one retry into."""
    budget = Retries()
    for _ in range(10):
        budget.request(0.0)
    return budget


def wait(kind: FailureKind = FailureKind.SERVER, budget: Retries | None = None, **words: object) -> float | None:
    facts = {"earlier_retries": 0, "now": 1.0, "deadline": 31.0, "chance": 0.5}
    failure = ProviderFailure(kind, "as told", retry_after=words.pop("retry_after", None))
    return pause(failure, budget or rich(), **{**facts, **words})


def test_ten_requests_pay_for_one_retry():
    budget = rich()
    assert [budget.allow(1.0), budget.allow(1.0)] == [True, False]


def test_requests_of_long_ago_pay_for_none():
    assert not rich().allow(WINDOW_S + 1)


@pytest.mark.parametrize("kind", FailureKind)
def test_only_what_another_try_may_help_is_retried(kind):
    assert (wait(kind) is not None) == MEANING[kind].retry_same


@given(st.floats(0, 1, exclude_max=True))
def test_the_pause_is_any_part_of_the_whole(chance):
    assert wait(chance=chance) == chance * PAUSE_S


def test_the_providers_own_pause_is_kept_or_the_route_left():
    assert wait(FailureKind.CAPACITY, retry_after=1.0) == 1.0 + 0.5 * PAUSE_S
    assert wait(FailureKind.CAPACITY, retry_after=MOST_WAIT_S) is None


@pytest.mark.parametrize("reason", [{"earlier_retries": 1}, {"deadline": 1.1}, {"retry_after": 60.0}])
def test_a_retry_that_is_not_made_costs_nothing(reason):
    budget = rich()
    assert wait(budget=budget, **reason) is None
    assert budget.statistics()["retries"] == 0


@given(st.lists(st.tuples(st.sampled_from(["request", "retry"]), st.floats(0, 30)), max_size=300))
def test_retries_are_a_tenth_of_requests_in_every_window_and_of_all(steps):
    budget, now = Retries(), 0.0
    requests: list[float] = []
    retries: list[float] = []
    for what, later in steps:
        now += later
        if what == "request":
            budget.request(now)
            requests.append(now)
        elif budget.allow(now):
            retries.append(now)
            recent = now - WINDOW_S - 1  # whole seconds are forgotten
            assert sum(at > now - WINDOW_S for at in retries) * 10 <= sum(at > recent for at in requests)
        assert len(retries) * 10 <= len(requests)


@given(st.lists(st.floats(0, 1e6), max_size=400))
def test_its_memory_is_bounded(moments):
    budget = Retries()
    for now in sorted(moments):
        budget.request(now)
    assert len(budget._seconds) <= WINDOW_S + 2
