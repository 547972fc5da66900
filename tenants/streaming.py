"""Rows of any number, read a page at a time while they are being sent.

The request's transaction is over when a stream begins, and whoever reads slowly must hold neither a transaction nor a
connection: each page has its own of both, and is the tenant's as a request is. For tables whose rows are never edited,
so that pages read one after the other fit together.

Failure: PostgreSQL gone ends the stream without its last chunk, which every client notices.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import psycopg
from django.core.exceptions import EmptyResultSet
from django.db import connection
from django.db.models import QuerySet

from tenants.walls import SWITCH, switch_to

ROWS_PER_PAGE = 1_000
_OF_DJANGO = ("cursor_factory", "context", "prepare_threshold", "pool", "server_side_binding")


async def pages(
    tenant_id: UUID | None, rows: QuerySet[Any, tuple[Any, ...]], *, size: int = ROWS_PER_PAGE
) -> AsyncIterator[list[tuple[Any, ...]]]:
    """`rows` as tuples whose first value is their `id`, in its order. `tenant_id` None: the operator asks for all."""
    ordered = rows.order_by("id")
    page = await read(tenant_id, ordered[:size])
    while page:
        yield page
        if len(page) < size:
            return
        page = await read(tenant_id, ordered.filter(id__gt=page[-1][0])[:size])


async def _connect() -> psycopg.AsyncConnection[tuple[Any, ...]]:
    """A connection of its own, with everything that the database's address says, its TLS among it."""
    found = connection.get_connection_params()
    where = {name: value for name, value in found.items() if name not in _OF_DJANGO}
    return await psycopg.AsyncConnection.connect(**where)


async def read(tenant_id: UUID | None, rows: QuerySet[Any, tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """One page, on a connection and in a transaction of its own. `tenant_id` None: the operator asks for all."""
    try:
        sql, words = rows.query.sql_with_params()
    except EmptyResultSet:  # such as for a request id that nobody can have made
        return []
    async with await _connect() as own, own.transaction():
        if tenant_id is not None:
            await own.execute(SWITCH, switch_to(tenant_id, own.info.dbname))
        return await (await own.execute(sql.encode(), words)).fetchall()
