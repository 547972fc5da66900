"""What providers counted beyond what was held: the platform's cost, and its operators' to know.

A tenant is charged at most its hold, so whatever lies above it in the ledger is an excess, unless it pays the provider
itself. One alert for each model of a provider and UTC day; its figures grow with the day.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db.models import Count, F, Sum

from alerts import kinds
from alerts import services as alerts
from alerts.selectors import told
from billing.models import UsageRow
from billing.periods import end_of, start_of

# The first looks of a day are still at the day before: its last rows may have been committed after its last look.
_LATE = timedelta(minutes=15)


def check(*, now: datetime) -> None:
    """Tells of the excess of the day, and ends what was told of days before."""
    day = start_of("day", now - _LATE)
    for row in _excess(day):
        subject = f"{row['provider']}/{row['model']}"
        key: dict[str, Any] = {"tenant_id": None, "kind": kinds.PROVIDER_EXCESS, "subject": subject}
        title = f"{row['provider']} counted more tokens of {row['model']} than were held; the platform pays for them"
        detail = {
            "provider": row["provider"],
            "model": row["model"],
            "day": day.date().isoformat(),
            "excess_tokens": int(row["excess"]),
            "requests": row["requests"],
        }
        if alerts.raise_alert(**key, period_start=day, title=title, detail=detail) is None:
            alerts.update_figures(**key, period_start=day, detail=detail)
    ended = [
        each.alert_id
        for each in told(kinds=(kinds.PROVIDER_EXCESS,), since=day)
        if not each.is_resolved and each.period_start is not None and each.period_start < day
    ]
    alerts.resolve_all(alert_ids=ended)


def _excess(day: datetime) -> Iterable[Mapping[str, Any]]:
    end = end_of("day", day)
    return (
        # The ids begin with the time: their index finds the day among the rows of all tenants.
        UsageRow.objects.filter(created_at__gte=day, created_at__lt=end, id__gte=_first_id(day), id__lt=_first_id(end))
        .filter(provider_tokens__gt=F("held_tokens"), paid_by="platform")
        .order_by("provider", "model")
        .values("provider", "model")
        .annotate(excess=Sum(F("provider_tokens") - F("held_tokens")), requests=Count("id"))
    )


def _first_id(moment: datetime) -> UUID:
    return UUID(int=int(moment.timestamp() * 1000) << 80)
