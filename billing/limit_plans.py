"""The limits of a request as Redis is told them, written down once for all requests alike. Pure."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import NamedTuple
from uuid import UUID

import msgspec

from billing.limit_scripts import BUCKET_MS, BUCKETS, HOLD, SETTLE
from billing.limit_terms import MEASURES, LimitTerms
from billing.periods import end_of, start_of
from billing.redis_pipe import Prepared

_CALENDAR = struct.Struct("<4d")
_RATE = struct.Struct("<2d")
_encode = msgspec.msgpack.Encoder().encode


def keys_of(tenant_id: UUID) -> tuple[bytes, bytes]:
    """The hash and the holds; on one node of a cluster."""
    key = f"ql:{{{tenant_id}}}".encode()
    return key, key + b":holds"


def field_of(terms: LimitTerms, moment: datetime) -> bytes:
    """The field in which a limit's period that holds `moment` is kept."""
    if terms.is_rate:
        return b"r:" + terms.limit_id.hex.encode()
    return calendar_field(terms.limit_id, terms.period, start_of(terms.period, moment))


def calendar_field(limit_id: UUID, period: str, start: date) -> bytes:
    """The field of the day or month that begins with `start`."""
    return f"c:{limit_id.hex}:{period[0]}{start:%Y%m%d}".encode()


def refused_key(tenant_id: UUID, field: bytes) -> bytes:
    """Where it is written down what a day or month refused last: `<need> <used>`, in the limit's unit."""
    return keys_of(tenant_id)[0] + b":refused:" + field


class Plan:
    """The limits that apply to a request, in the day in which it began."""

    __slots__ = (
        "ends",
        "fields",
        "hard",
        "has_hard_calendar",
        "holding",
        "is_pooled",
        "key",
        "limits",
        "settling",
        "soft",
        "starts",
        "tenant_id",
        "told",
        "until_ms",
        "written",
        "zkey",
    )

    def __init__(
        self,
        tenant_id: UUID,
        limits: Sequence[LimitTerms],
        created_ms: int,
        *,
        lease_ms: int = 60_000,
        bucket_ms: int = BUCKET_MS,
    ) -> None:
        moment = datetime.fromtimestamp(created_ms / 1000, UTC)
        self.tenant_id = tenant_id
        self.limits = tuple(limits)
        self.key, self.zkey = keys_of(tenant_id)
        self.fields = [field_of(each, moment) for each in self.limits]
        self.starts: list[date] = [start_of(each.period, moment).date() for each in self.limits]
        self.ends = [end_of(each.period, moment) for each in self.limits]
        # Midnight ends all periods that can end.
        self.until_ms = int(end_of("day", moment).timestamp() * 1000)
        self.is_pooled = not all(each.is_rate for each in self.limits)
        self.has_hard_calendar = any(each.is_hard and not each.is_rate for each in self.limits)
        self.soft = [index for index, each in enumerate(self.limits) if not each.is_hard]
        # By measure, the hard ones: which, how much, and when it ends (None: a rate).
        self.hard: dict[str, list[tuple[int, int, float | None]]] = {}
        for index, (each, end) in enumerate(zip(self.limits, self.ends, strict=True)):
            if each.is_hard:
                ends_s = None if each.is_rate else end.timestamp()
                self.hard.setdefault(each.measure, []).append((index, each.amount, ends_s))
        flat: list[object] = []
        for each, field in zip(self.limits, self.fields, strict=True):
            flat += [
                field.decode(),
                int(each.is_rate),
                MEASURES.index(each.measure) + 1,
                int(each.is_hard),
                each.amount,
            ]
        self.written: bytes = _encode(flat)
        # However many limits there are, a request only adds who it is and what it asks.
        keys = (2, self.key, self.zkey)
        self.holding = Prepared(b"EVALSHA", HOLD.sha, *keys, bucket_ms, self.written, lease_ms)
        self.settling = Prepared(b"EVALSHA", SETTLE.sha, *keys, bucket_ms, self.written)
        self.told = struct.Struct(f"<{len(self.limits) + 1}d")  # the answer: when, and what is left of each

    def need(self, index: int, tokens: int, nano: int, requests: int = 1) -> int:
        """Of the limit's own measure."""
        measure = self.limits[index].measure
        return requests if measure == "requests" else tokens if measure == "tokens" else nano


class Member(NamedTuple):
    """A hold as Redis keeps it; all that is needed to settle it without its worker."""

    request_id: str
    model_id: str
    epoch: str
    tokens: int
    nano: int
    head: bytes
    plan: bytes


def head_of(request_id: str, model_id: str, epoch: str, tokens: int, nano: int, number: int) -> bytes:
    """What a hold's member begins with; its plan follows. All that a request asks stands in it."""
    return f"{request_id} {model_id} {epoch} {tokens} {nano} {number}\n".encode()


def charge_of(held_ms: float, tokens: int, nano: int, requests: int) -> bytes:
    """What a settled hold is charged, and when it was held."""
    return b"%d %d %d %d" % (held_ms, tokens, nano, requests)


def read_member(raw: bytes) -> Member:
    head, newline, plan = raw.partition(b"\n")
    request_id, model_id, epoch, tokens, nano, _ = head.decode().split(" ")
    return Member(request_id, model_id, epoch, int(tokens), int(nano), head + newline, plan)


def read_calendar(raw: bytes) -> tuple[int, int, int, int]:
    """Granted, base, used, held."""
    granted, base, used, held = _CALENDAR.unpack(raw)
    return int(granted), int(base), int(used), int(held)


def read_rate(raw: bytes, now_ms: float, bucket_ms: float) -> int:
    """What counts in the window that ends now."""
    total, last = _RATE.unpack_from(raw)
    slot = now_ms // bucket_ms
    if slot - last >= BUCKETS:
        return 0
    ring = struct.unpack_from(f"<{BUCKETS}d", raw, 16)
    gone = sum(ring[int(each) % BUCKETS] for each in range(int(last) + 1, int(slot) + 1))
    return int(total - gone)
