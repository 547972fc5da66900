"""Ties the life of a process to its parent's, so that nothing is left running when the parent is killed.

On Linux the kernel does it (PR_SET_PDEATHSIG). Elsewhere a guardian process holds a pipe from the parent and signals
the children when it breaks; a Python child watches its parent itself.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

HAS_DEATH_SIGNAL = sys.platform == "linux"
_PR_SET_PDEATHSIG = 1
_POLL_SECONDS = 0.5
# Looked up before any fork: the child of a fork must not have to load a library.
_libc = ctypes.CDLL(None, use_errno=True)


def spawn(
    command: Sequence[str | Path],
    *,
    death_signal: signal.Signals,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: int | IO[bytes] = subprocess.DEVNULL,
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] | None = subprocess.STDOUT,
    pass_fds: Sequence[int] = (),
    become: Callable[[], None] | None = None,
) -> subprocess.Popen[bytes]:
    """Starts a process in a session of its own that gets `death_signal` when this process dies.

    Call it from the main thread: Linux sends the signal when the *thread* ends that forked. `become` runs in the child
    first and may change its user, which would clear the death signal if it came second.
    """
    parent = os.getpid()

    def tie() -> None:
        if become is not None:
            become()
        if HAS_DEATH_SIGNAL:
            _ask_for_death_signal(death_signal, parent)

    process = subprocess.Popen(
        command,
        env=env,
        cwd=cwd,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        pass_fds=pass_fds,
        preexec_fn=tie,  # nothing else can set a death signal; no thread of ours runs meanwhile
        start_new_session=True,  # the terminal's Ctrl-C is for the supervisor, which stops its children in order
    )
    if not HAS_DEATH_SIGNAL:
        _guardian().watch(process.pid, death_signal)
    return process


def die_with(parent: int) -> None:
    """Makes the calling process die, at once and surely, when its parent does. For children that run our own code."""
    if HAS_DEATH_SIGNAL:
        _ask_for_death_signal(signal.SIGKILL, parent)
    else:
        threading.Thread(target=_watch_parent, args=(parent,), daemon=True).start()


def _ask_for_death_signal(number: signal.Signals, parent: int) -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    if os.getppid() != parent:  # it died before we asked
        os._exit(1)


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


class Guardian:
    """A process that outlives this one by as long as it takes to signal the processes it was told of."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _GUARDIAN], stdin=subprocess.PIPE, start_new_session=True
        )

    def watch(self, pid: int, number: signal.Signals) -> None:
        """Has the process signalled when this one is gone."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{pid} {int(number)}\n".encode())
        self._process.stdin.flush()


# A process number may belong to somebody else by then: only one whose parent is gone (1) can have been ours.
_GUARDIAN = """
import os, subprocess, sys
watched = [tuple(map(int, line.split())) for line in sys.stdin]
for pid, number in watched:
    found = subprocess.run(["ps", "-o", "ppid=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    if found == "1":
        os.kill(pid, number)
"""
_the_guardian: Guardian | None = None


def _guardian() -> Guardian:
    global _the_guardian
    if _the_guardian is None:
        _the_guardian = Guardian()
    return _the_guardian
