"""When a message that could not be sent is tried again, and when no more. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta

MOST_ATTEMPTS = 8
_FIRST, _LONGEST = timedelta(minutes=1), timedelta(hours=1)


def next_try(attempts: int, now: datetime) -> datetime | None:
    """After so many failed attempts: 1, 2, 4 … minutes, about two hours in all. None: no more."""
    if attempts >= MOST_ATTEMPTS:
        return None
    wait: timedelta = _FIRST * 2 ** (attempts - 1)
    return now + min(wait, _LONGEST)
