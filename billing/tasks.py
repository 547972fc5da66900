"""Background work of billing."""

from __future__ import annotations

from celery import shared_task
from django.conf import settings

from billing.partitions import make_partitions
from billing.services import forget_expired_claims
from core.clock import utc_now


@shared_task
def make_usage_partitions() -> list[str]:
    """Makes the months ahead; beat runs it daily."""
    return make_partitions(today=utc_now().date(), ahead=settings.QUIVER.partitions_ahead)


@shared_task
def forget_claims() -> int:
    """Deletes idempotency claims that are older than a day; beat runs it every quarter of an hour."""
    return forget_expired_claims()
