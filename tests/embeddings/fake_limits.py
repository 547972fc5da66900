"""The limits in memory, by the real rule, with a memory of what was asked of them."""

from __future__ import annotations

from uuid import UUID

from billing.holds import Hold, refused_by_period
from billing.limit_plans import Plan
from billing.limit_terms import HoldAsk, LimitTerms
from tests.contracts.limits_in_memory import InMemoryLimits


class FakeLimits(InMemoryLimits):
    """What the contract of limits is proven for, and what the stories of the gateway look at."""

    def __init__(self) -> None:
        super().__init__()
        self.asks: list[HoldAsk] = []
        self.settled: list[tuple[int, int, int]] = []  # tokens, nano-dollars, requests
        self.left: list[Hold] = []  # to expire
        self.refuses: set[UUID] = set()  # models, by their catalogue id: the first limit of such a request says no

    async def hold(self, ask: HoldAsk, *, replacing: Hold | None = None) -> Hold:
        self.asks.append(ask)
        if ask.limits and ask.model_id in self.refuses:
            raise refused_by_period(Plan(ask.tenant_id, ask.limits, ask.created_ms), 0, ask.limits[0].amount)
        return await super().hold(ask, replacing=replacing)

    def settle(self, hold: Hold, *, tokens: int, nano: int, requests: int = 1) -> None:
        if hold.is_open and (tokens or nano or requests):
            self.settled.append((tokens, nano, requests))
        super().settle(hold, tokens=tokens, nano=nano, requests=requests)
        if hold in self.open:
            self.open.remove(hold)

    def leave(self, hold: Hold) -> None:
        super().leave(hold)
        self.open.remove(hold)
        self.left.append(hold)

    def expire(self) -> None:
        """What was left to expire has, and no row was found for it."""
        for hold in self.left:
            self.states[hold.plan.tenant_id].settle(hold.head, tokens=0, nano=0, requests=0)
        self.left.clear()

    def counted(self, terms: LimitTerms) -> tuple[int, int]:
        """Used and held of a limit of a day or month."""
        found = [
            calendar
            for state in self.states.values()
            for name, calendar in state.calendars.items()
            if terms.limit_id.hex in name.decode()
        ]
        return sum(each.used for each in found), sum(each.held for each in found)

    def statistics(self) -> dict[str, int]:
        held = sum(calendar.held for state in self.states.values() for calendar in state.calendars.values())
        return {**super().statistics(), "held": held}
