"""The limits' port in memory: the same rule, no Redis, no PostgreSQL."""

from __future__ import annotations

from billing.holds import Hold, refused_by_period, refused_by_rate
from billing.limit_plans import Plan
from billing.limit_terms import HoldAsk, Standing
from billing.spending import Fits, Short, Spending, TooFast
from core.errors import LimitsUnavailable


class InMemoryLimits:
    """One tenant's state for each tenant. `is_redis_up`, `is_postgres_up`: what the real one would find."""

    def __init__(self) -> None:
        self.states: dict[object, Spending] = {}
        self.is_redis_up = True
        self.is_postgres_up = True
        self.now_ms: int | None = None  # None: the time of each request
        self.open: list[Hold] = []

    async def hold(self, ask: HoldAsk, *, replacing: Hold | None = None) -> Hold:
        plan = Plan(ask.tenant_id, ask.limits, ask.created_ms)
        if not (self.is_redis_up or self.is_postgres_up):
            if plan.has_hard_calendar:
                raise LimitsUnavailable("down", retry_after=1)
            return self._held(Hold(plan, ask.tokens, ask.nano))
        if not self.is_redis_up:
            plan = Plan(ask.tenant_id, [each for each in ask.limits if not each.is_rate], ask.created_ms)
        state = self._state(plan)
        now_ms = ask.created_ms if self.now_ms is None else self.now_ms
        name = f"{ask.request_id} {len(self.open)}".encode()
        words = {"epoch": state.epoch, "tokens": ask.tokens, "nano": ask.nano, "now_ms": now_ms, "lease_ms": 60_000}
        old = replacing.head if replacing is not None and replacing.is_open else None
        answer = state.hold(name, plan, replacing=old, **words)  # type: ignore[arg-type]
        if isinstance(answer, TooFast):
            raise refused_by_rate(plan, [b"rate", answer.index, answer.wait_ms, answer.used], now_ms)
        if isinstance(answer, Short):
            index, _, used = answer.lacking[0]
            raise refused_by_period(plan, index, used)
        assert isinstance(answer, Fits)
        if replacing is not None:
            replacing.is_open = False
        hold = Hold(plan, ask.tokens, ask.nano, head=name, told=plan.told.pack(now_ms, *answer.left))
        hold.is_direct = not self.is_redis_up and plan.is_pooled
        hold.pool = 1 if plan.is_pooled else None
        return self._held(hold)

    def settle(self, hold: Hold, *, tokens: int, nano: int, requests: int = 1) -> None:
        if hold.is_open and hold.head:
            self.states[hold.plan.tenant_id].settle(hold.head, tokens=tokens, nano=nano, requests=requests)
        hold.is_open, hold.tokens_back = False, hold.tokens - tokens

    def release(self, hold: Hold) -> None:
        self.settle(hold, tokens=0, nano=0, requests=0)

    def leave(self, hold: Hold) -> None:
        hold.is_open = False

    async def standing(self, ask: HoldAsk) -> list[Standing]:
        plan = Plan(ask.tenant_id, ask.limits, ask.created_ms)
        state, stands = self._state(plan), []
        for terms, field, end in zip(plan.limits, plan.fields, plan.ends, strict=True):
            if terms.is_rate:
                used, held = state.rates[field].total if field in state.rates else 0, 0
            else:
                found = state.calendars[field]
                used, held = found.used, found.held
            stands.append(Standing(terms, used, held, end))
        return stands

    def statistics(self) -> dict[str, int]:
        return {"active": sum(each.is_open for each in self.open)}

    def _held(self, hold: Hold) -> Hold:
        self.open.append(hold)
        return hold

    def _state(self, plan: Plan) -> Spending:
        """With all granted that the limits allow."""
        state = self.states.setdefault(plan.tenant_id, Spending())
        state.install("", "fake:1")
        for terms, field in zip(plan.limits, plan.fields, strict=True):
            if not terms.is_rate:
                state.credit(state.epoch, field, terms.amount if terms.is_hard else 2**60, 0)
        return state
