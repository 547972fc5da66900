"""How `up` fails: with one line for the person at the terminal."""

from __future__ import annotations

import errno
import os
from pathlib import Path

NO_SPACE = os.strerror(errno.ENOSPC)


class UpError(Exception):
    """`up` cannot go on; the message is the line to print."""


class DiskFullError(UpError):
    """There is no room left where `up` keeps its data."""

    def __init__(self, place: Path) -> None:
        super().__init__(f"the disk that holds {place} is full ({NO_SPACE})")


def explain(error: OSError, home: Path) -> UpError:
    """What to tell when the operating system refused something during set-up."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFullError(home)
    return UpError(f"{error.filename or home}: {error.strerror or error}")
