"""How much of each limit is used and left: the one place that knows where these figures come from.

For now that is the ledger itself: one grouped query for each kind of period, however many limits there are. Nothing is
held by anybody yet, so `held` and `pending` are 0. Every amount is an integer: tokens, requests, nano-dollars.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db.models import Count, Sum

from billing.models import Limit, UsageRow
from billing.periods import end_of, start_of
from core.clock import utc_now
from core.money import nano_from_usd, usd_from_nano
from tenants.models import TenantModel

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
    pending: int = 0
    thresholds: tuple[int, ...] = ()  # the limit's own; empty: the tenant's

    @property
    def is_used_up(self) -> bool:
        """Whether it leaves nothing."""
        return self.remaining == 0 or self.used + self.held >= self.amount


def standings(
    tenant_id: UUID | None, *, now: datetime | None = None, periods: Collection[str] = PERIODS
) -> list[LimitStanding]:
    """All limits of one tenant, or of all tenants, over these periods."""
    now = now or utc_now()
    rows = Limit.objects.filter(period__in=periods).order_by(
        "tenant_id", "scope", "scope_id", "measure", "period", "mode"
    )
    limits = list(rows if tenant_id is None else rows.filter(tenant_id=tenant_id))
    models = _catalogue_ids(limits)
    used = {period: _used(limits, period, now) for period in {each.period for each in limits}}
    return [_standing(each, used[each.period], models, now) for each in limits]


def figure(measure: str, amount: int) -> int | str:
    """An amount as people and programs outside read it: a whole number, or USD as a decimal string."""
    return f"{usd_from_nano(amount).normalize():f}" if measure == Limit.Measure.USD else amount


_Usage = Mapping[tuple[UUID, str, str, str], int]  # by tenant, scope, what it names, measure


def _standing(limit: Limit, used: _Usage, models: Mapping[str, str], now: datetime) -> LimitStanding:
    named = models.get(limit.scope_id, "") if limit.scope == Limit.Scope.MODEL else limit.scope_id
    spent = used.get((limit.tenant_id, limit.scope, named, limit.measure), 0)
    amount = nano_from_usd(limit.amount) if limit.measure == Limit.Measure.USD else int(limit.amount)
    return LimitStanding(
        limit_id=limit.id,
        tenant_id=limit.tenant_id,
        scope=limit.scope,
        scope_id=limit.scope_id,
        measure=limit.measure,
        period=limit.period,
        mode=limit.mode,
        amount=amount,
        used=spent,
        held=0,
        remaining=max(amount - spent, 0),
        period_start=start_of(limit.period, now),
        resets_at=end_of(limit.period, now),
        thresholds=tuple(limit.thresholds),
    )


def _catalogue_ids(limits: Iterable[Limit]) -> Mapping[str, str]:
    """By configured model, as limits name it, the catalogue's row, as the ledger does."""
    named = [each.scope_id for each in limits if each.scope == Limit.Scope.MODEL]
    rows = TenantModel.objects.filter(id__in=named).values_list("id", "model_id") if named else ()
    return {str(row_id): str(model_id) for row_id, model_id in rows}


def _used(limits: Iterable[Limit], period: str, now: datetime) -> _Usage:
    tenants = {each.tenant_id for each in limits if each.period == period}
    rows = (
        UsageRow.objects.filter(
            tenant_id__in=tenants,
            status="ok",
            created_at__gte=start_of(period, now),
            created_at__lt=end_of(period, now),
        )
        .order_by()
        .values("tenant_id", "model_id", "agent_id", "key_id")
        .annotate(tokens_=Sum("tokens"), requests_=Count("id"), usd_=Sum("cost_usd"))
    )
    found: dict[tuple[UUID, str, str, str], int] = defaultdict(int)
    for row in rows:
        sums = {"tokens": row["tokens_"], "requests": row["requests_"], "usd": nano_from_usd(row["usd_"])}
        named = {"tenant": "", "model": str(row["model_id"]), "agent": row["agent_id"], "key": str(row["key_id"])}
        for scope, name in named.items():
            for measure, amount in sums.items():
                found[row["tenant_id"], scope, name, measure] += amount
    return found
