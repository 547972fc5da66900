"""What the person at the terminal sees: steps with their time, lines of children with their name.

Failure: a terminal that has gone away takes nothing down; what is printed after that is lost, the log files are not.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TextIO


class Console:
    """Prints to standard output, complaints to standard error."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._out: TextIO = sys.stdout
        self._err: TextIO = sys.stderr

    @property
    def elapsed(self) -> float:
        """Seconds since `up` began."""
        return time.monotonic() - self._began

    def step(self, text: str) -> None:
        """Tells what is being done, with the time since the start."""
        self.say(f"{self.elapsed:6.1f} s  {text}")

    def child(self, name: str, line: str) -> None:
        """Shows a line that a child wrote."""
        self.say(f"{name:<8} | {line}")

    def say(self, text: str) -> None:
        """Prints a line as it is."""
        self._out = _print(self._out, text)

    def complain(self, text: str) -> None:
        """Prints why `up` stops."""
        self._err = _print(self._err, f"quiver: {text}")


def _print(stream: TextIO, text: str) -> TextIO:
    try:
        stream.write(f"{text}\n")
        stream.flush()
    except OSError:
        return open(os.devnull, "w")
    return stream
