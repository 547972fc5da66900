"""Four processes' boards over one real Valkey, against a plain model of what they should believe.

Hypothesis walks: calls end in any way in any process, processes hear of things early or late, time passes, probes are
taken, come back or never do, an operator interferes. The model keeps lists of calls and no more; it shares no code
with the rules. After every step the shared state and what each process admits must be the model's.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from billing.redis_pipe import RedisPipe
from embeddings import breaker_wire as wire
from embeddings.breaker import Force, Outcome, Permit, Settings, State, Verdict
from tests.embeddings.boards import ROUTE, Clock, Process, connected, process_of

STEPS_AT_LEAST = 10_000
PROCESSES = 4
SMALL = Settings(
    window_calls=8,
    window_ms=4_000,
    minimum_calls=3,
    failure_rate=0.5,
    slow_rate=0.75,
    slow_ms=100,
    open_ms=1_000,
    open_most_ms=4_000,
    healthy_ms=3_000,
    probes=2,
    successes=2,
    lease_ms=2_500,
    capacity_ms=300,
    capacity_most_ms=2_000,
)


@dataclass
class Model:
    """What is true of the route, said plainly."""

    state: str = "closed"
    since: int = 0
    until: int = 0
    openings: int = 0
    good_probes: int = 0
    leases: dict[str, int] = field(default_factory=dict)  # permit → when it runs out
    calls: list[tuple[int, str]] = field(default_factory=list)
    no_capacity_until: int = 0

    def ends(self, now: int, how: str, ms: int, wait_ms: int | None, permit: str) -> None:
        if how == "capacity":
            self.no_capacity_until = max(self.no_capacity_until, now + min(300 if wait_ms is None else wait_ms, 2_000))
        is_good = how == "ok" and ms <= 100
        holds_lease = self.leases.get(permit, 0) > now
        if how in ("capacity", "caller"):
            self.leases.pop(permit, None)
        elif permit:
            if holds_lease and is_good:
                del self.leases[permit]
                self.good_probes += 1
                if self.good_probes == 2:
                    self.become("closed", now)
            elif holds_lease:
                self.open(now)
        elif self.state == "closed" and now - ms >= self.since:
            self.calls.append((now, "good" if is_good else "failed" if how == "failed" else "slow"))
            self.calls = [(at, what) for at, what in self.calls[-8:] if at > now - 4_000]
            if not is_good and self.is_bad():
                self.open(now)

    def is_bad(self) -> bool:
        ends = [what for _, what in self.calls]
        if len(ends) < 3:
            return False
        many_failed = ends.count("failed") / len(ends) >= 0.5
        many_slow = ends.count("slow") / len(ends) >= 0.75
        return many_failed or many_slow or set(ends[-3:]) == {"failed"}

    def open(self, now: int) -> None:
        was_well = self.state == "closed" and now - self.since >= 3_000
        self.openings = 1 if was_well else self.openings + 1
        self.become("open", now)
        self.until = now + min(1_000 * 2 ** (self.openings - 1), 4_000)

    def become(self, state: str, now: int) -> None:
        self.state, self.since, self.until = state, max(now, self.since + 1), 0
        self.calls, self.leases, self.good_probes = [], {}, 0

    def take_probe(self, now: int, permit: str) -> bool:
        if self.state == "open" and now >= self.until and now >= self.no_capacity_until:
            self.become("half_open", now)
        if self.state != "half_open" or now < self.no_capacity_until or len(self.live(now)) >= 2:
            return False
        self.leases = self.live(now) | {permit: now + 2_500}
        return True

    def live(self, now: int) -> dict[str, int]:
        return {permit: until for permit, until in self.leases.items() if until > now}

    def admits(self, now: int, force: str | None) -> str:
        if force == "open" or now < self.no_capacity_until:
            return "not_now"
        if force == "closed" or self.state == "closed":
            return "go"
        if self.state == "open":
            return "ask" if now >= self.until else "not_now"
        return "ask" if len(self.live(now)) < 2 else "not_now"


WHO = range(PROCESSES)
WALK: list[tuple[str, dict[str, Sequence[object]]]] = [
    ("time_passes", {"ms": [1, 40, 300, 1_100, 2_600, 4_100]}),
    ("time_passes_until_it_may_be_probed", {}),
    ("a_call_ends", {"who": WHO, "how": ["ok", "failed", "caller"], "ms": [5, 150, 3_000], "wait_ms": [None]}),
    ("a_call_ends", {"who": WHO, "how": ["capacity"], "ms": [5], "wait_ms": [None, 0, 500, 60_000]}),
    *[("some_calls_fail", {"who": WHO, "times": [1, 2, 3, 4]})] * 2,
    *[("a_process_up_to_date_probes", {"who": WHO})] * 4,
    ("a_process_asks_for_a_probe", {"who": WHO}),
    *[("a_probe_ends_well", {"who": WHO})] * 2,
    ("a_probe_ends", {"who": WHO, "which": range(9), "how": ["ok", "failed", "capacity", "caller"], "ms": [5, 150]}),
    ("a_process_dies_with_its_probe", {"which": range(9)}),
    ("a_process_polls", {"who": WHO}),
    ("a_process_hears_a_message", {"who": WHO}),
    ("an_operator_forces", {"who": WHO, "state": [None] * 8 + ["open", "closed"]}),
]


class Processes(RuleBasedStateMachine):
    loop: asyncio.AbstractEventLoop
    pipes: list[RedisPipe]
    steps = 0

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.truth = Model()
        self.force: str | None = None
        self.believed: list[tuple[Model, str | None]] = []
        self.processes: list[Process] = []
        self.permits: list[Permit] = []

    def run(self, what):
        return self.loop.run_until_complete(what)

    def shared(self) -> bytes:
        async def read() -> bytes:
            return await self.pipes[0].call("HGET", wire.KEY, ROUTE) or b""

        return self.run(read())

    @initialize()
    def begin(self) -> None:
        async def make() -> list[Process]:
            await self.pipes[0].call("DEL", wire.KEY, wire.FIGURES_KEY)
            found = [process_of(pipe, self.clock, SMALL) for pipe in self.pipes]
            for process in found:
                await process.board.poll()
            return found

        self.processes = self.run(make())
        self.believed = [(Model(), None) for _ in range(PROCESSES)]

    @rule(ms=st.sampled_from([1, 40, 300, 1_100, 2_600, 4_100]))
    def time_passes(self, ms: int) -> None:
        self.clock.now += ms

    @rule(
        who=st.integers(0, PROCESSES - 1),
        how=st.sampled_from(["ok", "ok", "failed", "failed", "failed", "capacity", "caller"]),
        ms=st.sampled_from([5, 5, 5, 150, 3_000]),
        wait_ms=st.sampled_from([None, 0, 500, 60_000]),
    )
    def a_call_ends(self, who: int, how: str, ms: int, wait_ms: int | None) -> None:
        self.tell(who, how, ms, wait_ms, None)

    @rule()
    def time_passes_until_it_may_be_probed(self) -> None:
        self.clock.now = max(self.clock.now, self.truth.until, self.truth.no_capacity_until)

    @rule(who=st.integers(0, PROCESSES - 1), times=st.integers(1, 4))
    def some_calls_fail(self, who: int, times: int) -> None:
        for _ in range(times):
            self.tell(who, "failed", 5, None, None)

    @rule(who=st.integers(0, PROCESSES - 1))
    def a_process_up_to_date_probes(self, who: int) -> None:
        self.a_process_polls(who)
        self.a_process_asks_for_a_probe(who)

    @rule(who=st.integers(0, PROCESSES - 1))
    def a_probe_ends_well(self, who: int) -> None:
        if self.permits:
            self.tell(who, "ok", 5, None, self.permits.pop())

    @rule(who=st.integers(0, PROCESSES - 1))
    def a_process_asks_for_a_probe(self, who: int) -> None:
        belief, force = self.believed[who]
        if belief.admits(self.clock.now, force) != "ask":
            return
        permit = self.run(self.processes[who].board.probe(ROUTE))
        taken = self.truth.take_probe(self.clock.now, permit.id if permit else "")
        self.heard(who)
        is_plain = not taken and self.truth.admits(self.clock.now, None) == "go"
        assert (permit is not None and bool(permit.id)) == taken
        assert (permit is not None and not permit.id) == is_plain
        if permit is not None and permit.id:
            self.permits.append(permit)

    @rule(
        who=st.integers(0, PROCESSES - 1),
        which=st.integers(0, 100),
        how=st.sampled_from(["ok", "ok", "ok", "failed", "capacity", "caller"]),
        ms=st.sampled_from([5, 5, 5, 150]),
    )
    def a_probe_ends(self, who: int, which: int, how: str, ms: int) -> None:
        if self.permits:
            self.tell(who, how, ms, 500, self.permits.pop(which % len(self.permits)))

    @rule(which=st.integers(0, 100))
    def a_process_dies_with_its_probe(self, which: int) -> None:
        if self.permits:
            self.permits.pop(which % len(self.permits))

    @rule(who=st.integers(0, PROCESSES - 1))
    def a_process_polls(self, who: int) -> None:
        self.run(self.processes[who].board.poll())
        self.heard(who, polled=True)

    @rule(who=st.integers(0, PROCESSES - 1))
    def a_process_hears_a_message(self, who: int) -> None:
        """The last one published: the shared value as it stands."""
        if blob := self.shared():
            self.processes[who].board.apply(wire.encode(wire.Message(ROUTE, blob)))
            self.heard(who)

    @rule(who=st.integers(0, PROCESSES - 1), state=st.sampled_from([None, None, None, None, "open", "closed"]))
    def an_operator_forces(self, who: int, state: str | None) -> None:
        self.run(self.processes[who].board.force("openai|*", Force(state) if state else None))
        self.force = state
        self.heard(who, polled=True)

    def tell(self, who: int, how: str, ms: int, wait_ms: int | None, permit: Permit | None) -> None:
        board = self.processes[who].board
        wait_s = None if wait_ms is None else wait_ms / 1000

        async def report() -> None:
            board.report(ROUTE, Outcome(how), ms, retry_after_s=wait_s, permit=permit)
            await board.flush()

        self.run(report())
        if how != "caller" or permit is not None:  # the caller's own fault is no news at all
            self.truth.ends(self.clock.now, how, ms, wait_ms, permit.id if permit else "")
            self.heard(who)

    def heard(self, who: int, *, polled: bool = False) -> None:
        force = self.force if polled else self.believed[who][1]
        self.believed[who] = (deepcopy(self.truth), force)

    @invariant()
    def the_shared_state_is_the_models(self) -> None:
        type(self).steps += 1
        if not self.processes:
            return
        shared, truth = wire.breaker(self.shared()), self.truth
        assert shared.state is State[truth.state.upper()]
        assert (shared.changed_at, shared.until) == (truth.since, truth.until)
        assert (shared.successes, shared.repeats) == (truth.good_probes, truth.openings)
        assert {lease.permit: lease.expires_at for lease in shared.probes} == truth.leases
        assert [mark.at for mark in shared.window] == [at for at, _ in truth.calls]
        assert shared.capacity_until == truth.no_capacity_until

    @invariant()
    def each_process_admits_what_it_heard(self) -> None:
        for process, (model, force) in zip(self.processes, self.believed, strict=False):
            admitted = process.board.admit(ROUTE).verdict
            assert admitted is Verdict(model.admits(self.clock.now, force))


@pytest.fixture
def connected_machine():
    """The machine's class, with a loop and four pipes."""
    loop = asyncio.new_event_loop()

    async def connect() -> list[RedisPipe]:
        pipes = [RedisPipe(os.environ["REDIS_URL"], patience_s=60, scripts=wire.SCRIPTS) for _ in range(PROCESSES)]
        for pipe in pipes:
            pipe.start()
            await connected(pipe)
        return pipes

    Processes.loop, Processes.steps = loop, 0
    Processes.pipes = loop.run_until_complete(connect())
    yield Processes
    for pipe in Processes.pipes:
        loop.run_until_complete(pipe.close())
    loop.close()


@pytest.mark.slow
def test_no_divergence_in_ten_thousand_steps(connected_machine):
    run_state_machine_as_test(
        connected_machine,
        settings=settings(
            max_examples=120, stateful_step_count=100, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
    assert connected_machine.steps >= STEPS_AT_LEAST


@pytest.mark.slow
def test_no_divergence_on_a_long_walk_along_every_edge(connected_machine):
    """The same steps, weighted like a bad day, in one long life."""
    machine, chance = connected_machine(), random.Random(20261125)
    machine.begin()
    edges = Counter[tuple[str, str]]()
    for _ in range(4_000):
        before = machine.truth.state
        act, words = chance.choice(WALK)
        getattr(machine, act)(**{name: chance.choice(values) for name, values in words.items()})
        machine.the_shared_state_is_the_models()
        machine.each_process_admits_what_it_heard()
        edges[before, machine.truth.state] += before != machine.truth.state
    for edge in (("closed", "open"), ("open", "half_open"), ("half_open", "open"), ("half_open", "closed")):
        assert edges[edge] >= 10
