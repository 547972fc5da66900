"""What limits keep to, whatever is behind them: one suite, over the fake and the real thing, with and without Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.conf import settings

from billing.limits import Hold, HoldAsk, Limits, LimitTerms, Refused
from billing.redis_pipe import RedisPipe
from billing.refusals import refusal
from core.errors import BudgetExceeded, LimitsUnavailable, QuotaExceeded, RateLimitExceeded
from tests.billing.limit_worlds import Worker, ask, limit
from tests.conftest import make_party
from tests.contracts.limits_in_memory import InMemoryLimits

pytestmark = pytest.mark.django_db(transaction=True)


@dataclass
class Subject:
    """An implementation of the port, its tenant, and whether it has Redis."""

    limits: Any
    run: Any
    settled: Any  # waits until what was settled has arrived
    tenant_id: UUID
    counts_minutes: bool
    is_real: bool

    def limit(self, measure: str, period: str, amount: int, mode: str = "hard") -> LimitTerms:
        if self.is_real:
            return limit(self.tenant_id, measure, period, amount, mode)
        return LimitTerms(uuid4(), "tenant", "", measure, period, mode, amount)

    def ask(self, tokens: int, *limits: LimitTerms) -> HoldAsk:
        return ask(self.tenant_id, limits, tokens)

    def hold(self, asked: HoldAsk, replacing: Hold | None = None) -> Hold:
        found: Hold = self.run(self.limits.hold(asked, replacing=replacing))
        return found

    def settle(self, hold: Hold, tokens: int, requests: int = 1) -> None:
        async def settling() -> None:
            self.limits.settle(hold, tokens=tokens, nano=tokens * 3, requests=requests)

        self.run(settling())
        self.settled()

    def release(self, hold: Hold) -> None:
        self.settle(hold, 0, 0)


@pytest.fixture(params=["fake", "fake without redis", "real", "real without redis"])
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    has_redis = "without" not in request.param
    if request.param.startswith("fake"):
        fake = InMemoryLimits()
        fake.is_redis_up = has_redis
        with asyncio.Runner() as runner:
            yield Subject(fake, runner.run, lambda: None, UUID(int=1), has_redis, False)
        return
    tenant = make_party("acme")
    worker = Worker(settings.CACHES["default"]["LOCATION"] if has_redis else "redis://127.0.0.1:1/0")
    if has_redis:
        worker.connect()
    yield Subject(worker.limits, worker.run, worker.quiesce, tenant.id, has_redis, True)
    worker.stop()


def test_what_is_held_is_taken_off_and_what_is_not_used_comes_back(subject: Subject) -> None:
    terms = subject.limit("tokens", "day", 100)
    hold = subject.hold(subject.ask(60, terms))
    with pytest.raises(Refused) as refused:
        subject.hold(subject.ask(41, terms))
    assert (refused.value.terms, refused.value.used, refused.value.retry_after_s) == (terms, 60, None)
    subject.settle(hold, 10)
    left = subject.hold(subject.ask(90, terms)).tightest("tokens")
    assert left is not None
    assert (left.limit, left.remaining) == (100, 0)


def test_what_is_left_is_told_as_it_is_once_a_hold_is_settled(subject: Subject) -> None:
    hold = subject.hold(subject.ask(60, subject.limit("tokens", "day", 100), subject.limit("requests", "day", 5)))
    subject.settle(hold, 10)
    tokens, requests = hold.tightest("tokens"), hold.tightest("requests")
    assert tokens is not None
    assert requests is not None
    assert (tokens.remaining, requests.remaining) == (90, 4)


def test_what_nobody_knows_the_outcome_of_stays_held(subject: Subject) -> None:
    terms = subject.limit("tokens", "day", 100)
    subject.limits.leave(subject.hold(subject.ask(60, terms)))
    with pytest.raises(Refused) as refused:
        subject.hold(subject.ask(41, terms))
    assert (refused.value.used, subject.limits.statistics()["active"]) == (60, 0)


def test_all_limits_or_none(subject: Subject) -> None:
    wide, narrow = subject.limit("tokens", "month", 100), subject.limit("requests", "day", 1)
    subject.hold(subject.ask(10, wide, narrow))
    with pytest.raises(Refused) as refused:
        subject.hold(subject.ask(10, wide, narrow))
    assert refused.value.terms is narrow
    subject.hold(subject.ask(90, wide))


def test_a_release_gives_everything_back_once(subject: Subject) -> None:
    tokens, requests = subject.limit("tokens", "day", 10), subject.limit("requests", "day", 1)
    hold = subject.hold(subject.ask(10, tokens, requests))
    subject.release(hold)
    subject.release(hold)
    subject.hold(subject.ask(10, tokens, requests))
    with pytest.raises(Refused):
        subject.hold(subject.ask(1, tokens, requests))


def test_a_hold_takes_the_place_of_another(subject: Subject) -> None:
    terms = subject.limit("usd", "month", 30)
    first = subject.hold(subject.ask(8, terms))
    second = subject.hold(subject.ask(10, terms), replacing=first)
    subject.settle(first, 8)  # it is no more: nothing happens
    with pytest.raises(Refused):
        subject.hold(subject.ask(1, terms))
    subject.release(second)
    subject.hold(subject.ask(10, terms))


def test_soft_and_shadow_let_through_and_tell(subject: Subject) -> None:
    soft, shadow = subject.limit("tokens", "day", 5, "soft"), subject.limit("requests", "month", 1, "shadow")
    assert subject.hold(subject.ask(5, soft, shadow)).would_refuse == ()
    assert subject.hold(subject.ask(1, soft, shadow)).would_refuse == (soft, shadow)


def test_zero_allows_nothing_and_no_limit_everything(subject: Subject) -> None:
    with pytest.raises(Refused):
        subject.hold(subject.ask(1, subject.limit("tokens", "day", 0)))
    hold = subject.hold(subject.ask(10**9))
    assert (hold.pool, hold.tightest("tokens"), hold.would_refuse) == (None, None, ())
    subject.settle(hold, 10**9)


def test_standing_tells_and_holds_nothing(subject: Subject) -> None:
    terms = subject.limit("tokens", "day", 100)
    subject.hold(subject.ask(30, terms))
    for _ in range(2):
        [found] = subject.run(subject.limits.standing(subject.ask(1, terms)))
        assert (found.terms, found.used + found.held, found.remaining) == (terms, 30, 70)
    assert found.resets_at > datetime.now(UTC)


def test_a_worker_that_spent_nothing_yet_tells_the_same() -> None:
    tenant = make_party("acme")
    url = settings.CACHES["default"]["LOCATION"]
    workers = Worker(url), Worker(url)
    for each in workers:
        each.connect()
    terms = limit(tenant.id, "tokens", "day", 100_000)
    asked = ask(tenant.id, (terms,), 30)
    workers[0].finish(asked, workers[0].hold(asked), 30)
    told = [each.run(each.limits.standing(ask(tenant.id, (terms,), 1))) for each in workers]
    assert [(found.used, found.held) for (found,) in told] == [(30, 0), (30, 0)]
    for each in workers:
        each.stop()


def test_a_minute_says_when_to_come_back(subject: Subject) -> None:
    terms = subject.limit("requests", "minute", 2)
    for _ in range(2):
        subject.hold(subject.ask(1, terms))
    outcomes = [subject.run(_outcome(subject.limits, subject.ask(1, terms))) for _ in range(2)]
    waits = [each.retry_after_s for each in outcomes if isinstance(each, Refused)]
    assert len(waits) == (2 if subject.counts_minutes else 0)  # without Redis minutes are not limited
    assert all(0 < each <= 61 for each in waits)


def test_a_calendar_pool_is_named_for_the_row(subject: Subject) -> None:
    assert subject.hold(subject.ask(1, subject.limit("tokens", "day", 5))).pool is not None
    assert subject.hold(subject.ask(1, subject.limit("tokens", "minute", 5))).pool is None


async def _outcome(limits: Any, asked: HoldAsk) -> Hold | Refused:
    try:
        found: Hold = await limits.hold(asked)
    except Refused as refused:
        return refused
    return found


async def test_nobody_to_ask_is_no_consent() -> None:
    real = Limits("postgresql://nobody@127.0.0.1:1/none", RedisPipe("redis://127.0.0.1:1/0"), lease_s=1.0)
    fake = InMemoryLimits()
    fake.is_redis_up = fake.is_postgres_up = False
    hard = LimitTerms(UUID(int=5), "tenant", "", "tokens", "day", "hard", 10)
    soft = LimitTerms(UUID(int=6), "tenant", "", "tokens", "day", "soft", 10)
    rate = LimitTerms(UUID(int=7), "tenant", "", "tokens", "minute", "hard", 10)
    for limits in (real, fake):
        with pytest.raises(LimitsUnavailable) as refused:
            await limits.hold(ask(UUID(int=1), (hard, rate)))
        assert (refused.value.status, refused.value.retry_after) == (503, 1)
        assert (await limits.hold(ask(UUID(int=1), (soft, rate)))).pool is None


@pytest.mark.parametrize(
    ("measure", "period", "wait", "kind", "quota_type"),
    [
        ("tokens", "day", None, QuotaExceeded, "daily"),
        ("requests", "month", None, QuotaExceeded, "monthly"),
        ("usd", "month", None, BudgetExceeded, "monthly"),
        ("tokens", "minute", 2.1, RateLimitExceeded, "per_minute"),
        ("tokens", "minute", None, QuotaExceeded, "request"),
    ],
)
def test_refusals_in_public(measure: str, period: str, wait: float | None, kind: Any, quota_type: str) -> None:
    terms = LimitTerms(UUID(int=5), "key", "k", measure, period, "hard", 2_000_000_000)
    error = refusal(
        Refused(terms, used=1_500_000_000, resets_at=datetime(2026, 12, 1, tzinfo=UTC), retry_after_s=wait),
        suggested_models=["other"],
    )
    assert type(error) is kind
    assert error.retry_after == (3 if wait else None)
    shown = {"limit": "2.000000000", "used": "1.500000000"} if measure == "usd" else {"limit": 2 * 10**9}
    expected = {"quota_type": quota_type, "scope": "key", "reset_time": "2026-12-01T00:00:00Z", **shown}
    assert error.extra.items() >= expected.items()
