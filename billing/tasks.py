"""Background work of billing."""

from __future__ import annotations

from celery import shared_task
from django.conf import settings

from billing.partitions import make_partitions
from core.clock import utc_now


@shared_task
def make_usage_partitions() -> list[str]:
    """Makes the months ahead; beat runs it daily."""
    return make_partitions(today=utc_now().date(), ahead=settings.QUIVER.partitions_ahead)
