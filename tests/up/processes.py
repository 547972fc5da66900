"""Starting, watching and ending processes in tests: nothing sleeps, everything has a deadline."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

CHECKOUT = Path(__file__).resolve().parent.parent.parent
Found = TypeVar("Found")


def eventually(look: Callable[[], Found], seconds: float = 10.0) -> Found:
    """What `look` returns once it is true; fails when it never is."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.02)
    return found


def is_running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(state) and not state.startswith("Z")


def children_of(pid: int) -> list[int]:
    """Process numbers of the direct children."""
    listed = subprocess.run(["ps", "-A", "-o", "ppid=,pid="], capture_output=True, text=True, check=True).stdout
    return [int(child) for parent, child in (line.split() for line in listed.splitlines()) if int(parent) == pid]


def get(url: str) -> tuple[int, str]:
    """Status and body; status 0 when nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


class Up:
    """A `manage.py up` under test."""

    def __init__(self, home: Path, port: int, output: Path, *arguments: str, **environment: str) -> None:
        self.home = home
        self.output = Path(tempfile.mkstemp(suffix=".out", dir=output)[1])
        command = [sys.executable, "manage.py", "up", "--home", str(home), "--port", str(port), *arguments]
        with self.output.open("wb") as stream:
            self.process = subprocess.Popen(
                command,
                cwd=CHECKOUT,
                env=clean_environment() | environment,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def quickstart(self, seconds: float = 60.0) -> dict[str, Any]:
        """What it wrote once it was ready."""
        eventually(lambda: self.is_ready or self.process.poll() is not None, seconds)
        assert self.is_ready, self.said
        content: dict[str, Any] = json.loads((self.home / "quickstart.json").read_text())
        return content

    @property
    def is_ready(self) -> bool:
        return (self.home / "quickstart.json").exists() and "ready" in self.said

    @property
    def said(self) -> str:
        return self.output.read_text()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def ends(self, seconds: float = 30.0) -> int:
        """The exit code."""
        return self.process.wait(seconds)

    def close(self) -> None:
        """Ends it whatever the test left behind."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def clean_environment() -> dict[str, str]:
    """The caller's environment without what would make `up` use other people's services."""
    ours = ("DATABASE_URL", "REDIS_URL", "CELERY_BROKER_URL", "DJANGO_", "QUIVER_", "PROMETHEUS_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}
