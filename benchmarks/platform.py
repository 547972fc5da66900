"""A whole platform for one measurement: PostgreSQL, Valkey, a stand-in provider, one web worker; and their end."""

from __future__ import annotations

import base64
import os
import secrets
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from config.up.ports import free_port
from config.up.postgres import EmbeddedPostgres
from config.up.valkey import EmbeddedValkey

HERE = Path(__file__).parent


class Missing(Exception):
    """A program that the measurement needs is not installed."""


@dataclass(frozen=True)
class Platform:
    base_url: str
    key: str  # of a tenant without limits
    limited_key: str  # of one with five
    upstream: str  # the stand-in that answers at once
    slow_upstream: str  # the one that takes 20 ms
    database_url: str
    worker: int  # process id of the one web worker
    floor_url: str
    floor: int


@contextmanager
def platform(directory: Path) -> Iterator[Platform]:
    """Starts everything on loopback with durable settings, as in production; stops it at the end."""
    for program, hint in (("wrk", "apt-get install wrk"), ("cc", "apt-get install gcc")):
        if shutil.which(program) is None:
            raise Missing(f"This needs `{program}` ({hint}).")
    with ExitStack() as stack:
        upstream_port, slow_port, web_port, floor_port = free_port(), free_port(), free_port(), free_port()
        upstream = directory / "upstream"
        subprocess.run(["cc", "-O2", "-w", "-o", upstream, HERE / "upstream.c"], check=True)
        environment = os.environ | _stores(directory, stack)
        run = [sys.executable, "-W", "ignore"]
        subprocess.run([*run, "manage.py", "migrate", "-v0"], env=environment, check=True)
        addresses = [f"http://127.0.0.1:{port}/v1" for port in (upstream_port, slow_port)]
        keys = subprocess.run(
            [*run, "-m", "benchmarks.rows", *addresses],
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split()
        log = stack.enter_context((directory / "web.log").open("wb"))
        _start(stack, [str(upstream), str(upstream_port), "0"], environment, log)
        _start(stack, [str(upstream), str(slow_port), "20"], environment, log)
        web = _start(stack, [*run, "-m", "config.web", "--port", str(web_port)], environment, log)
        floor = _start(stack, [*run, "-m", "benchmarks.floor", "--port", str(floor_port)], environment, log)
        base_url, floor_url = f"http://127.0.0.1:{web_port}", f"http://127.0.0.1:{floor_port}"
        _wait_for(f"{base_url}/readyz")
        _wait_for(f"{floor_url}/")
        key, limited_key = keys
        yield Platform(
            base_url=base_url,
            key=key,
            limited_key=limited_key,
            upstream=f"http://127.0.0.1:{upstream_port}",
            slow_upstream=f"http://127.0.0.1:{slow_port}",
            database_url=environment["DATABASE_URL"],
            worker=_only_child(web.pid),
            floor_url=floor_url,
            floor=floor.pid,
        )


def _stores(directory: Path, stack: ExitStack) -> dict[str, str]:
    password = secrets.token_hex(16)
    postgres = EmbeddedPostgres(directory / "postgres", free_port(), password)
    postgres.initialise()
    postgres.start()
    stack.callback(postgres.stop)
    postgres.wait_until_ready()
    postgres.create_database(owner="quiver_owner", password=password, database="quiver")
    (directory / "valkey").mkdir()
    valkey = EmbeddedValkey(directory / "valkey", free_port(), password, durable=False)
    valkey.start()
    stack.callback(valkey.stop)
    (directory / "metrics").mkdir()
    redis = f"redis://:{password}@127.0.0.1:{valkey.port}"
    return {
        "DATABASE_URL": postgres.url("quiver_owner", password, "quiver"),
        "REDIS_URL": f"{redis}/0",
        "CELERY_BROKER_URL": f"{redis}/1",
        "DJANGO_SECRET_KEY": secrets.token_hex(32),
        "QUIVER_ENCRYPTION_KEYS": f"bench:{base64.b64encode(secrets.token_bytes(32)).decode()}",
        "PROMETHEUS_MULTIPROC_DIR": str(directory / "metrics"),
    }


def _start(stack: ExitStack, command: list[str], environment: dict[str, str], log: object) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)  # type: ignore[call-overload]
    stack.callback(_stop, process)
    started: subprocess.Popen[bytes] = process
    return started


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(url, timeout=1).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise TimeoutError(f"{url} does not answer")


def _only_child(parent: int) -> int:
    """The worker: the parent's last child (the first is multiprocessing's resource tracker)."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return int(children[-1])
