"""Calendar periods, in UTC: minute, day, month. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


def start_of(period: str, moment: datetime) -> datetime:
    """The first moment of the minute, day or month that holds `moment`."""
    start = moment.astimezone(UTC).replace(second=0, microsecond=0)
    if period == "minute":
        return start
    start = start.replace(hour=0, minute=0)
    if period == "day":
        return start
    if period == "month":
        return start.replace(day=1)
    raise ValueError(f"There is no period {period}.")


def end_of(period: str, moment: datetime) -> datetime:
    """The first moment of the next period: where this one ends, not included."""
    start = start_of(period, moment)
    if period == "minute":
        return start + timedelta(minutes=1)
    if period == "day":
        return start + timedelta(days=1)
    return (start + timedelta(days=31)).replace(day=1)
