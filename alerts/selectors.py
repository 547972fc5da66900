"""Reads of alerts and channels that have a name. The tenant comes first; None is the platform's operator."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db.models import Prefetch, Q, QuerySet

from alerts.models import Alert, AlertChannel, Delivery
from core.errors import NotFound


@dataclass(frozen=True, slots=True)
class Told:
    """An alert, as those need it who decide whether to raise another."""

    alert_id: UUID
    tenant_id: UUID | None
    kind: str
    subject: str
    period_start: datetime | None
    threshold: int | None
    is_resolved: bool


def whose(tenant_id: UUID | None) -> Q:
    """Rows of a tenant, or of the platform."""
    return Q(tenant_id=tenant_id)


def told(*, kinds: Collection[str], since: datetime, tenant_id: UUID | None = None) -> list[Told]:
    """Alerts of these kinds, of one tenant or of everybody: those of periods that began since then, and what is
    unresolved from before."""
    rows = Alert.objects.filter(Q(period_start__gte=since) | ~Q(state=Alert.State.RESOLVED), kind__in=kinds)
    if tenant_id is not None:
        rows = rows.filter(tenant_id=tenant_id)
    columns = ("id", "tenant_id", "kind", "subject_key", "period_start", "threshold", "state")
    return [
        Told(alert_id, owner, kind, subject, began, threshold, state == Alert.State.RESOLVED)
        for alert_id, owner, kind, subject, began, threshold, state in rows.values_list(*columns)
    ]


def alerts_of(tenant_id: UUID | None) -> QuerySet[Alert]:
    """A tenant's alerts, the newest first."""
    return Alert.objects.filter(whose(tenant_id))


def find_alert(tenant_id: UUID | None, alert_id: UUID) -> Alert:
    """The tenant's own row with its deliveries, or `NotFound`."""
    deliveries = Prefetch("deliveries", Delivery.objects.select_related("channel"))
    row = alerts_of(tenant_id).filter(id=alert_id).prefetch_related(deliveries).first()
    if row is None:
        raise NotFound(f"There is no alert {alert_id}.")
    return row


def channels_of(tenant_id: UUID | None) -> QuerySet[AlertChannel]:
    """A tenant's channels, the newest first."""
    return AlertChannel.objects.filter(whose(tenant_id))


def find_channel(tenant_id: UUID | None, channel_id: UUID) -> AlertChannel:
    """The tenant's own row, or `NotFound`."""
    row = channels_of(tenant_id).filter(id=channel_id).first()
    if row is None:
        raise NotFound(f"There is no alert channel {channel_id}.")
    return row


def last_test(channel: AlertChannel) -> Delivery | None:
    """How the last test of a channel went."""
    return Delivery.objects.filter(channel=channel, alert=None).first()
