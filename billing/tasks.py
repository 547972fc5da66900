"""Background work of billing.

Failure: PostgreSQL gone is a failed task; beat runs each again, and all of them take up what was left undone.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import date, timedelta

from celery import shared_task
from django.conf import settings

from billing import excess, forgetting, limit_checks, sunsets
from billing.adjustments import adjust, first_day
from billing.partitions import make_partitions
from billing.reconciling import reconcile
from billing.rollups import roll_up
from billing.services import forget_expired_claims
from catalog.corrections import corrections_since, find_correction
from core.clock import utc_now

_DAYS_PER_TASK = 31  # one task may take ten minutes
_STEPS_PER_TASK = 200  # of some thousand rows each
_LOOK_BACK = timedelta(days=8)


@shared_task
def make_usage_partitions() -> list[str]:
    """Makes the months ahead; beat runs it daily."""
    return make_partitions(today=utc_now().date(), ahead=settings.QUIVER.partitions_ahead)


@shared_task
def forget_claims() -> int:
    """Deletes idempotency claims that are older than a day; beat runs it every quarter of an hour."""
    return forget_expired_claims()


@shared_task
def forget_usage() -> None:
    """Deletes single requests that tenants no longer keep; beat runs it each night. Goes on with a task of its own."""
    if forgetting.forget_usage(now=utc_now(), steps=_STEPS_PER_TASK):
        forget_usage.delay()


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


@shared_task
def check_limits() -> None:
    """Tells of limits of tokens and requests, and moves models to *quota exceeded* and back; beat runs it each
    minute."""
    limit_checks.check(limit_checks.QUOTAS, now=utc_now())


@shared_task
def check_budgets() -> None:
    """The same for limits of money."""
    limit_checks.check(limit_checks.BUDGETS, now=utc_now())


@shared_task
def check_provider_excess() -> None:
    """Tells operators what providers counted beyond what was held."""
    excess.check(now=utc_now())


@shared_task(expires=60)
def add_up_usage() -> int:
    """Adds usage up by the hour, late rows included; beat runs it each minute."""
    return roll_up(now=utc_now())


@shared_task(expires=60)
def reconcile_limits() -> dict[str, int]:
    """Settles what expired and counts what is over; beat runs it every `QUIVER_RECONCILE_SECONDS`."""
    return asdict(reconcile(lease_s=settings.QUIVER.lease_s))


@shared_task
def look_at_sunsets() -> None:
    """Tells tenants of models that end, and ends those whose time has come; beat runs it each hour."""
    sunsets.look(now=utc_now())
