"""What billing does when the catalogue or the tenants tell of something, and what it answers when they ask.

Failure: the broker gone means a logged error; the nightly `adjust_for_corrections` finds what was not queued.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from datetime import datetime
from uuid import UUID

from django.dispatch import receiver
from kombu.exceptions import OperationalError

from billing import services, tasks
from billing.model_use import used_since
from catalog.signals import price_corrected, use_asked
from tenants.signals import key_rotated

log = logging.getLogger(__name__)


@receiver(price_corrected)
def adjust_what_was_charged(sender: object, *, price_id: int, **_: object) -> None:
    """Has the difference booked."""
    try:
        tasks.queue_adjustments(price_id)
    except OperationalError as error:
        log.error("the adjustments of price %s wait for the night: %s", price_id, error)


@receiver(use_asked)
def tell_of_use(sender: object, *, model_ids: Collection[UUID], since: datetime, **_: object) -> set[UUID]:
    """Which of some models tenants used since then."""
    return used_since(model_ids, since)


@receiver(key_rotated)
def hand_over_limits(sender: object, *, tenant_id: UUID | None, old: UUID, new: UUID, **_: object) -> None:
    """Shows the limits of a key at its successor."""
    if tenant_id is not None:
        services.hand_over_limits(tenant_id=tenant_id, old=old, new=new)
