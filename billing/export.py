"""Usage rows as CSV of any length, while they are read.

Owns how it is read: a page at a time, in the ledger's own order, each on a connection and in a transaction of its own
with the tenant set, for the request's transaction is over when a stream begins, and a caller who reads slowly must hold
neither. Rows are never edited, so pages read one after the other fit together.

Failure: PostgreSQL gone ends the stream without its last chunk, which every client notices.
"""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.db.models import Q, QuerySet

from billing.models import UsageRow
from tenants.streaming import read

_ROWS_PER_PAGE = 2_000
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


async def csv_of(tenant_id: UUID, rows: QuerySet[UsageRow], columns: Mapping[str, str]) -> AsyncIterator[bytes]:
    """The rows, the oldest first; `columns` are names in the first line → fields of a row."""
    yield _lines([list(columns)])
    fields = list(columns.values())
    ordered = rows.order_by("created_at", "id").values_list("created_at", "id", *fields)
    page = await read(tenant_id, ordered[:_ROWS_PER_PAGE])
    while page:
        yield _lines([_cell(value) for value in row[2:]] for row in page)
        if len(page) < _ROWS_PER_PAGE:
            return
        at, last = page[-1][:2]
        # The first condition is for the index, which knows no "or".
        after = ordered.filter(Q(created_at__gte=at), Q(created_at__gt=at) | Q(id__gt=last))
        page = await read(tenant_id, after[:_ROWS_PER_PAGE])


def _lines(rows: Any) -> bytes:
    written = io.StringIO(newline="")
    csv.writer(written).writerows(rows)
    return written.getvalue().encode()


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, Decimal):
        return f"{value:f}"
    # What an agent is called must not run in somebody's spreadsheet.
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else str(value)
