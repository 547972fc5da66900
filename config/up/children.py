"""The child processes of one `up`: their output, their ends, their stopping. No threads: one loop reads all pipes.

Everything a child writes goes to `<home>/logs/<name>.log`; what `shows` picks goes to the console as well.

Failure: a full disk stops the log files, not the children, and is told once.
"""

from __future__ import annotations

import os
import re
import selectors
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from config.up.console import Console
from config.up.failures import NO_SPACE, DiskFullError, UpError

_KEPT_LINES = 20
_LONGEST_LINE = 1 << 20
_LOG_BYTES = 64 * 1024 * 1024
_SERIOUS = re.compile(rb"\b(WARN|WARNING|ERROR|CRITICAL|FATAL|PANIC|Traceback)\b")
_JSON_LEVEL = re.compile(rb'"level":\s*"(\w+)"')
_SERIOUS_LEVELS = (b"warning", b"error", b"critical")


def serious(line: bytes) -> bool:
    """Warnings and worse, from lines of JSON and from others."""
    level = _JSON_LEVEL.search(line, 0, 200) if line.startswith(b"{") else None
    return level[1].lower() in _SERIOUS_LEVELS if level else _SERIOUS.search(line) is not None


def serious_or_plain(line: bytes) -> bool:
    """All but lines of JSON below a warning: what a process says outside its log is meant for people."""
    return not line.startswith(b"{") or serious(line)


def migrations(line: bytes) -> bool:
    """What shows that a long migration moves on, and what went wrong."""
    return line.lstrip().startswith(b"Applying") or b"waiting" in line or serious(line)


def panic(line: bytes) -> bool:
    """PostgreSQL's last words; its errors are mostly races that the application provokes and handles."""
    return b" PANIC: " in line


def nothing(line: bytes) -> bool:
    """For a child whose log file is enough."""
    return False


@dataclass(eq=False)
class Child:
    """One process and its output."""

    name: str
    process: subprocess.Popen[bytes]
    output: IO[bytes]
    log: LogFile
    shows: Callable[[bytes], bool]
    last: deque[str] = field(default_factory=lambda: deque(maxlen=_KEPT_LINES))
    unfinished: bytes = b""

    @property
    def has_ended(self) -> bool:
        """Whether the process is gone."""
        return self.process.poll() is not None


class ChildFailedError(UpError):
    """A child ended that should not have; tells its name and its last lines."""

    def __init__(self, child: Child) -> None:
        code = child.process.returncode
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        lines = "".join(f"\n  {child.name} | {line}" for line in child.last) or " it said nothing"
        super().__init__(f"{child.name} {how}; its last lines:{lines}\n  all of them: {child.log.path}")


class LogFile:
    """A file that grows to a limit and then becomes `<name>.1`, replacing the last one of that name."""

    def __init__(self, path: Path, console: Console) -> None:
        self.path = path
        self._console = console
        self._file = path.open("ab", buffering=0)
        self._size = self._file.tell()
        self._is_lost = False

    def write(self, data: bytes) -> None:
        """Appends; a disk that is full is told once and loses the lines."""
        try:
            if self._size > _LOG_BYTES:
                self._file.close()
                self.path.replace(self.path.with_suffix(".log.1"))
                self._file = self.path.open("ab", buffering=0)
                self._size = 0
            self._file.write(data)
            self._size += len(data)
            self._is_lost = False
        except OSError as error:
            if not self._is_lost:
                self._console.child(self.path.stem, f"{self.path}: {error.strerror}; lines are being lost")
            self._is_lost = True

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class Children:
    """All children of one `up`, in the order in which they were started."""

    def __init__(self, logs: Path, console: Console) -> None:
        self._logs = logs
        self._console = console
        self._selector = selectors.DefaultSelector()
        self._children: dict[str, Child] = {}

    def adopt(self, name: str, process: subprocess.Popen[bytes], shows: Callable[[bytes], bool]) -> Child:
        """Takes over a process whose output (errors, when only those are) goes to a pipe of ours."""
        output = process.stdout or process.stderr
        assert output is not None
        child = Child(name, process, output, LogFile(self._logs / f"{name}.log", self._console), shows)
        os.set_blocking(output.fileno(), False)
        self._selector.register(output, selectors.EVENT_READ, child)
        self._children[name] = child
        return child

    def pid(self, name: str) -> int | None:
        """The process number of a child; None when there is none of that name."""
        child = self._children.get(name)
        return child.process.pid if child else None

    def pump(self, timeout: float) -> None:
        """Passes on what children wrote, waiting for it up to `timeout`."""
        if not self._selector.get_map():
            time.sleep(timeout)
            return
        for key, _ in self._selector.select(timeout):
            self._read(key.data)

    def ended(self) -> Child | None:
        """The first child that is gone, with all its output read."""
        for child in self._children.values():
            if child.has_ended:
                self._read_rest(child)
                return child
        return None

    def has_lost(self, *names: str) -> bool:
        """Whether one of these has ended."""
        return any(child.has_ended for name, child in self._children.items() if name in names)

    def forget(self, child: Child) -> None:
        """Lets go of a child that has done its work."""
        self._read_rest(child)
        self._unwatch(child)
        child.log.close()
        del self._children[child.name]

    def stop(self, names: tuple[str, ...], number: signal.Signals, timeout: float, hurry: Callable[[], bool]) -> None:
        """Signals some children, waits for them, kills what outlives the timeout or a person's patience."""
        stopping = [child for name, child in self._children.items() if name in names]
        for child in stopping:
            if not child.has_ended:
                child.process.send_signal(number)
        deadline = time.monotonic() + timeout
        while any(not child.has_ended for child in stopping) and time.monotonic() < deadline and not hurry():
            self.pump(0.05)
        for child in stopping:
            if not child.has_ended:
                self._console.step(f"{child.name} does not stop: killing it")
                self._kill_group(child)
            self.forget(child)

    def _kill_group(self, child: Child) -> None:
        with suppress(ProcessLookupError):
            os.killpg(child.process.pid, signal.SIGKILL)  # each child leads a session: its own children go with it
        child.process.wait()

    def _read_rest(self, child: Child) -> None:
        while self._read(child):
            pass
        self._pass_on(child, child.unfinished)
        child.unfinished = b""

    def _read(self, child: Child) -> bool:
        if child.output.closed:
            return False
        try:
            data = os.read(child.output.fileno(), 1 << 16)
        except BlockingIOError:
            return False
        if not data:
            self._unwatch(child)
            return False
        child.log.write(data)
        *lines, child.unfinished = (child.unfinished + data).split(b"\n")
        for line in lines:
            self._pass_on(child, line)
        if len(child.unfinished) > _LONGEST_LINE:
            child.unfinished = b""  # it is in the file
        return True

    def _pass_on(self, child: Child, line: bytes) -> None:
        text = line.decode(errors="replace").rstrip()
        if text:
            child.last.append(text)
            if child.shows(line):
                self._console.child(child.name, text)

    def _unwatch(self, child: Child) -> None:
        if not child.output.closed:
            self._selector.unregister(child.output)
            child.output.close()


def failure(child: Child, home: Path) -> UpError:
    """Why a child that ended has ended: a full disk in one line, anything else with its last lines."""
    if any(NO_SPACE in line for line in child.last):
        return DiskFullError(home)
    return ChildFailedError(child)
