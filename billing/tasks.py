"""Background work of billing."""

from __future__ import annotations

from datetime import date, timedelta

from celery import shared_task
from django.conf import settings

from billing.adjustments import adjust, first_day
from billing.partitions import make_partitions
from billing.services import forget_expired_claims
from catalog.corrections import corrections_since, find_correction
from core.clock import utc_now

_DAYS_PER_TASK = 31  # one task may take ten minutes
_LOOK_BACK = timedelta(days=8)


@shared_task
def make_usage_partitions() -> list[str]:
    """Makes the months ahead; beat runs it daily."""
    return make_partitions(today=utc_now().date(), ahead=settings.QUIVER.partitions_ahead)


@shared_task
def forget_claims() -> int:
    """Deletes idempotency claims that are older than a day; beat runs it every quarter of an hour."""
    return forget_expired_claims()


def queue_adjustments(price_id: int) -> None:
    """Queues the adjustments of a corrected price: now, and again when what is under way has been booked."""
    under_way_s = (settings.QUIVER.deadline_ms + settings.QUIVER.ledger_wait_ms) / 1000
    for countdown in (0, under_way_s + settings.QUIVER.poll_seconds):
        adjust_for_correction.apply_async((price_id,), countdown=countdown)


@shared_task
def adjust_for_correction(price_id: int, day: str | None = None) -> None:
    """Books what is missing of what a corrected price changed, some days at a time."""
    correction = find_correction(price_id)
    if correction is None:
        return
    begins = first_day(correction) if day is None else date.fromisoformat(day)
    left = None if begins is None else adjust(correction, day=begins, days=_DAYS_PER_TASK)
    if left is not None:
        adjust_for_correction.delay(price_id, left.isoformat())


@shared_task
def adjust_for_corrections() -> None:
    """The same for the last days' corrections, should one not have been queued; beat runs it each night."""
    now = utc_now()
    for price_id in corrections_since(now - _LOOK_BACK):
        adjust_for_correction.delay(price_id)
