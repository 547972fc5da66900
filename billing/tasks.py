"""Background work of billing."""

from __future__ import annotations

from dataclasses import asdict

from celery import shared_task
from django.conf import settings

from billing.partitions import make_partitions
from billing.reconciling import reconcile
from core.clock import utc_now


@shared_task
def make_usage_partitions() -> list[str]:
    """Makes the months ahead; beat runs it daily."""
    return make_partitions(today=utc_now().date(), ahead=settings.QUIVER.partitions_ahead)


@shared_task(expires=60)
def reconcile_limits() -> dict[str, int]:
    """Settles what expired and counts what is over; beat runs it every `QUIVER_RECONCILE_SECONDS`."""
    return asdict(reconcile(lease_s=settings.QUIVER.lease_s))
