"""One throwaway PostgreSQL (with pgvector) for a whole run, shared by its xdist workers, and a Valkey for each.

They start before Django reads its settings, because their addresses are settings. Each worker has a database of its
own (pytest-django's suffix).
"""

from __future__ import annotations

import base64
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import psycopg

from config.up.ports import free_port
from config.up.postgres import SUPERUSER, THROWAWAY, EmbeddedPostgres
from config.up.valkey import EmbeddedValkey
from tests.fakes.certificates import DAY, LOOPBACK, Certificate

PASSWORD = "throwaway"
_OWNER = "quiver"


class Services:
    """The servers of one run."""

    def __init__(self) -> None:
        self._home = Path(tempfile.mkdtemp(prefix="quiver-tests-"))
        self._postgres = EmbeddedPostgres(self._home / "postgres", free_port(), PASSWORD, THROWAWAY)
        self._valkey = EmbeddedValkey(self._home / "valkey", free_port(), PASSWORD, durable=False)
        # Nothing leaves this machine, and reading a system's 140 authorities for each vendor's client takes long.
        self._authority = Certificate(self._home, LOOPBACK, ends=datetime.now(UTC) + DAY)

    def start(self) -> None:
        """Starts both and waits for them."""
        self._postgres.initialise()
        self._postgres.start()
        self._valkey.start()
        self._postgres.wait_until_ready()
        self._valkey.wait_until_ready()
        # In template1, so that the test databases made from it have pgvector.
        self._postgres.create_database(owner=_OWNER, password=PASSWORD, database="template1")
        with psycopg.connect(self._postgres.url(SUPERUSER, PASSWORD, "postgres"), autocommit=True) as connection:
            connection.execute(f"ALTER ROLE {_OWNER} CREATEDB")

    def environment(self) -> dict[str, str]:
        """What Quiver's settings are read from."""
        return {
            "DJANGO_SETTINGS_MODULE": "config.settings",
            "DJANGO_SECRET_KEY": "a secret of the tests, long enough to be one",
            "DATABASE_URL": self._postgres.url(_OWNER, PASSWORD, "quiver"),
            "REDIS_URL": self._valkey.url(0),
            "CELERY_BROKER_URL": self._valkey.url(0),
            "QUIVER_ENCRYPTION_KEYS": "tests:" + base64.b64encode(bytes(32)).decode(),
            "SSL_CERT_FILE": str(self._authority.path),
        }

    def stop(self) -> None:
        """Stops both and forgets their data."""
        self._valkey.stop()
        self._postgres.stop("immediate")
        shutil.rmtree(self._home, ignore_errors=True)


class WorkersValkey:
    """The Valkey of one xdist worker. A database number would not do: messages go to all who listen on a server."""

    def __init__(self) -> None:
        self._home = Path(tempfile.mkdtemp(prefix="quiver-tests-"))
        self._valkey = EmbeddedValkey(self._home / "valkey", free_port(), PASSWORD, durable=False)

    def start(self) -> None:
        self._valkey.start()
        self._valkey.wait_until_ready()

    def environment(self) -> dict[str, str]:
        return {"REDIS_URL": self._valkey.url(0), "CELERY_BROKER_URL": self._valkey.url(0)}

    def stop(self) -> None:
        self._valkey.stop()
        shutil.rmtree(self._home, ignore_errors=True)
