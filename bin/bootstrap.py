"""Makes the virtual environment of this checkout, then runs Quiver or its checks in it.

Owns `.venv`: its making, its packages, the stamp that tells which requirements are in it. What runs afterwards is
others' business: `manage.py up` for `run`; the linters and pytest for `test`. Standard library only, because nothing
else is there yet.

`bin/test` runs the linters and then all tests, on several processes. Arguments go to pytest; when one of them names a
test path, pytest runs alone.

Failure: without a package index, ensurepip, disk or permission it ends with one line that says so. A run that was
interrupted leaves a mark, and the next one starts the environment anew.
"""

from __future__ import annotations

import base64
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
VENV = CHECKOUT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "quiver-requirements.json"
UNFINISHED = VENV / "quiver-unfinished"
RUN, TEST = "requirements.txt", "requirements-dev.txt"
# Checks read the settings too (mypy's plugin does), and these two have no default.
TEST_SETTINGS = {
    "DJANGO_SECRET_KEY": "for-the-checks-alone-no-secret-at-all-0123456789",
    "QUIVER_ENCRYPTION_KEYS": f"test:{base64.b64encode(bytes(32)).decode()}",
}
# How soon a worker is back, and leases under 256 callers, need a machine that has nothing else to do.
ALONE = ("tests/up", "tests/scenarios/test_limits_hold.py")
LINTERS = {
    "ruff check": ["ruff", "check"],
    "ruff format": ["ruff", "format", "--check"],
    "mypy": ["mypy"],
    "lint-imports": ["lint-imports"],
}


class BootstrapError(Exception):
    """One line for the person at the terminal."""


def main(arguments: list[str]) -> int:
    """Prepares the environment, then does what the first argument says."""
    what, rest = arguments[0], arguments[1:]
    try:
        with _alone():
            _prepare(RUN if what == "run" else TEST)
    except BootstrapError as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(_explain(error))
    os.environ["VIRTUAL_ENV"] = str(VENV)
    os.environ["PATH"] = f"{VENV / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    if what == "run":
        sys.stdout.flush()
        os.execv(PYTHON, [str(PYTHON), str(CHECKOUT / "manage.py"), "up", *rest])
    return _test(rest)


def _prepare(requirements: str) -> None:
    if UNFINISHED.exists() or not _usable():
        _make_venv()
    wanted = {name: hashlib.sha256((CHECKOUT / name).read_bytes()).hexdigest() for name in (RUN, TEST)}
    installed = _read_stamp()
    if installed.get(requirements) == wanted[requirements]:
        return
    UNFINISHED.touch()
    STAMP.unlink(missing_ok=True)
    _install(requirements)
    # The development set holds the other with the same pins, so that installing it serves both.
    stamp = wanted if requirements == TEST else {RUN: wanted[RUN]}
    STAMP.write_text(json.dumps(stamp))
    UNFINISHED.unlink()


@contextmanager
def _alone() -> Iterator[None]:
    # The checkout itself is the lock: no file to leave behind, and .venv may be replaced under it.
    directory = os.open(CHECKOUT, os.O_RDONLY)
    try:
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("waiting for another bootstrap of this checkout")
            fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


def _usable() -> bool:
    check = "import sys, pip; sys.exit(sys.version_info < (3, 11))"
    try:
        return subprocess.run([PYTHON, "-c", check], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _make_venv() -> None:
    try:
        import ensurepip  # noqa: F401  # Debian ships it apart from Python itself
        import venv
    except ImportError:
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        raise BootstrapError(
            f"{sys.executable} lacks ensurepip; install it (Debian, Ubuntu: apt install python{version}-venv)"
        ) from None
    _say(f"making {VENV} with Python {sys.version.split()[0]}")
    if VENV.is_symlink() or VENV.is_file():
        VENV.unlink()
    elif VENV.exists():
        shutil.rmtree(VENV)
    VENV.mkdir()
    UNFINISHED.touch()
    try:
        venv.create(VENV, with_pip=True)
    except subprocess.CalledProcessError as error:
        raise BootstrapError(_reason((error.output or b"").decode(errors="replace").splitlines())) from None


def _read_stamp() -> dict[str, str]:
    try:
        stamp: dict[str, str] = json.loads(STAMP.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return stamp


def _install(requirements: str) -> None:
    path = CHECKOUT / requirements
    total = len(re.findall(r"^[A-Za-z0-9][^=\n]*==", path.read_text(), re.MULTILINE))
    # The lock is whole, so nothing is left to resolve; asked to, pip before 23.3 leaves a pin for the newest release
    # as soon as another package wants the pinned one with an extra.
    command = [str(PYTHON), "-m", "pip", "install", "--no-deps", "--require-hashes", "--requirement", str(path)]
    command += ["--progress-bar", "off", "--no-input", "--disable-pip-version-check", "--no-warn-script-location"]
    progress = _Progress(requirements, total)
    last: deque[str] = deque(maxlen=40)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=CHECKOUT) as pip:
        assert pip.stdout is not None
        for line in pip.stdout:
            last.append(line.rstrip())
            progress.saw(line)
    if pip.returncode != 0:
        raise BootstrapError(f"installing {requirements} failed: {_reason(list(last))}")
    progress.done()


class _Progress:
    """Turns pip's lines into one that moves on a terminal, and into one every five seconds elsewhere."""

    def __init__(self, requirements: str, total: int) -> None:
        self._name, self._total, self._found = requirements, total, 0
        self._began = self._told = time.monotonic()
        self._terminal = sys.stdout.isatty()
        _say(f"installing {requirements}: up to {total} packages")

    def saw(self, line: str) -> None:
        if line.startswith(("Collecting ", "Requirement already satisfied")):
            self._found += 1
            self._tell(f"{self._found} of {self._total} packages fetched")
        elif line.startswith("Installing collected packages"):
            self._told = 0
            self._tell("unpacking")

    def done(self) -> None:
        if self._terminal:
            print("\r\033[K", end="")
        _say(f"installed {self._name} in {time.monotonic() - self._began:.0f} s")

    def _tell(self, text: str) -> None:
        now = time.monotonic()
        if now - self._told < (0.1 if self._terminal else 5):
            return
        self._told = now
        text = f"quiver: {text}, {now - self._began:.0f} s"
        print(f"\r\033[K{text}" if self._terminal else text, end="" if self._terminal else "\n", flush=True)


def _reason(lines: list[str]) -> str:
    text = "\n".join(lines)
    if os.strerror(errno.ENOSPC) in text:
        return f"the disk that holds {VENV} or the temporary files is full"
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (errors or [line for line in lines if line.strip()] or ["no reason given"])[-1].strip()


def _explain(error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return f"the disk that holds {VENV} is full"
    return f"cannot prepare {VENV}: {error.strerror or error}: {error.filename or CHECKOUT}"


def _test(arguments: list[str]) -> int:
    # Stories that share a platform stand in one file: they stay in one process. In which order is the tests' business.
    several = ["-n", str(min(4, os.cpu_count() or 1)), "--dist", "loadfile", "--no-loadscope-reorder"]
    if not arguments:
        apart = [f"--ignore={path}" for path in ALONE]
        steps = {"pytest": ["pytest", *several, *apart], "pytest, alone": ["pytest", *ALONE]}
    else:
        steps = {"pytest": ["pytest", *(several if arguments == ["-m", "not slow"] else []), *arguments]}
    if not any((CHECKOUT / argument.split("::")[0]).exists() for argument in arguments if argument[:1] != "-"):
        steps = LINTERS | steps
    outcomes: list[tuple[str, int, float]] = []
    for name, command in steps.items():
        _say(name)
        began = time.monotonic()
        program = [str(VENV / "bin" / command[0]), *command[1:]]
        code = subprocess.run(program, cwd=CHECKOUT, env=TEST_SETTINGS | os.environ, check=False).returncode
        outcomes.append((name, code, time.monotonic() - began))
    for name, code, seconds in outcomes:
        _say(f"{'ok    ' if code == 0 else 'FAILED'} {name} ({seconds:.1f} s)")
    return next((code for _, code, _ in outcomes if code != 0), 0)


def _say(text: str) -> None:
    print(f"quiver: {text}", flush=True)


def _fail(reason: str) -> int:
    print(f"quiver: {reason}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
