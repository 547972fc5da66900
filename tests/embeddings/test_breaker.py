"""The rules of a route's breaker: when it opens, probes, closes, and what it never takes for ill health."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embeddings import breaker as rules
from embeddings.breaker import GO, Breaker, Force, Outcome, Report, Settings, State, Verdict

SETTINGS = Settings()
NOW = 1_800_000_000_000
PERMITS = st.sampled_from(["", "a", "b", "c"])


def reported(breaker: Breaker, *outcomes: Outcome, at: int = NOW, ms: float = 20, **words: object) -> Breaker:
    """After calls that ended in this order, a millisecond apart."""
    for number, outcome in enumerate(outcomes):
        breaker = rules.after(breaker, Report(at + number, ms, outcome, **words), SETTINGS)
    return breaker


def verdict(breaker: Breaker, now: int, force: Force | None = None) -> Verdict:
    return rules.admission(breaker, force, now, SETTINGS).verdict


def opened(at: int = NOW) -> Breaker:
    return reported(Breaker(), *[Outcome.FAILED] * 10, at=at)


def half_open(at: int = NOW + 5_009) -> Breaker:
    found = rules.leased(opened(), "a", at, SETTINGS)
    assert found is not None
    return found


def test_a_few_failures_are_not_enough_to_judge_by():
    assert verdict(reported(Breaker(), *[Outcome.FAILED] * 9), NOW + 9) is Verdict.GO


def test_it_opens_when_the_share_of_failures_is_reached_and_says_why():
    breaker = reported(Breaker(), *[Outcome.OK, Outcome.FAILED] * 5)
    assert breaker.state is State.OPEN
    assert breaker.reason == "5 of the last 10 calls failed"
    refused = rules.admission(breaker, None, NOW + 9, SETTINGS)
    assert (refused.verdict, refused.retry_after_s, refused.reason) == (Verdict.NOT_NOW, 5.0, breaker.reason)


def test_a_dead_provider_costs_the_minimum_of_calls_however_well_it_was():
    well = reported(Breaker(), *[Outcome.OK] * 50)
    assert reported(well, *[Outcome.FAILED] * 9, at=NOW + 60).state is State.CLOSED
    assert reported(well, *[Outcome.FAILED] * 10, at=NOW + 60).reason == "the last 10 calls failed"


def test_calls_of_one_moment_stay_in_the_order_they_were_told():
    breaker = Breaker()
    for outcome in [*[Outcome.OK] * 40, *[Outcome.FAILED] * 9, Outcome.OK, Outcome.FAILED]:
        breaker = rules.after(breaker, Report(NOW, 20, outcome), SETTINGS)
    assert breaker.state is State.CLOSED  # not the newest ten: a good one was among them


def test_slow_calls_open_it_as_well():
    breaker = reported(Breaker(), *[Outcome.OK] * 10, ms=SETTINGS.slow_ms + 1)
    assert breaker.reason == "10 of the last 10 calls were slow"


def test_old_calls_do_not_count():
    nine = reported(Breaker(), *[Outcome.FAILED] * 9)
    late = reported(nine, Outcome.FAILED, at=NOW + SETTINGS.window_ms + 9)
    assert (late.state, len(late.window)) == (State.CLOSED, 1)


def test_a_call_that_began_before_it_closed_is_not_counted():
    closed = reported(half_open(), Outcome.OK, at=NOW + 6_000, permit="a")
    for permit in ("b", "c"):
        closed = rules.leased(closed, permit, NOW + 6_001, SETTINGS) or closed
        closed = reported(closed, Outcome.OK, at=NOW + 6_002, permit=permit)
    assert closed.state is State.CLOSED
    assert reported(closed, Outcome.FAILED, at=NOW + 7_000, ms=5_000) == closed
    assert reported(closed, Outcome.FAILED, at=NOW + 7_000, ms=10) != closed


def test_half_open_lets_so_many_probes_go_at_once():
    one = half_open()
    two = rules.leased(one, "b", NOW + 5_010, SETTINGS)
    assert verdict(one, NOW + 5_010) is Verdict.ASK
    assert two is not None
    assert rules.leased(two, "c", NOW + 5_010, SETTINGS) is None
    assert verdict(two, NOW + 5_010) is Verdict.NOT_NOW


def test_leases_run_out_so_that_a_dead_process_blocks_nothing():
    two = rules.leased(half_open(), "b", NOW + 5_010, SETTINGS)
    later = NOW + 5_010 + SETTINGS.lease_ms
    assert two is not None
    assert verdict(two, later) is Verdict.ASK
    third = rules.leased(two, "c", later, SETTINGS)
    assert third is not None
    assert [lease.permit for lease in third.probes] == ["c"]
    assert reported(third, Outcome.FAILED, at=later, permit="a") == third  # a probe that nobody waits for any more


@pytest.mark.parametrize(("outcome", "ms"), [(Outcome.FAILED, 1), (Outcome.OK, SETTINGS.slow_ms + 1)])
def test_a_bad_probe_opens_it_again_for_longer(outcome, ms):
    again = reported(half_open(), outcome, at=NOW + 6_000, ms=ms, permit="a")
    assert (again.state, again.until - again.changed_at) == (State.OPEN, 2 * SETTINGS.open_ms)


def test_a_healthy_spell_makes_the_next_opening_short_again():
    closed = Breaker(repeats=4, changed_at=NOW)
    soon = opened_from(closed, NOW + SETTINGS.healthy_ms - 100)
    late = opened_from(closed, NOW + SETTINGS.healthy_ms)
    assert (soon.repeats, late.repeats) == (5, 1)


def opened_from(closed: Breaker, at: int) -> Breaker:
    return reported(closed, *[Outcome.FAILED] * 10, at=at)


def test_open_times_double_up_to_the_most():
    times = [rules.open_time(n, SETTINGS) for n in (1, 2, 3, 4, 5, 6, 100)]
    assert times == [5_000, 10_000, 20_000, 40_000, 80_000, 120_000, 120_000]


@pytest.mark.parametrize(
    ("asked_ms", "waits_ms"),
    [(None, 1_000), (0, 0), (-5, 0), (1_000, 1_000), (3_600_000, 300_000), (float("inf"), 300_000)],
)
def test_no_capacity_is_not_now_and_not_ill_health(asked_ms, waits_ms):
    breaker = rules.after(Breaker(), Report(NOW, 5, Outcome.CAPACITY, asked_ms), SETTINGS)
    assert (breaker.state, breaker.window, breaker.capacity_until) == (State.CLOSED, (), NOW + waits_ms)
    assert verdict(breaker, NOW + waits_ms) is Verdict.GO
    assert verdict(breaker, NOW + waits_ms - 1) is Verdict.NOT_NOW


def test_a_shorter_pause_does_not_shorten_a_longer_one():
    long = rules.after(Breaker(), Report(NOW, 5, Outcome.CAPACITY, 60_000), SETTINGS)
    assert rules.after(long, Report(NOW + 1, 5, Outcome.CAPACITY, 1_000), SETTINGS) == long


@pytest.mark.parametrize("outcome", [Outcome.CALLER, Outcome.CAPACITY])
def test_a_probe_that_tells_nothing_of_health_gives_its_permit_back(outcome):
    after = reported(half_open(), outcome, at=NOW + 6_000, permit="a")
    assert (after.state, after.probes, after.successes) == (State.HALF_OPEN, (), 0)


def test_an_operators_force_lies_over_everything_but_capacity():
    assert verdict(Breaker(), NOW, Force.OPEN) is Verdict.NOT_NOW
    assert verdict(opened(), NOW + 9, Force.CLOSED) is Verdict.GO
    full = rules.after(opened(), Report(NOW + 9, 5, Outcome.CAPACITY), SETTINGS)
    assert verdict(full, NOW + 9, Force.CLOSED) is Verdict.NOT_NOW


def test_the_most_precise_force_wins():
    forces = {"openai|*": Force.OPEN, "openai|*|small|*": Force.CLOSED, "openai|c1|small|": Force.OPEN}
    assert rules.force_on("openai|c1|small|", forces) is Force.OPEN
    assert rules.force_on("openai|c2|small|", forces) is Force.CLOSED
    assert rules.force_on("openai|c2|large|", forces) is Force.OPEN
    assert rules.force_on("cohere|c2|large|", forces) is None


@pytest.mark.parametrize("wrong", [{"minimum_calls": 51}, {"probes": 0}, {"failure_rate": 0.0}, {"slow_rate": 1.5}])
def test_settings_that_contradict_each_other_are_refused(wrong):
    with pytest.raises(ValueError):
        Settings(**wrong)


EASY = Settings(window_calls=8, minimum_calls=3)  # so that short lives see everything
REPORTS = st.builds(
    Report,
    at=st.integers(NOW, NOW + 200_000),
    ms=st.sampled_from([1.0, 500.0, 20_000.0]),
    outcome=st.sampled_from(Outcome),
    retry_after_ms=st.one_of(st.none(), st.floats(0, 1e9)),
    permit=PERMITS,
)
STEPS = st.lists(st.one_of(REPORTS, st.tuples(PERMITS, st.integers(NOW, NOW + 200_000))), max_size=40)


def walked(steps: list[object]) -> list[Breaker]:
    """Every value on the way."""
    found = [Breaker()]
    for step in steps:
        if isinstance(step, Report):
            found.append(rules.after(found[-1], step, EASY))
        else:
            found.append(rules.leased(found[-1], step[0] or "d", step[1], EASY) or found[-1])
    return found


@given(STEPS)
def test_whatever_happens_it_stays_within_its_bounds(steps):
    for breaker in walked(steps):
        assert len(breaker.window) <= EASY.window_calls
        assert [mark.at for mark in breaker.window] == sorted(mark.at for mark in breaker.window)
        assert len(breaker.probes) <= EASY.probes
        assert breaker.successes < EASY.successes
        assert breaker.until <= NOW + 200_000 + EASY.open_most_ms
        assert (breaker.state is State.CLOSED) >= bool(breaker.window)
        assert (breaker.state is State.HALF_OPEN) >= bool(breaker.probes or breaker.successes)
        assert not (breaker.state is State.CLOSED and breaker.until)


@given(STEPS)
def test_states_follow_each_other_along_the_edges_and_forwards_in_time(steps):
    edges = {(State.CLOSED, State.OPEN), (State.OPEN, State.HALF_OPEN)}
    edges |= {(State.HALF_OPEN, State.OPEN), (State.HALF_OPEN, State.CLOSED)}
    found = walked(steps)
    for old, new in pairwise(found):
        assert (old.state, new.state) in edges or old.state is new.state
        assert (old.changed_at < new.changed_at) == (old.state is not new.state)


@given(STEPS, st.integers(NOW, NOW + 500_000))
def test_in_the_end_it_can_always_be_asked(steps, now):
    breaker = walked(steps)[-1]
    much_later = now + 200_000 + EASY.capacity_most_ms + EASY.open_most_ms + EASY.lease_ms
    admission = rules.admission(breaker, None, much_later, EASY)
    assert admission is GO if breaker.state is State.CLOSED else admission.verdict is Verdict.ASK
    assert (rules.leased(breaker, "new", much_later, EASY) is not None) == (admission is not GO)


@given(STEPS, st.integers(NOW, NOW + 200_000))
def test_what_may_not_go_now_may_be_asked_for_when_it_was_told(steps, now):
    breaker = walked(steps)[-1]
    admission = rules.admission(breaker, None, now, EASY)
    asked_at = now + round(admission.retry_after_s * 1000)
    again = rules.admission(breaker, None, asked_at, EASY)
    assert again.verdict is not Verdict.NOT_NOW or again.reason != admission.reason or breaker.probes


@given(STEPS)
def test_callers_faults_change_nothing(steps):
    breaker = walked(steps)[-1]
    assert rules.after(breaker, Report(NOW + 1, 5, Outcome.CALLER), EASY) is breaker


@given(STEPS, STEPS)
def test_joining_keeps_the_later_state_whoever_joins(left, right):
    a, b = walked(left)[-1], walked(right)[-1]
    ab, ba = rules.joined(a, b), rules.joined(b, a)
    assert rules.joined(a, a) == a
    assert ab.changed_at == ba.changed_at == max(a.changed_at, b.changed_at)
    assert ab.capacity_until == ba.capacity_until
    if a.changed_at != b.changed_at:
        assert (ab.state, ab.until, ab.probes) == (ba.state, ba.until, ba.probes)


@given(STEPS)
def test_what_is_written_reads_back_the_same(steps):
    breaker = walked(steps)[-1]
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(breaker), type=Breaker) == breaker
