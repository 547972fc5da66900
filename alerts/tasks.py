"""Background work of alerts: telling people.

Failure: the broker gone is a line in the log; what waits is picked up by `deliver_due`, which beat runs every minute.
"""

from __future__ import annotations

from uuid import UUID

from celery import shared_task
from django.db import transaction

from alerts import delivering
from core.clock import utc_now


@shared_task
def deliver(delivery_id: str) -> None:
    """Sends one."""
    delivering.deliver(UUID(delivery_id), now=utc_now())


@shared_task
def deliver_due() -> None:
    """Sends what is due: second tries, and what was never handed over."""
    for delivery_id in delivering.due(utc_now()):
        deliver.delay(str(delivery_id))


def after_commit(delivery_id: UUID) -> None:
    """Hands a delivery to Celery once its row is committed. Once is enough: beat looks for what is left."""
    transaction.on_commit(lambda: deliver.apply_async((str(delivery_id),), retry=False), robust=True)
