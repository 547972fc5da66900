"""Background work of billing.

Failure: PostgreSQL gone is a failed task; beat runs each again, and all of them take up what was left undone.
"""

from __future__ import annotations

from celery import shared_task
from django.conf import settings

from billing import excess, limit_checks, sunsets
from billing.partitions import make_partitions
from core.clock import utc_now


@shared_task
def make_usage_partitions() -> list[str]:
    """Makes the months ahead; beat runs it daily."""
    return make_partitions(today=utc_now().date(), ahead=settings.QUIVER.partitions_ahead)


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


@shared_task
def look_at_sunsets() -> None:
    """Tells tenants of models that end, and ends those whose time has come; beat runs it each hour."""
    sunsets.look(now=utc_now())
