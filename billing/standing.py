"""How much of each limit is used, held and left, for people and programs: the one place that puts these figures
together. They are those of the counters (`billing.counters`), which the data plane itself spends from. Every amount is
an integer: tokens, requests, nano-dollars.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from uuid import UUID

from billing.counters import count, last_refused
from billing.loading import terms_of
from billing.models import Limit
from billing.periods import end_of, start_of
from core.clock import utc_now
from core.money import usd_from_nano
from tenants.selectors import lines_of_keys

PERIODS = ("minute", "day", "month")
CALENDAR = ("day", "month")


@dataclass(frozen=True, slots=True)
class LimitStanding:
    """One limit at one moment."""

    limit_id: UUID
    tenant_id: UUID
    scope: str
    scope_id: str
    measure: str
    period: str
    mode: str
    amount: int
    used: int
    held: int
    remaining: int  # never below 0
    period_start: datetime
    resets_at: datetime
    thresholds: tuple[int, ...] = ()  # the limit's own; empty: the tenant's
    is_refusing: bool = False  # what was asked last did not fit, and would not now

    @property
    def is_used_up(self) -> bool:
        """Whether it leaves nothing, or not enough for what is asked."""
        return self.remaining == 0 or self.is_refusing


def standings(
    tenant_id: UUID | None, *, now: datetime | None = None, periods: Collection[str] = PERIODS
) -> list[LimitStanding]:
    """All limits of one tenant, or of all tenants, over these periods."""
    now = now or utc_now()
    rows = Limit.objects.filter(period__in=periods).order_by(
        "tenant_id", "scope", "scope_id", "measure", "period", "mode"
    )
    found: list[LimitStanding] = []
    for owner, limits in groupby(rows if tenant_id is None else rows.filter(tenant_id=tenant_id), _owner):
        found += standings_of(owner, list(limits), now=now)
    return found


def standings_for(tenant_id: UUID, *, agent_id: str, lines: Collection[UUID]) -> list[LimitStanding]:
    """Those of a tenant's limits that may count what this agent uses with a key of these lines, whichever the model."""
    found = standings(tenant_id)
    keys = {UUID(each.scope_id) for each in found if each.scope == Limit.Scope.KEY}
    counted = {str(key) for key, line in lines_of_keys(tenant_id, keys).items() if line in lines} if keys else set()
    own = {Limit.Scope.AGENT.value: {agent_id}, Limit.Scope.KEY.value: counted}
    return [each for each in found if each.scope not in own or each.scope_id in own[each.scope]]


def standings_of(tenant_id: UUID, limits: Sequence[Limit], *, now: datetime | None = None) -> list[LimitStanding]:
    """These limits of a tenant, in their order."""
    now = now or utc_now()
    terms = [terms_of(each) for each in limits]
    counted, refused = count(tenant_id, terms, now), last_refused(tenant_id, terms, now)
    return [_standing(each, *counted[each.id], refused.get(each.id), now) for each in limits]


def figure(measure: str, amount: int) -> int | str:
    """An amount as people and programs outside read it: a whole number, or USD as a decimal string."""
    return f"{usd_from_nano(amount).normalize():f}" if measure == Limit.Measure.USD else amount


def _owner(limit: Limit) -> UUID:
    return limit.tenant_id


def _standing(limit: Limit, used: int, held: int, refused: tuple[int, int] | None, now: datetime) -> LimitStanding:
    amount = terms_of(limit).amount
    need, used_then = refused or (0, 0)
    return LimitStanding(
        limit_id=limit.id,
        tenant_id=limit.tenant_id,
        scope=limit.scope,
        scope_id=limit.scope_id,
        measure=limit.measure,
        period=limit.period,
        mode=limit.mode,
        amount=amount,
        used=used,
        held=held,
        remaining=max(amount - used - held, 0),
        period_start=start_of(limit.period, now),
        resets_at=end_of(limit.period, now),
        thresholds=tuple(limit.thresholds),
        is_refusing=refused is not None and used <= used_then and need <= amount < used + need,
    )
