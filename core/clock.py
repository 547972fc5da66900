"""Time as an argument: what decides by the clock takes one, so that tests own it."""

from __future__ import annotations

import time
from datetime import UTC, datetime


def utc_now() -> datetime:
    """The present moment, aware, in UTC."""
    return datetime.now(UTC)


def unix_ms() -> int:
    """Milliseconds since 1970, the resolution of a UUIDv7."""
    return time.time_ns() // 1_000_000
