"""The rule of holding and settling: properties of the one in Python, and that Redis' Lua never differs from it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.limit_plans import Plan, charge_of, head_of, read_calendar, read_rate
from billing.limit_scripts import CREDIT, HOLD, INSTALL, SETTLE
from billing.limit_terms import LimitTerms
from billing.spending import Fits, OtherPool, Short, Spending, TooFast
from config.up.valkey import EmbeddedValkey
from tests.billing.limit_worlds import start_valkey

TENANT = UUID(int=1)
CREATED_MS = int(datetime(2026, 11, 25, 12, tzinfo=UTC).timestamp() * 1000)
LEASE_MS = 60_000


def terms(number: int, measure: str, period: str, mode: str, amount: int) -> LimitTerms:
    return LimitTerms(UUID(int=number), "tenant", "", measure, period, mode, amount)


RATE = terms(1, "tokens", "minute", "hard", 10)


@given(st.lists(st.tuples(st.integers(0, 30_000), st.integers(0, 12)), max_size=60))
def test_no_sixty_seconds_ever_see_more_than_the_rate(steps: list[tuple[int, int]]) -> None:
    state, plan, now, served = Spending(), Plan(TENANT, [RATE], CREATED_MS), CREATED_MS, []
    for number, (pause, tokens) in enumerate(steps):
        now += pause
        words: dict[str, Any] = {"epoch": "", "tokens": tokens, "nano": 0, "lease_ms": LEASE_MS}
        answer = state.hold(b"%d" % number, plan, now_ms=now, **words)
        if isinstance(answer, TooFast) and answer.wait_ms >= 0:
            # Who waits exactly that long is served, and no millisecond sooner.
            assert isinstance(state.hold(b"early", plan, now_ms=now + answer.wait_ms - 1, **words), TooFast)
            now += answer.wait_ms
            answer = state.hold(b"%d" % number, plan, now_ms=now, **words)
        if isinstance(answer, Fits):
            served.append((now, tokens))
        else:
            assert tokens > RATE.amount
    for start, _ in served:
        assert sum(each for at, each in served if start <= at < start + 60_000) <= RATE.amount


LIMITS = [
    terms(11, "tokens", "day", "hard", 60),
    terms(12, "requests", "month", "hard", 8),
    terms(13, "usd", "month", "soft", 100),
    terms(14, "tokens", "day", "shadow", 20),
    terms(15, "tokens", "minute", "hard", 40),
    terms(16, "requests", "minute", "soft", 3),
    terms(17, "usd", "minute", "hard", 150),
]
SOME = st.lists(st.sampled_from(LIMITS), unique=True, max_size=5)
AMOUNT = st.integers(0, 30)
HOLDING = st.tuples(st.just("hold"), SOME, AMOUNT, AMOUNT, st.booleans(), st.none() | st.integers(0, 9))
STEPS = st.lists(
    st.one_of(
        HOLDING,
        HOLDING,
        st.tuples(st.just("settle"), st.integers(0, 9), AMOUNT, AMOUNT, st.booleans()),
        st.tuples(st.just("credit"), st.sampled_from(LIMITS[:4]), st.integers(0, 80), st.integers(0, 30)),
        st.tuples(st.just("wait"), st.integers(-2_000, 70_000)),
        st.tuples(st.just("install"), st.sampled_from(["r:1", "r:2", ""])),
    ),
    max_size=40,
)


class InRedis:
    """The scripts, with a clock that the test sets."""

    def __init__(self, client: Any) -> None:
        self.client = client
        client.flushall()
        clock = ("call('TIME')", "{redis.call('GET', 's'), redis.call('GET', 'us')}")
        self._hold = HOLD.source.decode().replace(*clock)

    def hold(self, plan: Plan, head: bytes, *, now: int, force: bool, old: Any) -> Fits | Short | TooFast | OtherPool:
        self.client.mset({"s": now // 1000, "us": now % 1000 * 1000})
        words = [1000, plan.written, LEASE_MS, head, int(force), *(old or ())]
        reply = self.client.eval(self._hold, 2, plan.key, plan.zkey, *words)
        if isinstance(reply, bytes):
            at, *left = plan.told.unpack(reply)
            assert at == now
            return Fits(tuple(int(each) for each in left))
        word, *rest = reply
        if word == b"pool":
            return OtherPool(rest[0].decode())
        numbers = [int(each) for each in rest]
        if word == b"rate":
            return TooFast(*numbers)
        return Short(tuple(zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True)))

    def state(self, now: int) -> tuple[Any, ...]:
        plan = Plan(TENANT, LIMITS, CREATED_MS)
        raw = self.client.hgetall(plan.key)
        calendars = {name: read_calendar(value) for name, value in raw.items() if name.startswith(b"c:")}
        rates = {name: read_rate(value, now, 1000) for name, value in raw.items() if name.startswith(b"r:")}
        return (
            raw.get(b"e", b"").decode(),
            calendars,
            {name: total for name, total in rates.items() if total},
            self.client.zcard(plan.zkey),
        )


def state_of(state: Spending, now: int) -> tuple[Any, ...]:
    calendars = {name: (c.granted, c.base, c.used, c.held) for name, c in state.calendars.items()}
    for rate in state.rates.values():
        rate.advance(now // 1000)
    return state.epoch, calendars, {name: r.total for name, r in state.rates.items() if r.total}, len(state.holds)


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: Any) -> Iterator[EmbeddedValkey]:
    server = start_valkey(tmp_path_factory.mktemp("rule") / "valkey")
    yield server
    server.stop()


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(steps=STEPS)
def test_lua_and_python_never_differ(valkey: EmbeddedValkey, steps: list[tuple[Any, ...]]) -> None:
    model, real = Spending(), InRedis(redis.from_url(valkey.url(0)))
    key, zkey = Plan(TENANT, (), CREATED_MS).key, Plan(TENANT, (), CREATED_MS).zkey
    held: list[tuple[bytes, Plan, int]] = []  # head, plan, at
    now = CREATED_MS

    def chosen(number: int | None) -> Any:
        return held[number % len(held)] if number is not None and held else None

    for number, (what, *rest) in enumerate(steps):
        if what == "wait":
            now += rest[0]
        elif what == "install":
            assert model.install(model.epoch, rest[0]) == rest[0]
            real.client.eval(INSTALL.source, 1, key, real.client.hget(key, "e") or b"", rest[0])
        elif what == "credit":
            limit, granted, base = rest
            field = Plan(TENANT, [limit], CREATED_MS).fields[0]
            done = model.credit("r:1", field, granted, base)
            assert bool(real.client.eval(CREDIT.source, 1, key, "r:1", field, granted, base)) is done
        elif what == "settle":
            old, tokens, nano, requests = chosen(rest[0]), *rest[1:]
            if old is not None:
                head, plan, at = old
                done = model.settle(head, tokens=tokens, nano=nano, requests=int(requests))
                words = (1000, plan.written, head, charge_of(at, tokens, nano, int(requests)))
                assert bool(real.client.eval(SETTLE.source, 2, key, zkey, *words)) is done
        else:
            limits, tokens, nano, force, replaced = rest
            plan, old = Plan(TENANT, limits, CREATED_MS), chosen(replaced)
            epoch = "r:1" if plan.is_pooled else ""
            head = head_of("id", "model", epoch, tokens, nano, number)
            words = {"epoch": epoch, "tokens": tokens, "nano": nano}
            there = old is not None and old[0] in model.holds
            replacing = old[0] if old is not None else None
            answer = model.hold(head, plan, now_ms=now, lease_ms=LEASE_MS, force=force, replacing=replacing, **words)
            said = (old[1].written, old[0], old[2]) if old is not None else None
            assert real.hold(plan, head, now=now, force=force, old=said) == answer
            if isinstance(answer, Fits):
                held.append((head, plan, now))
                assert there or len(model.holds) >= 1
        assert real.state(now) == state_of(model, now)
