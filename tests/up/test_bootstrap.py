"""`bin/run` and `bin/test` before there is an environment; a fresh clone proves what follows an installation."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.up.processes import CHECKOUT


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with nothing in it but the commands and an empty list of requirements."""
    shutil.copytree(CHECKOUT / "bin", tmp_path / "clone" / "bin", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("requirements.txt", "requirements-dev.txt"):
        (tmp_path / "clone" / name).write_text("")
    (tmp_path / "clone" / "manage.py").write_text("import os, sys; print('managed', sys.argv[1:], os.getcwd())")
    return tmp_path / "clone"


def run(checkout: Path, *arguments: str, path: str, cwd: Path | None = None, **environment: str) -> tuple[int, str]:
    """The command with no environment but a PATH."""
    done = subprocess.run(
        ["/bin/sh", str(checkout / "bin" / "run"), *arguments],
        env={"PATH": path} | environment,
        cwd=cwd or checkout,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout


@pytest.fixture
def python_only(tmp_path: Path) -> str:
    """A PATH with this Python, under a name that has to be looked for, and the tools of any system."""
    folder = tmp_path / "python"
    folder.mkdir()
    (folder / f"python3.{sys.version_info[1]}").symlink_to(Path(sys.base_prefix) / "bin" / "python3")
    (folder / "dirname").symlink_to(shutil.which("dirname") or "")
    return str(folder)


def test_no_python_is_told_in_one_line(checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "dirname").symlink_to(shutil.which("dirname") or "")
    code, said = run(checkout, path=str(tmp_path / "empty"))
    assert code == 1
    assert said.startswith("quiver: no Python 3.11 or later")
    assert len(said.splitlines()) == 1


def test_a_missing_ensurepip_is_told_in_one_line(checkout: Path, python_only: str, tmp_path: Path) -> None:
    (tmp_path / "ensurepip.py").write_text("raise ImportError")
    code, said = run(checkout, path=python_only, PYTHONPATH=str(tmp_path))
    assert code == 1
    assert "lacks ensurepip" in said
    assert "-venv" in said
    assert len(said.splitlines()) == 1


@pytest.mark.slow
def test_it_hands_over_from_any_directory_and_installs_once(checkout: Path, python_only: str, tmp_path: Path) -> None:
    code, said = run(checkout, "--port", "1", path=python_only, cwd=tmp_path)
    assert code == 0
    assert "making" in said
    assert said.splitlines()[-1] == f"managed ['up', '--port', '1'] {tmp_path}"
    assert run(checkout, path=python_only) == (0, f"managed ['up'] {checkout}\n")


@pytest.mark.slow
def test_half_an_environment_is_made_anew(checkout: Path, python_only: str) -> None:
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / ".venv" / "bin" / "python").symlink_to("/nonexistent")
    assert run(checkout, path=python_only)[0] == 0
    (checkout / ".venv" / "quiver-unfinished").touch()
    code, said = run(checkout, path=python_only)
    assert code == 0
    assert "making" in said


@pytest.mark.slow
def test_two_at_once_both_succeed(checkout: Path, python_only: str) -> None:
    command = ["/bin/sh", str(checkout / "bin" / "run")]
    both = [subprocess.Popen(command, env={"PATH": python_only}, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum("making" in text for text in said) == 1


@pytest.mark.slow
def test_a_requirement_that_cannot_be_had_is_told_in_one_line(checkout: Path, python_only: str) -> None:
    (checkout / "requirements.txt").write_text(f"quiver-of-no-index==1 --hash=sha256:{'0' * 64}\n")
    code, said = run(checkout, path=python_only, PIP_NO_INDEX="1")
    assert code == 1
    assert said.splitlines()[-1].startswith("quiver: installing requirements.txt failed: No matching distribution")


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_checkout_that_cannot_be_written_is_told_in_one_line(checkout: Path, python_only: str) -> None:
    for folder in (checkout.parent, *checkout.parents[1:3]):
        folder.chmod(0o755)
    program = "import os, sys; os.setuid(65534); os.execv('/bin/sh', ['/bin/sh', *sys.argv[1:]])"
    done = subprocess.run(
        [sys.executable, "-c", program, str(checkout / "bin" / "run")],
        env={"PATH": os.defpath},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "cannot prepare" in done.stderr.splitlines()[-1]
