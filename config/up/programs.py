"""What the children are: the environment they share, and each one's command line. No secret is on a command line."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from config.up.failures import UpError
from config.up.home import Home, Secrets

CHECKOUT = Path(__file__).resolve().parent.parent.parent
_WORKER_THREADS = "4"


def given(name: str, environ: Mapping[str, str] = os.environ) -> str | None:
    """A variable that the caller set, by itself or as `NAME_FILE`."""
    path = environ.get(f"{name}_FILE")
    if not path:
        return environ.get(name) or None
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UpError(f"{name}_FILE: {error}") from None


def environment(home: Home, secrets: Secrets, database_url: str, redis_url: str) -> dict[str, str]:
    """The environment of every child: the caller's, and what `up` decides."""
    decided = {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "CELERY_BROKER_URL": given("CELERY_BROKER_URL") or broker_url(redis_url),
        "DJANGO_SECRET_KEY": given("DJANGO_SECRET_KEY") or secrets.django_secret_key,
        "QUIVER_ENCRYPTION_KEYS": given("QUIVER_ENCRYPTION_KEYS") or secrets.encryption_keys,
        "QUIVER_HOME": str(home.path),
        "PROMETHEUS_MULTIPROC_DIR": str(home.metrics),
        "DJANGO_SETTINGS_MODULE": "config.settings",
        "PYTHONUNBUFFERED": "1",
    }
    # The owner's address is the task worker's alone.
    settled = {"QUIVER_OWNER_DATABASE_URL"} | {f"{name}_FILE" for name in [*decided, "QUIVER_OWNER_DATABASE_URL"]}
    return {name: value for name, value in os.environ.items() if name not in settled} | decided


def broker_url(redis_url: str) -> str:
    """The same server as `redis_url`, another database number, so that a flush of one leaves the other."""
    address, mark, query = redis_url.partition("?")
    numbered = re.fullmatch(r"(\w+://[^/]*)(/\d*)?", address)
    return f"{numbered[1]}/1{mark}{query}" if numbered else redis_url


def prepare(*, demo: bool) -> list[str]:
    """Migrates and seeds."""
    return [sys.executable, "-m", "config.up.prepare", *([] if demo else ["--no-demo"])]


def web(host: str, port: int, workers: int) -> list[str]:
    """Serves HTTP and WebSocket."""
    return [sys.executable, "-m", "config.web", "--host", host, "--port", str(port), "--workers", str(workers)]


def worker() -> list[str]:
    """Celery's worker. Threads, because its tasks wait for networks, and one process is a third of the memory."""
    command = [sys.executable, "-m", "celery", "--app", "config", "--quiet", "worker", "--loglevel", "INFO"]
    command += ["--pool", "threads", "--concurrency", _WORKER_THREADS, "--hostname", f"quiver-{os.getpid()}@%h"]
    # Both ask other workers things at start that nobody needs to know here, and wait a second for the answer.
    return [*command, "--without-mingle", "--without-gossip"]


def beat() -> list[str]:
    """Celery's clock, with its timetable in the database."""
    return [sys.executable, "-m", "celery", "--app", "config", "--quiet", "beat", "--loglevel", "INFO", "--pidfile="]
