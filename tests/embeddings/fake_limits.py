"""A stand-in for the limits, by the real rule: `used + held <= limit`, on all limits or on none."""

from __future__ import annotations

from collections import defaultdict
from uuid import UUID

from billing.holds import Hold
from billing.limit_plans import Plan
from billing.limit_terms import HoldAsk, Refused, Standing
from core.errors import LimitsUnavailable


class FakeLimits:
    """Counters in dictionaries by limit; periods never end."""

    def __init__(self) -> None:
        self.used: dict[UUID, int] = defaultdict(int)
        self.held: dict[UUID, int] = defaultdict(int)
        self.open: set[Hold] = set()
        self.asks: list[HoldAsk] = []
        self.settled: list[tuple[int, int, int]] = []  # tokens, nano-dollars, requests; releases are none
        self.released = 0
        self.refuses: set[UUID] = set()  # models, by their catalogue id: the first limit of a request says no
        self.is_up = True

    async def hold(self, ask: HoldAsk, *, replacing: Hold | None = None) -> Hold:
        if not self.is_up:
            raise LimitsUnavailable("away", retry_after=1)
        self.asks.append(ask)
        plan = Plan(ask.tenant_id, ask.limits, ask.created_ms)
        given_up = replacing if replacing is not None and replacing.is_open else None
        left = [terms.amount - self._counted(plan, index, given_up) for index, terms in enumerate(plan.limits)]
        for index, terms in enumerate(plan.limits):
            fits = plan.need(index, ask.tokens, ask.nano) <= left[index] and ask.model_id not in self.refuses
            if terms.is_hard and not fits:
                wait_s = 7.0 if terms.is_rate else None
                raise Refused(terms, used=terms.amount - left[index], resets_at=plan.ends[index], retry_after_s=wait_s)
        if given_up is not None:
            self.release(given_up)
        hold = Hold(plan, tokens=ask.tokens, nano=ask.nano)
        hold.left = tuple(float(rest - self._take(hold, index)) for index, rest in enumerate(left))
        self.open.add(hold)
        return hold

    def settle(self, hold: Hold, *, tokens: int, nano: int, requests: int = 1) -> None:
        if self._close(hold):
            self.settled.append((tokens, nano, requests))
            for index, terms in enumerate(hold.plan.limits):
                self.used[terms.limit_id] += hold.plan.need(index, tokens, nano, requests)

    def release(self, hold: Hold) -> None:
        self.released += self._close(hold)

    async def standing(self, ask: HoldAsk) -> list[Standing]:
        plan = Plan(ask.tenant_id, ask.limits, ask.created_ms)
        return [
            Standing(terms, self.used[terms.limit_id], self.held[terms.limit_id], plan.ends[index])
            for index, terms in enumerate(plan.limits)
        ]

    def statistics(self) -> dict[str, int]:
        return {"active": len(self.open), "held": sum(self.held.values())}

    def _counted(self, plan: Plan, index: int, without: Hold | None) -> int:
        limit_id = plan.limits[index].limit_id
        counted = self.used[limit_id] + self.held[limit_id]
        for place, terms in enumerate(without.plan.limits if without is not None else ()):
            if without is not None and terms.limit_id == limit_id:
                counted -= without.plan.need(place, without.tokens, without.nano)
        return counted

    def _take(self, hold: Hold, index: int) -> int:
        need = hold.plan.need(index, hold.tokens, hold.nano)
        self.held[hold.plan.limits[index].limit_id] += need
        return need

    def _close(self, hold: Hold) -> bool:
        if not hold.is_open:
            return False
        hold.is_open = False
        self.open.remove(hold)
        for index, terms in enumerate(hold.plan.limits):
            self.held[terms.limit_id] -= hold.plan.need(index, hold.tokens, hold.nano)
        return True
