"""The periods of limits: calendar minutes, days and months in UTC. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType

_STARTS: Mapping[str, Callable[[datetime], datetime]] = MappingProxyType(
    {
        "minute": lambda moment: moment.replace(second=0, microsecond=0),
        "day": lambda moment: moment.replace(hour=0, minute=0, second=0, microsecond=0),
        "month": lambda moment: moment.replace(day=1, hour=0, minute=0, second=0, microsecond=0),
    }
)
# Longer than the period, and shorter than two of them.
_BEYOND: Mapping[str, timedelta] = MappingProxyType(
    {"minute": timedelta(seconds=61), "day": timedelta(hours=25), "month": timedelta(days=32)}
)


def start_of(period: str, moment: datetime) -> datetime:
    """When the period began that `moment` lies in."""
    return _STARTS[period](moment.astimezone(UTC))


def end_of(period: str, moment: datetime) -> datetime:
    """When it ends, which is when the next one begins."""
    return start_of(period, start_of(period, moment) + _BEYOND[period])
