"""From when on single requests of a tenant are kept that has said for how long. Pure.

Never given up: the running calendar month and the one before it, in which limits count and corrections are booked, and
whatever is not in the sums of its hours yet. Adjustments and unresolved requests stay whatever their age (`STAYS`).
"""

from __future__ import annotations

from datetime import datetime, timedelta

from billing.periods import start_of

# Of usage rows: what a correction booked, and what keeps a request from being charged late.
STAYS = "status = 'unresolved' OR source = 'adjustment'"
_A_DAY = timedelta(days=1)


def kept_from(
    *, days: int, now: datetime, added_up_until: datetime | None, late: datetime | None = None
) -> datetime | None:
    """A midnight; None: all is kept. Hours are added up to `added_up_until` (None: none is), and of the tenant's hours
    `late` is the first that is to be added up anew."""
    if added_up_until is None:
        return None
    wished = start_of("day", now - days * _A_DAY)
    month_before = start_of("month", start_of("month", now) - _A_DAY)
    sure = [start_of("day", each) for each in (added_up_until, late) if each is not None]
    return min(wished, month_before, *sure)
