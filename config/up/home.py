"""The home directory of one `up`: who holds it, its secrets, its small files. What PostgreSQL and Valkey keep in
their folders of it is theirs.

Failure: a home that cannot be written, or that another `up` holds, ends in one line; secrets are never made anew
beside data that the old ones protect.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from config.up.failures import UpError

_LEFTOVER_SECONDS = 10.0


@dataclass(frozen=True)
class Secrets:
    """What `up` makes once for a home and gives to its children."""

    django_secret_key: str
    encryption_keys: str
    postgres_password: str
    owner_password: str
    redis_password: str

    @classmethod
    def generate(cls) -> Secrets:
        """New ones. The encryption key is AES-256's."""
        return cls(
            django_secret_key=secrets.token_urlsafe(48),
            encryption_keys=f"k1:{base64.b64encode(secrets.token_bytes(32)).decode()}",
            postgres_password=secrets.token_urlsafe(24),
            owner_password=secrets.token_urlsafe(24),
            redis_password=secrets.token_urlsafe(24),
        )


class Home:
    """Paths of a home, and the lock on it."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.postgres = self.path / "postgres"
        self.redis = self.path / "redis"
        self.logs = self.path / "logs"
        self.metrics = self.path / "metrics"
        self._lock = self.path / "lock"
        self._secrets = self.path / "secrets.json"
        self._ports = self.path / "ports.json"

    @contextmanager
    def held(self) -> Iterator[int]:
        """Holds the home; gives the lock's file descriptor.

        PostgreSQL and Valkey inherit it, so that the home is not free before they have let go of their data, even
        when the `up` that started them was killed. Raises `UpError` naming the process that has it.
        """
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._acquire(lock)
            os.ftruncate(lock, 0)
            os.pwrite(lock, str(os.getpid()).encode(), 0)
            yield lock
        finally:
            os.close(lock)

    def _acquire(self, lock: int) -> None:
        deadline = time.monotonic() + _LEFTOVER_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(lock, 20, 0).decode(errors="replace")
                # A holder that is gone was killed, and its database is about to stop.
                if _is_alive(holder) or time.monotonic() > deadline:
                    raise UpError(f"{self.path} is held by another `up`, process {holder or 'unknown'}") from None
                time.sleep(0.05)
            else:
                return

    def make_folders(self) -> None:
        """Makes the folders children write to; metrics of an earlier run are dropped."""
        for folder in (self.logs, self.redis, self.metrics):
            folder.mkdir(mode=0o700, exist_ok=True)
        for stale in self.metrics.iterdir():
            stale.unlink()

    def secrets(self) -> Secrets:
        """The secrets of this home, made on the first call."""
        try:
            return Secrets(**json.loads(self._secrets.read_text()))
        except FileNotFoundError:
            if self.postgres.exists():
                raise UpError(f"{self.path} has a database but no secrets.json to open it with; restore it") from None
        except (ValueError, TypeError):
            raise UpError(f"{self._secrets} is damaged; restore it") from None
        made = Secrets.generate()
        write_private(self._secrets, asdict(made))
        return made

    def ports(self) -> dict[str, int]:
        """The ports PostgreSQL and Valkey had last time."""
        return {name: port for name, port in read_json(self._ports).items() if isinstance(port, int)}

    def remember_ports(self, ports: dict[str, int]) -> None:
        """Keeps the ports for the next start."""
        write_private(self._ports, ports)


def write_private(path: Path, content: dict[str, Any]) -> None:
    """Writes a file that only its owner reads, whole or not at all."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    file = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(file, "w") as stream:
            json.dump(content, stream, indent=2)
            stream.write("\n")
            stream.flush()
            os.fsync(stream.fileno())
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise
    unfinished.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file; empty when the file is missing or damaged."""
    try:
        content = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _is_alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True
