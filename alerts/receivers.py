"""What the catalogue tells, as alerts for the platform's operators.

What tenants are told of a model's end is billing's: it knows their figures.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.dispatch import receiver

from alerts import kinds
from alerts.services import raise_alert, resolve
from catalog import signals
from catalog.services import find_model
from core.clock import utc_now

_DRIFT, _PROVIDER = "drift", "provider"  # causes of `catalog.lifecycle.Cause`


@receiver(signals.model_moved)
def on_move(sender: object, *, model_id: UUID, was: str, now: str, cause: str, reason: str, **about: Any) -> None:
    """Tells of a model that was taken out by itself, and ends that when it is back or gone."""
    subject = str(model_id)
    # A deprecated model that drifts has no way but its end.
    is_drift = cause == _DRIFT or (was == "deprecated" and now == "removed" and reason.startswith("drifted"))
    if is_drift or cause == _PROVIDER:
        row = find_model(model_id)
        kind = kinds.MODEL_DRIFTED if is_drift else kinds.MODEL_UNAVAILABLE
        what = "answers with vectors of another space" if is_drift else "was taken out"
        raise_alert(
            tenant_id=None,
            kind=kind,
            subject=subject,
            period_start=utc_now(),
            title=f"{row} {what}",
            detail={"model": str(row), "space": row.space.slug, "state": now, "reason": reason},
        )
    elif was == "unavailable":
        for kind in (kinds.MODEL_DRIFTED, kinds.MODEL_UNAVAILABLE):
            resolve(tenant_id=None, kind=kind, subject=subject)


@receiver(signals.sunset_moved)
def on_sunset_moved(sender: object, *, model_id: UUID, now: datetime | None, reason: str, **about: Any) -> None:
    """Tells that a model outlives the end that tenants were told of."""
    row = find_model(model_id)
    raise_alert(
        tenant_id=None,
        kind=kinds.SUNSET_MOVED,
        subject=str(model_id),
        period_start=now,
        title=f"{row} ends later than was told",
        detail={"model": str(row), "sunset": "" if now is None else now.isoformat(), "reason": reason},
    )


@receiver(signals.discovery_ended)
def on_discovery(
    sender: object, *, run_id: UUID, provider: str, outcome: str, changes: Mapping[str, int], detail: str, **about: Any
) -> None:
    """Tells once a day of a vendor whose list cannot be read, and of each run that waits for somebody."""
    if outcome == "failed":
        raise_alert(
            tenant_id=None,
            kind=kinds.DISCOVERY_FAILED,
            subject=provider,
            period_start=_today(),
            title=f"The list of models of {provider} could not be read",
            detail={"provider": provider, "reason": detail, "run": str(run_id)},
        )
    elif outcome in ("unchanged", "applied", "waiting"):
        resolve(tenant_id=None, kind=kinds.DISCOVERY_FAILED, subject=provider)
    if outcome == "waiting":
        raise_alert(
            tenant_id=None,
            kind=kinds.DISCOVERY_WAITING,
            subject=provider,
            period_start=_today(),
            title=f"What {provider} lists waits for approval",
            detail={"provider": provider, "run": str(run_id), **changes},
        )


@receiver(signals.prices_unsettled)
def on_prices(sender: object, *, model_id: UUID, told: Mapping[str, Decimal], outcome: str, **about: Any) -> None:
    """Tells once a month of a price that nobody settled."""
    row = find_model(model_id)
    words = {
        "disagree": "Sources disagree about the price of",
        "absurd": "No source can mean the price of",
        "wait": "A price waits for approval, of",
    }
    raise_alert(
        tenant_id=None,
        kind=kinds.PRICES_UNSETTLED,
        subject=f"{model_id}/{outcome}",
        period_start=_today().replace(day=1),
        title=f"{words[outcome]} {row}",
        detail={"model": str(row), **{name: f"{usd:f}" for name, usd in told.items()}},
    )


def _today() -> datetime:
    return utc_now().replace(hour=0, minute=0, second=0, microsecond=0)
