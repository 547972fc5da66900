"""The arguments of `up`, checked."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

from config.up.failures import UpError
from config.up.programs import CHECKOUT, given

_MOST_WORKERS_BY_DEFAULT = 4


@dataclass(frozen=True)
class Options:
    """What was asked for."""

    host: str
    port: int
    home: Path
    workers: int
    demo: bool

    @property
    def base_url(self) -> str:
        """The address at which this machine reaches the web."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"


def parse(arguments: list[str]) -> Options:
    """Reads the arguments; exits with usage when they are nonsense."""
    parser = argparse.ArgumentParser(prog="up", description="Starts the whole platform on this machine.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=_port, default=8000, help="default: %(default)s")
    parser.add_argument("--home", type=Path, help="where all data is kept (default: $QUIVER_HOME, or .quiver here)")
    parser.add_argument("--workers", type=_workers, default=_cores(), help="web processes (default: %(default)s)")
    parser.add_argument("--no-demo", action="store_true", help="no demo tenant")
    found = parser.parse_args(arguments)
    home = found.home or Path(os.environ.get("QUIVER_HOME") or CHECKOUT / ".quiver")
    return Options(found.host, found.port, home, found.workers, not found.no_demo)


def drain_seconds() -> float:
    """How long web workers may take over requests under way when they are told to stop."""
    text = given("QUIVER_DRAIN_SECONDS") or "10"
    try:
        return float(text)
    except ValueError:
        raise UpError("QUIVER_DRAIN_SECONDS must be a number of seconds") from None


def _port(text: str) -> int:
    return _number(text, 1, 65535)


def _workers(text: str) -> int:
    return _number(text, 1, 1024)


def _number(text: str, least: int, most: int) -> int:
    if not text.isdecimal() or not least <= int(text) <= most:
        raise argparse.ArgumentTypeError(f"must be a number from {least} to {most}")
    return int(text)


def _cores() -> int:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(_MOST_WORKERS_BY_DEFAULT, usable)
