"""Which part of a time is read from hours that were added up, and which from the ledger itself. Pure.

The hours between are whole ones that are over for good (`billing.rollups`); what is before the first whole hour and
what is after the last comes from rows, so that every time is exact to the instant.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

HOUR = timedelta(hours=1)
Span = tuple[datetime, datetime]  # from the first on, before the second


@dataclass(frozen=True, slots=True)
class Parts:
    """A time, taken apart without gap or overlap."""

    hours: Span | None
    rows: tuple[Span, ...]


def parts(since: datetime, until: datetime, *, rolled_until: datetime | None) -> Parts:
    """`rolled_until` is the hour up to which all is added up; None: nothing is."""
    first = floor_hour(since)
    first = first if first == since else first + HOUR
    last = floor_hour(until) if rolled_until is None else min(floor_hour(until), rolled_until)
    if rolled_until is None or last <= first:
        return Parts(None, ((since, until),) if since < until else ())
    return Parts((first, last), tuple(each for each in ((since, first), (last, until)) if each[0] < each[1]))


def floor_hour(moment: datetime) -> datetime:
    """The beginning of its hour."""
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
