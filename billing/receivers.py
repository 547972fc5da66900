"""What billing does when the catalogue tells of something.

Failure: the broker gone means a logged error; the nightly `adjust_for_corrections` finds what was not queued.
"""

from __future__ import annotations

import logging

from django.dispatch import receiver
from kombu.exceptions import OperationalError

from billing import tasks
from catalog.signals import price_corrected

log = logging.getLogger(__name__)


@receiver(price_corrected)
def adjust_what_was_charged(sender: object, *, price_id: int, **_: object) -> None:
    """Has the difference booked."""
    try:
        tasks.queue_adjustments(price_id)
    except OperationalError as error:
        log.error("the adjustments of price %s wait for the night: %s", price_id, error)
