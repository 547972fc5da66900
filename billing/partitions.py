"""Month partitions of the ledger's tables: made ahead of time, by the owner of the tables, whose address only the task
worker has.

Failure: when nothing made the month, rows go to the default partition; they are counted but block making that month
until somebody moves them, so `make_partitions` runs at every start and daily.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from typing import Any

import psycopg
from django.conf import settings
from django.db import connection, transaction

TABLES = ("billing_usagerow", "billing_providercall")
# One at a time: two starts that make the same month would deadlock on the parents.
_LOCK = 7_305_001


def months(start: date, count: int) -> Iterator[tuple[date, date]]:
    """First days of `count` months from the one of `start`, each with the first day of the next."""
    index = start.year * 12 + start.month - 1
    for number in range(index, index + count):
        yield date(number // 12, number % 12 + 1, 1), date((number + 1) // 12, (number + 1) % 12 + 1, 1)


def make_partitions(*, today: date, ahead: int) -> list[str]:
    """Makes this month's partitions and `ahead` more where they are missing; returns the names of the new ones."""
    made: list[str] = []
    with owners_cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        for first, following in months(today, ahead + 1):
            for table in TABLES:
                name = f"{table}_{first:%Y_%m}"
                cursor.execute("SELECT to_regclass(%s)", [name])
                if cursor.fetchone()[0] is not None:
                    continue
                bounds = f"FROM ('{first} 00:00+00') TO ('{following} 00:00+00')"
                cursor.execute(f"CREATE TABLE {name} PARTITION OF {table} FOR VALUES {bounds}")
                made.append(name)
    return made


@contextmanager
def owners_cursor() -> Iterator[Any]:
    """In one transaction."""
    url = settings.QUIVER.owner_database_url
    if url:
        with psycopg.connect(url, connect_timeout=5) as own, own.cursor() as cursor:
            yield cursor
    else:
        with transaction.atomic(), connection.cursor() as cursor:
            yield cursor
