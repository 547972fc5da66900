"""Migrates the database and seeds it, in one process and under one lock; `up` runs it as `python -m config.up.prepare`.

Reads the last quickstart (JSON or null) on standard input, answers on standard output with `{"seeded": …, "services":
url}` (what services log in with) or `{"refused": reason}`; whatever else is printed goes to standard error.

Failure: an environment that is nonsense, a database that cannot be reached, refuses a migration or has no room are
reasons to refuse; anything else is a mistake of ours and a traceback.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import django
import psycopg
from django.conf import settings
from django.core.management import call_command
from django.db import Error, connections

from config.environment import BadEnvironment

_LOCK = 0x51554956  # "QUIV"
_CONNECT_SECONDS = 30.0


def main() -> int:
    """Does it all; 0 when it worked."""
    parser = argparse.ArgumentParser(prog="python -m config.up.prepare")
    parser.add_argument("--no-demo", action="store_true")
    options = parser.parse_args()
    previous = json.load(sys.stdin)
    said: dict[str, Any]
    answer = os.dup(1)
    os.dup2(2, 1)  # a migration that prints must not end up in the answer
    try:
        said = _prepare(demo=not options.no_demo, previous=previous)
    except BadEnvironment as error:
        said = {"refused": str(error)}
    except (psycopg.Error, Error) as error:
        said = {"refused": f"the database refuses: {' '.join(str(error).split())}"}
    with os.fdopen(answer, "w") as stream:
        json.dump(said, stream)
    return int("refused" in said)


def _prepare(*, demo: bool, previous: dict[str, Any] | None) -> dict[str, Any]:
    django.setup()
    from config.logins import platform_login  # these import models, which exist only after django.setup()
    from config.seed import seed

    url = settings.QUIVER.database_url
    with _alone(url) as connection:
        call_command("migrate", interactive=False, verbosity=1)
        services = platform_login(connection, url)
        seeded: dict[str, Any] = seed(demo=demo, previous=previous)
    connections.close_all()
    return {"seeded": seeded, "services": services}


@contextmanager
def _alone(database_url: str) -> Iterator[psycopg.Connection]:
    """Holds an advisory lock that two starting at once compete for.

    It is tried again and again, not waited for: a waiting statement keeps a snapshot open, and a migration that builds
    an index concurrently waits for all snapshots. The connection is not Django's, whose pool would keep the lock.
    """
    with _connect(database_url) as connection:
        told = False
        while not _try(connection):
            if not told:
                print("another process is migrating this database: waiting", flush=True)
                told = True
            time.sleep(0.1)
        yield connection  # closing it releases the lock


def _try(connection: psycopg.Connection) -> bool:
    row = connection.execute("SELECT pg_try_advisory_lock(%s)", [_LOCK]).fetchone()
    return row is not None and bool(row[0])


def _connect(database_url: str) -> psycopg.Connection:
    deadline = time.monotonic() + _CONNECT_SECONDS
    while True:
        try:
            return psycopg.connect(database_url, autocommit=True, connect_timeout=5)
        except psycopg.OperationalError as error:
            # One that is just starting refuses for a moment; a wrong password stays wrong.
            is_starting = "starting up" in str(error) or "refused" in str(error)
            if not is_starting or time.monotonic() > deadline:
                raise
            time.sleep(0.2)


if __name__ == "__main__":
    sys.exit(main())
