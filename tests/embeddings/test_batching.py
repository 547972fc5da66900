"""Which texts share the next call: on a simulated clock, against the promises of `embeddings.batching`."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embeddings.batching import Batch, Job, Lane, Queue

NEVER = float("inf")


@dataclass
class Desk:
    """A queue with what went through it."""

    queue: Queue[Job]
    jobs: list[Job] = field(default_factory=list)
    sent: list[Batch[Job]] = field(default_factory=list)
    running: list[Batch[Job]] = field(default_factory=list)

    def add(self, lane: Lane, tenant: str, *counts: int, at: float = 0.0) -> Job:
        job = Job(lane, tenant, counts or (1,), at)
        self.queue.add(job)
        self.jobs.append(job)
        return job

    def pump(self, now: float) -> float:
        """Starts what can be started; the time to come again."""
        while isinstance(decision := self.queue.next_batch(now), Batch):
            self.sent.append(decision)
            self.running.append(decision)
        return NEVER if decision is None else decision

    def finish(self, index: int = 0) -> None:
        self.queue.finished(self.running.pop(index))

    def drain(self, now: float) -> None:
        while self.running or self.queue.jobs:
            self.pump(now)
            self.finish()

    def tenants(self) -> list[str]:
        return [batch.pieces[0].job.tenant for batch in self.sent]

    def sizes(self) -> list[list[int]]:
        return [[piece.stop - piece.start for piece in batch.pieces] for batch in self.sent]


def desk(slots: int = 1) -> Desk:
    return Desk(Queue(slots))


def lane(*, items: int = 100, tokens: int = 1000, window_s: float = 0.0, mixes: bool = False) -> Lane:
    return Lane(items, tokens, window_s, mixes)


# --- when


def test_who_is_alone_goes_at_once():
    at, of = desk(), lane(window_s=0.1)
    at.add(of, "acme")
    at.pump(now=0.0)
    assert at.sizes() == [[1]]


def test_texts_gather_while_their_tenant_has_a_call_under_way_for_the_window_at_most():
    at, of = desk(slots=8), lane(window_s=0.1)
    at.add(of, "acme")
    at.pump(now=0.0)
    at.add(of, "acme", at=0.01)
    at.add(of, "acme", at=0.05)
    assert at.pump(now=0.05) == pytest.approx(0.11)  # a slot is free, but the window of the first has not passed
    assert at.sizes() == [[1]]
    at.pump(now=0.11)
    assert at.sizes() == [[1], [1, 1]]


def test_what_gathered_goes_as_soon_as_the_call_before_it_is_back():
    at, of = desk(slots=8), lane(window_s=0.1)
    at.add(of, "acme")
    at.pump(now=0.0)
    at.add(of, "acme", at=0.01)
    at.add(of, "acme", at=0.01)
    at.pump(now=0.01)
    at.finish()
    at.pump(now=0.02)
    assert at.sizes() == [[1], [1, 1]]


def test_a_full_call_waits_for_no_window():
    at, of = desk(slots=8), lane(items=3, window_s=0.1)
    at.add(of, "acme")
    at.pump(now=0.0)
    at.add(of, "acme", 1, 1, at=0.0)
    at.pump(now=0.0)
    at.add(of, "acme", at=0.0)
    at.pump(now=0.0)
    assert at.sizes() == [[1], [2, 1]]


def test_one_tenants_calls_make_no_other_tenant_wait_for_a_window():
    at, of = desk(slots=8), lane(window_s=0.1)
    at.add(of, "acme")
    at.pump(now=0.0)
    at.add(of, "globex", at=0.0)
    at.pump(now=0.0)
    assert at.tenants() == ["acme", "globex"]


def test_without_a_free_slot_nothing_goes_whatever_the_window():
    at, of = desk(slots=1), lane(window_s=0.1)
    at.add(of, "acme")
    at.pump(now=0.0)
    at.add(of, "globex", at=0.0)
    assert at.pump(now=5.0) == NEVER
    assert at.tenants() == ["acme"]


# --- what


def test_a_call_carries_texts_of_one_tenant():
    at, of = desk(), lane()
    at.add(of, "acme")
    at.pump(now=0.0)
    for tenant in ("acme", "globex", "acme", "globex"):
        at.add(of, tenant)
    at.drain(now=0.0)
    assert [{piece.job.tenant for piece in batch.pieces} for batch in at.sent] == [{"acme"}, {"acme"}, {"globex"}]


def test_a_lane_that_mixes_fills_the_call_with_other_tenants_texts():
    at, of = desk(), lane(mixes=True)
    at.add(of, "acme")
    at.pump(now=0.0)
    for tenant in ("acme", "globex", "mallory"):
        at.add(of, tenant)
    at.drain(now=0.0)
    assert at.sizes() == [[1], [1, 1, 1]]


def test_lanes_are_never_mixed():
    at, one, other = desk(), lane(mixes=True), lane(mixes=True)
    at.add(one, "acme")
    at.pump(now=0.0)
    at.add(one, "acme")
    at.add(other, "acme")
    at.drain(now=0.0)
    assert [batch.lane for batch in at.sent] == [one, one, other]


def test_a_job_larger_than_a_call_is_cut_in_order():
    at = desk()
    job = at.add(lane(items=4), "acme", *[1] * 10)
    at.drain(now=0.0)
    cuts = [(piece.start, piece.stop) for batch in at.sent for piece in batch.pieces]
    assert cuts == [(0, 4), (4, 8), (8, 10)]
    assert not job.waiting


def test_a_text_above_the_cap_of_a_call_goes_alone():
    at = desk()
    at.add(lane(tokens=10), "acme", 4, 25, 4)
    at.drain(now=0.0)
    assert at.sizes() == [[1], [1], [1]]


def test_an_ingest_does_not_hold_up_its_own_tenants_queries():
    at, of = desk(), lane(items=100)
    at.add(of, "acme", *[1] * 2048)
    at.pump(now=0.0)
    query = at.add(of, "acme", 1)
    at.finish()
    at.pump(now=0.0)
    assert not query.waiting
    assert sum(at.sizes()[1]) == 100  # and the call is full all the same


def test_what_is_withdrawn_is_not_sent():
    at, of = desk(), lane(items=2)
    at.add(of, "acme", 1, 1)
    at.pump(now=0.0)
    gone = at.add(of, "acme", 1, 1, 1)
    kept = at.add(of, "acme", 1)
    at.queue.withdraw(gone)
    at.queue.withdraw(gone)  # does nothing more
    at.drain(now=0.0)
    assert (gone.waiting, kept.waiting) == (3, 0)
    assert at.sizes() == [[2], [1]]


# --- whose turn


def test_a_single_text_waits_for_one_call_of_each_other_tenant_at_most():
    at, of = desk(), lane(items=10)
    for tenant in ("acme", "globex"):
        at.add(of, tenant, *[1] * 500)
    at.pump(now=0.0)
    at.add(of, "mallory")
    at.drain(now=0.0)
    assert at.tenants().index("mallory") <= 3


def test_many_lanes_are_no_way_to_more_turns():
    at = desk()
    for _ in range(20):
        at.add(lane(items=10), "acme", *[1] * 50)
    at.pump(now=0.0)
    at.add(lane(items=10), "globex")
    at.drain(now=0.0)
    assert at.tenants().index("globex") <= 2


def test_who_sends_little_goes_at_every_turn_and_who_fills_calls_pays_for_it_in_turns():
    at, of = desk(), lane(items=100)
    at.add(of, "acme", *[1] * 10_000)
    for _ in range(90):
        at.add(of, "globex", *[1] * 10)
        at.pump(now=0.0)
        at.add(of, "globex")  # there is always one more
        at.finish()
    assert 8 <= at.tenants().count("acme") <= 14  # an eighth of the turns, for about as many texts


@given(st.lists(st.integers(1, 40), min_size=2, max_size=5), st.data())
@settings(max_examples=50, deadline=None)
def test_under_lasting_load_all_get_the_same_in_tokens(sizes: list[int], data: st.DataObject) -> None:
    """Tenants whose texts have different sizes: over 120 calls nobody gets more than two calls' worth above another."""
    at, of = desk(slots=data.draw(st.integers(1, 4))), lane(items=50, tokens=500)
    for number, size in enumerate(sizes):
        at.add(of, f"t{number}", *[size] * 6_000)
    while len(at.sent) < 120:
        at.pump(now=0.0)
        at.finish()
    got = dict.fromkeys((f"t{number}" for number in range(len(sizes))), 0.0)
    for batch in at.sent:
        piece = batch.pieces[0]
        got[piece.job.tenant] += of.price(piece.stop - piece.start, sum(piece.job.counts[piece.start : piece.stop]))
    assert max(got.values()) - min(got.values()) <= 2 * of.price(50, 0)


# --- always

tenants = st.sampled_from(["acme", "globex", "mallory"])
counts = st.lists(st.integers(1, 120), min_size=1, max_size=30)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 2), tenants, counts),
        st.tuples(st.just("withdraw"), st.integers(0, 50)),
        st.tuples(st.just("finish"), st.integers(0, 50)),
        st.tuples(st.just("wait"), st.floats(0, 0.2)),
    ),
    max_size=60,
)


@given(st.integers(1, 4), st.floats(0, 0.1), st.booleans(), steps)
@settings(max_examples=150, deadline=None)
def test_nothing_is_lost_nothing_goes_twice_and_no_cap_is_passed(slots, window_s, mixes, story) -> None:
    at, now, withdrawn = desk(slots), 0.0, dict[Job, int]()
    lanes = [lane(items=7, tokens=100, window_s=window_s, mixes=mixes) for _ in range(3)]
    for step in story:
        match step:
            case ("add", which, tenant, sizes):
                at.add(lanes[which], tenant, *sizes, at=now)
            case ("withdraw", index) if at.jobs:
                job = at.jobs[index % len(at.jobs)]
                withdrawn.setdefault(job, job.taken)
                at.queue.withdraw(job)
            case ("finish", index) if at.running:
                at.finish(index % len(at.running))
            case ("wait", seconds):
                now += seconds
        came = at.pump(now)
        assert len(at.running) <= slots
        waiting = at.queue.waiting()
        if waiting and len(at.running) < slots:  # work conservation: only a window makes anything wait for nothing
            assert now < came <= min(job.arrived_at for job in waiting) + window_s + 1e-9
            assert {(job.lane, job.tenant) for job in waiting} <= {
                (batch.lane, piece.job.tenant) for batch in at.running for piece in batch.pieces
            }
    at.drain(now + 1.0)

    went: dict[Job, list[int]] = {job: [] for job in at.jobs}
    for batch in at.sent:
        assert {piece.job.lane for piece in batch.pieces} == {batch.lane}
        assert len({piece.job for piece in batch.pieces}) == len(batch.pieces)
        assert mixes or len({piece.job.tenant for piece in batch.pieces}) == 1
        sizes = [piece.job.counts[i] for piece in batch.pieces for i in range(piece.start, piece.stop)]
        assert 1 <= batch.items == len(sizes) <= 7
        assert sum(sizes) <= 100 or len(sizes) == 1
        for piece in batch.pieces:
            went[piece.job] += range(piece.start, piece.stop)
    for job, order in went.items():
        assert order == list(range(withdrawn.get(job, len(job.counts))))
    assert (at.queue.calls, at.queue.jobs, at.queue.oldest()) == (0, 0, None)


@given(st.integers(1, 5), st.lists(st.tuples(tenants, counts), min_size=1, max_size=12), counts)
@settings(max_examples=60, deadline=None)
def test_the_bound_holds_for_whoever_comes_whenever(before: int, others, sizes) -> None:
    """A newcomer's first call is made after one of each other tenant at most."""
    at, of = desk(), lane(items=7, tokens=100, window_s=0.05)
    for tenant, given_counts in others:
        at.add(of, tenant, *given_counts)
    at.pump(now=1.0)
    for _ in range(min(before, at.queue.jobs)):
        at.finish()
        at.pump(now=1.0)
    started = len(at.sent)
    at.add(of, "newcomer", *sizes, at=1.0)
    at.drain(now=1.0)
    ahead = at.tenants()[started : at.tenants().index("newcomer")]
    assert len(ahead) == len(set(ahead))
