"""Looks at how limits stand and does what follows: alerts at thresholds, and the state *quota exceeded* of models.

Decides nothing about percentages (`billing.thresholds`) and nothing about figures (`billing.standing`). Every function
may run at any time, twice at once too: an alert is there once, a state is moved by a conditional update.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import transaction

from alerts import kinds
from alerts import services as alerts
from alerts.kinds import Severity
from alerts.selectors import Told, told
from billing.limit_gauges import observe_budgets, observe_quotas
from billing.models import Limit
from billing.periods import start_of
from billing.standing import CALENDAR, LimitStanding, figure, standings
from billing.thresholds import ALL, judge, kind_of, thresholds_of
from core.clock import utc_now
from tenants import services as tenants
from tenants import settings as tenant_settings
from tenants.models import ApiKey, Tenant, TenantModel

QUOTAS = (Limit.Measure.TOKENS, Limit.Measure.REQUESTS)
BUDGETS = (Limit.Measure.USD,)
_OBSERVE: Mapping[Collection[str], Callable[[Iterable[LimitStanding]], None]] = {
    QUOTAS: observe_quotas,
    BUDGETS: observe_budgets,
}
_KINDS: Mapping[Collection[str], Collection[str]] = {
    QUOTAS: (kinds.QUOTA_WARNING, kinds.QUOTA_EXCEEDED),
    BUDGETS: (kinds.BUDGET_WARNING, kinds.BUDGET_EXCEEDED),
}


def check(measures: Collection[str], *, now: datetime, tenant_id: UUID | None = None) -> None:
    """Checks the limits of these measures per day and month, of one tenant or of all, and the states of models."""
    said = _said(measures, now, tenant_id)
    found = standings(tenant_id, now=now, periods=CALENDAR)
    _check_thresholds(found, measures, said)
    _check_states(found, tenant_id)
    if tenant_id is None:
        _OBSERVE[measures](found)


def check_soon(tenant_id: UUID) -> None:
    """Checks all limits of a tenant once the transaction is committed. A failure is logged: beat looks every minute."""
    transaction.on_commit(lambda: _check_all(tenant_id), robust=True)


def _check_all(tenant_id: UUID) -> None:
    now = utc_now()
    said = {measures: _said(measures, now, tenant_id) for measures in _KINDS}
    found = standings(tenant_id, now=now, periods=CALENDAR)
    for measures in _KINDS:
        _check_thresholds(found, measures, said[measures])
    _check_states(found, tenant_id)


def _said(measures: Collection[str], now: datetime, tenant_id: UUID | None) -> list[Told]:
    """To be read before the limits: what is told of one made meanwhile would look like that of one that is gone."""
    every = (*_KINDS[tuple(measures)], kinds.WOULD_HAVE_REFUSED)
    return told(kinds=every, since=start_of("month", now), tenant_id=tenant_id)


def _check_thresholds(found: Iterable[LimitStanding], measures: Collection[str], rows: Iterable[Told]) -> None:
    known = {str(each.limit_id): each for each in found}
    said: dict[str, list[Told]] = defaultdict(list)
    over: list[UUID] = []
    for each in rows:
        limit = known.get(each.subject)
        if limit is not None and each.period_start == limit.period_start:
            said[each.subject].append(each)
        elif not each.is_resolved and (limit is None or _has_ended(each, limit)):
            over.append(each.alert_id)
    back: list[UUID] = []
    chosen = _chosen_by_tenants({each.tenant_id for each in known.values()})
    for key, limit in known.items():
        if limit.measure not in measures:
            continue
        if limit.mode == Limit.Mode.SHADOW:
            over += _check_shadow(limit, said[key])
        else:
            ended, returned = _check_limit(limit, said[key], chosen[limit.tenant_id])
            over += ended
            back += returned
    alerts.resolve_all(alert_ids=over)
    alerts.reopen_all(alert_ids=back)


def _has_ended(said: Told, limit: LimitStanding) -> bool:
    # Not so one that a machine whose clock is ahead of ours told of in the period to come.
    return said.period_start is None or said.period_start < limit.period_start


def _check_limit(limit: LimitStanding, said: Iterable[Told], chosen: Collection[int]) -> tuple[list[UUID], list[UUID]]:
    """Tells what is new; returns the alerts that are over and those that are back."""
    ids = {each.threshold: each.alert_id for each in said if each.threshold is not None}
    thresholds = thresholds_of(limit.thresholds, tuple(chosen), is_hard=limit.mode == Limit.Mode.HARD)
    verdict = judge(
        amount=limit.amount,
        used=limit.amount if limit.is_refusing else limit.used,
        thresholds=thresholds,
        told=ids,
        resolved={each.threshold for each in said if each.is_resolved and each.threshold is not None},
    )
    if verdict.tell is not None:
        _tell(limit, verdict.tell, verdict.covered)
    return [ids[each] for each in verdict.cleared], [ids[each] for each in verdict.returned]


def _tell(limit: LimitStanding, threshold: int, covered: Collection[int]) -> None:
    name = _name(limit)
    if threshold >= ALL and limit.used < limit.amount:
        used = f"{_amount(limit, limit.used)} of {_amount(limit, limit.amount)} per {limit.period} used"
        title = f"{used}, too little left for what is asked: {name}"
    elif threshold >= ALL:
        title = f"{_amount(limit, limit.amount)} per {limit.period} used up: {name}"
    else:
        title = f"{threshold} % of {_amount(limit, limit.amount)} per {limit.period} used: {name}"
    detail = _figures(limit, name)
    if covered:
        detail["also_crossed"] = ", ".join(f"{each} %" for each in covered)
    alerts.raise_alert(
        tenant_id=limit.tenant_id,
        kind=kind_of(limit.measure, threshold),
        subject=str(limit.limit_id),
        period_start=limit.period_start,
        threshold=threshold,
        title=title,
        detail=detail,
    )


def _check_shadow(limit: LimitStanding, said: Collection[Told]) -> list[UUID]:
    """Tells what is new; returns the alerts from before it became a shadow."""
    before = [each.alert_id for each in said if each.kind != kinds.WOULD_HAVE_REFUSED and not each.is_resolved]
    if limit.used <= limit.amount or any(each.kind == kinds.WOULD_HAVE_REFUSED for each in said):
        return before
    name = _name(limit)
    alerts.raise_alert(
        tenant_id=limit.tenant_id,
        kind=kinds.WOULD_HAVE_REFUSED,
        subject=str(limit.limit_id),
        period_start=limit.period_start,
        title=f"A shadow limit of {_amount(limit, limit.amount)} per {limit.period} would have refused: {name}",
        detail=_figures(limit, name),
        severity=Severity.INFO,
    )
    return before


def _check_states(found: Iterable[LimitStanding], tenant_id: UUID | None) -> None:
    used_up = {
        UUID(each.scope_id)
        for each in found
        if each.scope == Limit.Scope.MODEL and each.mode == Limit.Mode.HARD and each.is_used_up
    }
    state = TenantModel.State
    rows = TenantModel.objects.filter(state__in=[state.ENABLED, state.QUOTA_EXCEEDED])
    if tenant_id is not None:
        rows = rows.filter(tenant_id=tenant_id)
    spent = rows.filter(state=state.ENABLED, id__in=used_up).values_list("tenant_id", "id")
    for whose, row_id in spent.order_by("tenant_id"):
        tenants.mark_quota_exceeded(tenant_id=whose, tenant_model_id=row_id)
    restored = rows.filter(state=state.QUOTA_EXCEEDED).exclude(id__in=used_up).values_list("tenant_id", "id")
    for whose, row_id in restored.order_by("tenant_id"):
        tenants.mark_quota_restored(tenant_id=whose, tenant_model_id=row_id)


def _chosen_by_tenants(tenant_ids: Collection[UUID]) -> Mapping[UUID, tuple[int, ...]]:
    rows = Tenant.objects.filter(id__in=tenant_ids).values_list("id", "settings")
    return {tenant_id: tenant_settings.parse(raw).thresholds for tenant_id, raw in rows}


def _figures(limit: LimitStanding, name: str) -> dict[str, Any]:
    return {
        "of": name,
        "scope": limit.scope,
        "scope_id": limit.scope_id,
        "measure": limit.measure,
        "period": limit.period,
        "mode": limit.mode,
        "limit": figure(limit.measure, limit.amount),
        "used": figure(limit.measure, limit.used),
        "held": figure(limit.measure, limit.held),
        "remaining": figure(limit.measure, limit.remaining),
        "resets_at": limit.resets_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def _amount(limit: LimitStanding, amount: int) -> str:
    if limit.measure == Limit.Measure.USD:
        return f"{figure(limit.measure, amount)} USD"
    return f"{amount:,} {limit.measure}"


def _name(limit: LimitStanding) -> str:
    """What is limited, in a person's words; one query, for what is told of only."""
    if limit.scope == Limit.Scope.TENANT:
        return "the whole tenant"
    found: str | None = limit.scope_id
    if limit.scope == Limit.Scope.MODEL:
        rows = TenantModel.objects.filter(tenant_id=limit.tenant_id, id=limit.scope_id)
        found = rows.values_list("model__name", flat=True).first()
    elif limit.scope == Limit.Scope.KEY:
        found = (
            ApiKey.objects.filter(tenant_id=limit.tenant_id, id=limit.scope_id).values_list("name", flat=True).first()
        )
    return f"{limit.scope} {found or limit.scope_id}"
