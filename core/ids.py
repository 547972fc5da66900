"""Identifiers: UUIDv7 for rows of the ledger, whose time part is the row's `created_at`."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from random import Random
from uuid import UUID

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_62_BITS = (1 << 62) - 1
_chance = Random()  # our own, so that nobody else seeds it
os.register_at_fork(after_in_child=_chance.seed)


def uuid7(unix_ms: int | None = None) -> UUID:
    """A UUIDv7 (RFC 9562): 48 bits of milliseconds, 74 random bits. `uuid.uuid7` needs Python 3.14."""
    return uuid7_of(time.time_ns() // 1_000_000 if unix_ms is None else unix_ms, os.urandom(10))


def uuid7_of(unix_ms: int, rest: bytes) -> UUID:
    """The one whose other bits come from `rest` (ten bytes or more): the same for the same arguments."""
    value = (unix_ms & 0xFFFF_FFFF_FFFF) << 80 | int.from_bytes(rest[:10])
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return UUID(int=value)


def uuid7_text(unix_ms: int) -> str:
    """A UUIDv7 as text, made as such: on a request's way a `UUID` object costs more than everything it is used for."""
    rest = _chance.getrandbits(74)  # unique is enough: no id is a secret
    text = f"{unix_ms:012x}7{rest >> 62:03x}{0x2 << 62 | rest & _62_BITS:016x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def uuid7_time(value: UUID) -> datetime:
    """The moment in a UUIDv7, in UTC, to the millisecond."""
    return _EPOCH + timedelta(milliseconds=value.int >> 80)


def uuid7_floor(moment: datetime) -> UUID:
    """No id made at this moment or later is smaller: an index of ids finds a time with it."""
    return UUID(int=int(moment.timestamp() * 1000) << 80)
