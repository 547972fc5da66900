"""Empties the database between tests that commit, in the place of Django's command of that name.

`TRUNCATE` makes the files of every table, index and partition anew, which takes longer than most tests; nearly all
tables are empty. Content types and permissions stay: they are the code's.
"""

from __future__ import annotations

from typing import Any

from django.core.management.commands import flush
from django.db import connections, transaction

KEPT = {"django_migrations", "django_content_type", "auth_permission"}
# Partitions go with their table.
TABLES = """
SELECT c.relname FROM pg_class c
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relnamespace = 'public'::regnamespace
"""


class Command(flush.Command):
    """Takes what Django's own takes."""

    def handle(self, **options: Any) -> None:
        """Foreign keys are looked at when all of it is gone."""
        connection = connections[options["database"]]
        with transaction.atomic(using=options["database"]), connection.cursor() as cursor:
            cursor.execute("SELECT set_config('role', 'none', true)")  # the tables' owner: others may not delete all
            cursor.execute("SET CONSTRAINTS ALL DEFERRED")
            cursor.execute(TABLES)
            names = sorted({row[0] for row in cursor.fetchall()} - KEPT)
            cursor.execute(" UNION ALL ".join(f"(SELECT '{name}' FROM {name} LIMIT 1)" for name in names))
            for (name,) in cursor.fetchall():
                cursor.execute(f"DELETE FROM {name}")
