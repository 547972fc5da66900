from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from config.up.children import Child, Children, failure, migrations, serious, serious_or_plain
from config.up.console import Console
from config.up.failures import DiskFullError
from config.up.lifeline import spawn
from tests.up.processes import CHECKOUT, eventually, is_running


@pytest.fixture
def children(tmp_path: Path) -> Children:
    return Children(tmp_path, Console())


def start(children: Children, program: str) -> Child:
    process = spawn([sys.executable, "-c", program], death_signal=signal.SIGKILL, stdout=subprocess.PIPE)
    return children.adopt("some", process, serious_or_plain)


def run(children: Children, program: str) -> Child:
    start(children, program)
    return eventually(lambda: children.pump(0.01) or children.ended())


def test_a_failed_child_is_named_with_its_last_lines(children: Children, tmp_path: Path) -> None:
    child = run(children, "print(*range(30), sep='\\n', flush=True); raise SystemExit(3)")
    told = str(failure(child, tmp_path))
    assert "some ended with exit code 3" in told
    assert "some | 29" in told
    assert "some | 9\n" not in told
    assert (tmp_path / "some.log").read_text().startswith("0\n1\n")


def test_a_killed_child_is_named_with_the_signal(children: Children, tmp_path: Path) -> None:
    child = run(children, "import os; os.kill(os.getpid(), 9)")
    assert "some was killed by SIGKILL" in str(failure(child, tmp_path))


def test_a_last_line_without_an_end_is_kept(children: Children, tmp_path: Path) -> None:
    assert "some | the end" in str(failure(run(children, "print('the end', end='')"), tmp_path))


def test_a_full_disk_is_told_in_one_line(children: Children, tmp_path: Path) -> None:
    child = run(children, "raise OSError(28, 'No space left on device')")
    told = failure(child, tmp_path)
    assert isinstance(told, DiskFullError)
    assert "\n" not in str(told)


def test_much_output_is_read_while_it_is_written(children: Children, tmp_path: Path) -> None:
    run(children, "print('x' * 1_000_000)")
    assert (tmp_path / "some.log").stat().st_size == 1_000_001


def test_stopping_waits_for_a_clean_end(children: Children, tmp_path: Path) -> None:
    program = "import signal; print('up', flush=True); signal.sigwait([15]); print('bye')"
    child = start(children, f"import signal; signal.pthread_sigmask(0, [15]); {program}")
    eventually(lambda: children.pump(0.01) or child.last)
    children.stop(("some",), signal.SIGTERM, 5, lambda: False)
    assert child.process.returncode == 0
    assert list(child.last) == ["up", "bye"]


@pytest.mark.parametrize(("timeout", "is_hurried"), [(0.1, False), (30.0, True)])
def test_what_does_not_stop_is_killed_with_its_children(children: Children, timeout: float, is_hurried: bool) -> None:
    program = "import signal, subprocess; signal.signal(15, signal.SIG_IGN); p = subprocess.Popen(['sleep', '60']);"
    child = start(children, f"{program} print(p.pid, flush=True); p.wait()")
    eventually(lambda: children.pump(0.01) or child.last)
    children.stop(("some",), signal.SIGTERM, timeout, lambda: is_hurried)
    assert child.process.returncode == -signal.SIGKILL
    eventually(lambda: not is_running(int(child.last[0])))


@pytest.mark.parametrize(
    ("line", "is_shown"),
    [
        (b'{"at":"x","level":"info","message":"POST /v1/embeddings ERROR"}', False),
        (b'{"at":"x","level":"warning","message":"x"}', True),
        (b"[2026-01-01 00:00:00: WARNING/MainProcess] x", True),
        (b"ordinary", False),
        (b"Traceback (most recent call last):", True),
    ],
)
def test_serious_lines(line: bytes, is_shown: bool) -> None:
    assert serious(line) is is_shown


def test_lines_for_the_console() -> None:
    assert serious_or_plain(b"plain words")
    assert not serious_or_plain(b'{"level":"info"}')
    assert migrations(b"  Applying tenants.0001_initial... OK")
    assert not migrations(b"Operations to perform:")


ORPHAN = """
import os, signal, subprocess, sys
from config.up import lifeline
lifeline.HAS_DEATH_SIGNAL = {kernel}
signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background job ignores it, and so would the child
child = lifeline.spawn(["sleep", "60"], death_signal=signal.SIGINT)
print(child.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("kernel", [True, False], ids=["death signal", "guardian"])
def test_no_child_outlives_a_killed_parent(kernel: bool) -> None:
    program = ORPHAN.format(kernel=kernel)
    # The child holds the output too: it ends when both are gone.
    told = subprocess.run(
        [sys.executable, "-c", program], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True, timeout=10, check=False
    )
    assert told.returncode == -signal.SIGKILL
    eventually(lambda: not is_running(int(told.stdout)), 5)


WATCHER = """
import os, sys, time
from config.up import lifeline
lifeline.HAS_DEATH_SIGNAL = {kernel}
parent, (reader, writer) = os.getpid(), os.pipe()
if os.fork() == 0:
    lifeline.die_with(parent)
    os.write(writer, b"x")
    time.sleep(60)
os.read(reader, 1)
print(*[int(p) for p in open(f"/proc/{{parent}}/task/{{parent}}/children").read().split()], flush=True)
os.kill(parent, 9)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="lists children by /proc")
@pytest.mark.parametrize("kernel", [True, False], ids=["death signal", "watching"])
def test_our_own_children_die_with_their_parent(kernel: bool) -> None:
    program = WATCHER.format(kernel=kernel)
    # The child holds the output too: it ends when both are gone.
    told = subprocess.run(
        [sys.executable, "-c", program], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True, timeout=10, check=False
    )
    eventually(lambda: not is_running(int(told.stdout)), 5)
