"""The audit log as a file: JSON lines, the oldest first, of any length. That somebody took it is in the log as well."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from datetime import UTC
from typing import Any
from uuid import UUID

import orjson
from django.db.models import QuerySet

from audit.models import AuditEvent
from audit.services import record
from core.clock import utc_now
from core.ids import uuid7_floor
from tenants.streaming import pages

_COLUMNS = (
    "id",
    "created_at",
    "tenant_id",
    "actor_kind",
    "actor_id",
    "actor",
    "action",
    "subject_kind",
    "subject_id",
    "before",
    "after",
    "address",
    "request_id",
)


def export(
    tenant_id: UUID | None, rows: QuerySet[AuditEvent], *, asked: Mapping[str, str], by_operator: bool
) -> AsyncIterator[bytes]:
    """What was done until now; `asked` are the filters in the caller's words."""
    until = uuid7_floor(utc_now())
    record(
        "audit_log.exported", tenant_id=tenant_id, subject="audit_log", subject_id="", after={"filters": dict(asked)}
    )
    return _lines(None if by_operator else tenant_id, rows.filter(id__lt=until))


async def _lines(tenant_id: UUID | None, rows: QuerySet[AuditEvent]) -> AsyncIterator[bytes]:
    async for page in pages(tenant_id, rows.values_list(*_COLUMNS)):
        yield b"".join(orjson.dumps(_told(row), option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z) for row in page)


def _told(row: tuple[Any, ...]) -> dict[str, Any]:
    """As the REST door shows one."""
    found = dict(zip(_COLUMNS, row, strict=True))
    return {
        "id": found["id"],
        "created_at": found["created_at"].astimezone(UTC),
        "tenant": found["tenant_id"],
        "actor": {"kind": found["actor_kind"], "id": found["actor_id"], "name": found["actor"]},
        "action": found["action"],
        "subject": {"kind": found["subject_kind"], "id": found["subject_id"]},
        "before": found["before"],
        "after": found["after"],
        "address": found["address"],
        "request_id": found["request_id"],
    }
