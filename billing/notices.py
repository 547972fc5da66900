"""When a tenant is told that a model ends. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta

DAYS = (0, 1, 7, 30, 90)  # before the end; the nearest one that has come counts
GRAVE_FROM = 1


def due_notice(*, sunset_at: datetime, now: datetime) -> int | None:
    """The notice that is due, as days before the end; None: it is too far away. Who was told of that one already is
    not told again, and one that was missed is not made up for by two."""
    left = sunset_at - now
    return next((days for days in DAYS if left <= timedelta(days=days)), None)


def severity(days: int) -> str:
    """How grave the notice is."""
    return "critical" if days <= GRAVE_FROM else "warning"
