"""The sequence of `up`: what starts after what, what is watched, what stops before what.

Failure: a child that ends is named with its last lines and takes the rest down, exit code 1 (web workers are their
parent's to bring back). The first Ctrl-C or SIGTERM stops everything in order, the second one at once. Killed with -9
it can do nothing itself: the children's death signals do (`lifeline.py`).
"""

from __future__ import annotations

import http.client
import json
import math
import os
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar
from urllib.parse import urlsplit

from config.up import programs
from config.up.children import Child, Children, failure, migrations, nothing, panic, serious, serious_or_plain
from config.up.console import Console
from config.up.failures import NO_SPACE, DiskFullError, UpError, explain
from config.up.home import Home
from config.up.lifeline import spawn
from config.up.options import Options, drain_seconds, parse
from config.up.ports import free_port, require_free
from config.up.postgres import STOP_SIGNALS, EmbeddedPostgres
from config.up.quickstart import Quickstart, summary
from config.up.valkey import EmbeddedValkey

_Server = TypeVar("_Server", EmbeddedPostgres, EmbeddedValkey)
OWNER, DATABASE = "quiver_owner", "quiver"
_READY_SECONDS = 60.0
_PORT_TRIES = 3
_WEB_STOP_MARGIN = 8.0
_BACKGROUND_STOP_SECONDS = 15.0
_STORE_STOP_SECONDS = 30.0
_LOST_STORE_SECONDS = 2.0  # what works on would only wait for it


def main(arguments: list[str]) -> int:
    """Runs `up` until it is told to stop; the exit code is 1 when it had to stop by itself."""
    options = parse(arguments)
    console = Console()
    home = Home(options.home)
    try:
        with home.held() as lock:
            return Supervisor(options, home, lock, console).run()
    except UpError as error:
        console.complain(str(error))
    except OSError as error:
        console.complain(str(explain(error, home.path)))
    return 1


class Stopped(Exception):  # no error: somebody asked for it
    """Somebody wants `up` to end while it is starting."""


class Supervisor:
    """One platform on one home."""

    def __init__(self, options: Options, home: Home, lock: int, console: Console) -> None:
        self._options = options
        self._home = home
        self._lock = lock
        self._console = console
        self._children = Children(home.logs, console)
        self._quickstart = Quickstart(home.path)
        self._drain_seconds = drain_seconds()
        self._stop_requests = 0
        self._stop_requests_heard = 0

    def run(self) -> int:
        """Starts, watches, stops."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._ask_to_stop)
        try:
            self._start()
            self._watch()
        except Stopped:
            self._console.step("stopping (once more to hurry)")
            return 0
        except (UpError, OSError):
            self._console.step("stopping, for a reason that follows")
            raise
        finally:
            self._stop()

    def _ask_to_stop(self, number: int, frame: object) -> None:
        self._stop_requests += 1

    def _start(self) -> None:
        self._console.step(f"home {self._home.path}")
        require_free(self._options.host, self._options.port)
        previous = self._quickstart.retire()
        secrets = self._home.secrets()
        self._home.make_folders()
        redis_url = programs.given("REDIS_URL") or self._start_valkey(secrets.redis_password)
        database_url = (
            programs.given("QUIVER_OWNER_DATABASE_URL")
            or programs.given("DATABASE_URL")
            or self._start_postgres(secrets.postgres_password, secrets.owner_password)
        )
        environment = programs.environment(self._home, secrets, database_url, redis_url)
        prepared = self._prepare(environment, previous)
        self._start_programs(environment | {"DATABASE_URL": prepared["services"]}, owner_url=database_url)
        self._wait_for_web()
        content = self._describe(prepared["seeded"], database_url, redis_url)
        self._quickstart.write(content)
        self._console.step("ready")
        self._console.say(summary(content))

    def _start_valkey(self, password: str) -> str:
        def start(port: int) -> EmbeddedValkey:
            server = EmbeddedValkey(self._home.redis, port, password)
            self._adopt("redis", server.start(subprocess.PIPE, [self._lock]), nothing)
            server.wait_until_ready(idle=self._idle)
            return server

        server = self._on_a_free_port("redis", start)
        self._console.step(f"Redis (Valkey) answers on port {server.port}")
        return server.url()

    def _start_postgres(self, superuser_password: str, owner_password: str) -> str:
        def start(port: int) -> EmbeddedPostgres:
            server = EmbeddedPostgres(self._home.postgres, port, superuser_password)
            if not server.is_initialised:
                self._console.step("making a PostgreSQL database")
            server.initialise()
            self._adopt("postgres", server.start(subprocess.PIPE, [self._lock]), panic)
            server.wait_until_ready(idle=self._idle)
            return server

        server = self._on_a_free_port("postgres", start)
        server.create_database(owner=OWNER, password=owner_password, database=DATABASE)
        self._console.step(f"PostgreSQL answers on port {server.port}")
        return server.url(OWNER, owner_password, DATABASE)

    def _on_a_free_port(self, name: str, start: Callable[[int], _Server]) -> _Server:
        ports = self._home.ports()
        for attempt in range(_PORT_TRIES):
            port = free_port(ports.get(name) if attempt == 0 else None)
            try:
                server = start(port)
            except UpError as error:
                # Between finding a port free and using it somebody else may have taken it.
                child = self._children.ended()
                taken = child is not None and any("address already in use" in line.lower() for line in child.last)
                if child is None or not taken or attempt == _PORT_TRIES - 1:
                    raise failure(child, self._home.path) if child else error from None
                self._children.forget(child)
                continue
            self._home.remember_ports({**ports, name: port})
            return server
        raise AssertionError("unreachable")

    def _prepare(self, environment: dict[str, str], previous: dict[str, Any] | None) -> dict[str, Any]:
        self._console.step("migrating and seeding")
        answer, answering = os.pipe()
        with os.fdopen(answer) as stream:
            process = spawn(
                programs.prepare(demo=self._options.demo),
                death_signal=signal.SIGKILL,
                env=environment,
                cwd=programs.CHECKOUT,
                stdin=subprocess.PIPE,
                stdout=answering,
                stderr=subprocess.PIPE,
            )
            os.close(answering)
            assert process.stdin is not None
            process.stdin.write(json.dumps(previous).encode())
            process.stdin.close()
            child = self._adopt("prepare", process, migrations)
            while not child.has_ended:
                self._idle(0.05)
            said = stream.read()
        if not said:
            self._check()
        self._children.forget(child)
        answer = json.loads(said)
        if "refused" in answer:
            raise DiskFullError(self._home.path) if NO_SPACE in answer["refused"] else UpError(answer["refused"])
        prepared: dict[str, Any] = answer
        return prepared

    def _start_programs(self, environment: dict[str, str], *, owner_url: str) -> None:
        options = self._options
        self._console.step(f"starting {options.workers} web workers, the task worker and the clock")
        commands = {
            "web": (programs.web(options.host, options.port, options.workers), serious_or_plain),
            "worker": (programs.worker(), serious),
            "beat": (programs.beat(), serious),
        }
        for name, (command, shows) in commands.items():
            process = spawn(
                command,
                death_signal=signal.SIGKILL,  # without a database there is nothing to drain for
                env=environment | ({"QUIVER_OWNER_DATABASE_URL": owner_url} if name == "worker" else {}),
                cwd=programs.CHECKOUT,
                stdout=subprocess.PIPE,
            )
            self._adopt(name, process, shows)

    def _wait_for_web(self) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        while not self._is_ready():
            if time.monotonic() > deadline:
                # A worker that maps a metrics file on a full disk dies of SIGBUS, which does not say why.
                if os.statvfs(self._home.path).f_bfree == 0:
                    raise DiskFullError(self._home.path)
                raise UpError(f"web does not get ready; see {self._home.logs / 'web.log'}")
            self._idle(0.05)
            self._check()

    def _is_ready(self) -> bool:
        address = urlsplit(self._options.base_url)
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=2)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _describe(self, seeded: dict[str, Any], database_url: str, redis_url: str) -> dict[str, Any]:
        names = ("web", "worker", "beat", "postgres", "redis")
        return {
            "home": str(self._home.path),
            "base_url": self._options.base_url,
            "admin_url": f"{self._options.base_url}/admin/",
            **seeded,
            "database_url": database_url,
            "redis_url": redis_url,
            "pids": {"supervisor": os.getpid()} | {name: self._children.pid(name) for name in names},
        }

    def _watch(self) -> NoReturn:
        while True:
            self._idle(0.1)
            self._check()

    def _check(self) -> None:
        child = self._children.ended()
        if child is not None:
            raise failure(child, self._home.path)

    def _idle(self, timeout: float) -> None:
        self._children.pump(timeout)
        if self._stop_requests > 0:
            self._stop_requests_heard = self._stop_requests
            raise Stopped

    def _adopt(self, name: str, process: subprocess.Popen[bytes], shows: Callable[[bytes], bool]) -> Child:
        return self._children.adopt(name, process, shows)

    def _stop(self) -> None:
        stages = [
            (("prepare",), signal.SIGKILL, 1.0),
            (("web",), signal.SIGTERM, self._drain_seconds + _WEB_STOP_MARGIN),
            (("worker", "beat"), signal.SIGTERM, _BACKGROUND_STOP_SECONDS),
            (("redis",), signal.SIGTERM, _STORE_STOP_SECONDS),
        ]
        most = _LOST_STORE_SECONDS if self._children.has_lost("redis", "postgres") else math.inf
        for names, number, timeout in stages:
            self._children.stop(names, number, min(timeout, most), self._is_hurried)
        # Even in a hurry the database is not killed: -9 leaves its children, and a recovery for the next start.
        mode = STOP_SIGNALS["immediate" if self._is_hurried() else "fast"]
        self._children.stop(("postgres",), mode, _STORE_STOP_SECONDS, lambda: False)
        self._quickstart.retire()
        self._console.step("stopped")

    def _is_hurried(self) -> bool:
        return self._stop_requests > max(self._stop_requests_heard, 1)
