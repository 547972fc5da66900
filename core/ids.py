"""Identifiers: UUIDv7 for rows of the ledger, whose time part is the row's `created_at`."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from uuid import UUID

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def uuid7(unix_ms: int | None = None) -> UUID:
    """A UUIDv7 (RFC 9562): 48 bits of milliseconds, 74 random bits. `uuid.uuid7` needs Python 3.14."""
    ms = time.time_ns() // 1_000_000 if unix_ms is None else unix_ms
    value = int.from_bytes(os.urandom(10))
    value = (ms & 0xFFFF_FFFF_FFFF) << 80 | value
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return UUID(int=value)


def uuid7_time(value: UUID) -> datetime:
    """The moment in a UUIDv7, in UTC, to the millisecond."""
    return _EPOCH + timedelta(milliseconds=value.int >> 80)
