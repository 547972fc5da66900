from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from config.up.failures import UpError
from config.up.home import Home, write_private


def test_a_second_holder_is_told_who_has_the_home(tmp_path: Path) -> None:
    with Home(tmp_path).held(), pytest.raises(UpError, match=f"process {os.getpid()}"), Home(tmp_path).held():
        pass


def test_a_home_is_free_again_afterwards(tmp_path: Path) -> None:
    with Home(tmp_path).held():
        pass
    with Home(tmp_path).held():
        pass


def test_a_killed_holders_child_keeps_the_home_until_it_ends(tmp_path: Path) -> None:
    with Home(tmp_path).held() as lock:
        # It inherits the lock as a database does, and lets go after half a second.
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.5)"], pass_fds=[lock])
        gone = subprocess.Popen([sys.executable, "-c", ""])
        gone.wait()
        os.pwrite(lock, f"{gone.pid:<10}".encode(), 0)
    with Home(tmp_path).held():
        assert child.wait(1) == 0


def test_secrets_are_made_once_and_private(tmp_path: Path) -> None:
    made = Home(tmp_path).secrets()
    assert Home(tmp_path).secrets() == made
    assert stat.S_IMODE((tmp_path / "secrets.json").stat().st_mode) == 0o600
    assert made.encryption_keys.startswith("k1:")


def test_secrets_are_not_made_anew_beside_a_database(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    with pytest.raises(UpError, match="has a database but"):
        Home(tmp_path).secrets()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"other": 1}'])
def test_damaged_secrets_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "secrets.json").write_text(content)
    with pytest.raises(UpError, match="damaged"):
        Home(tmp_path).secrets()


def test_ports_are_remembered(tmp_path: Path) -> None:
    Home(tmp_path).remember_ports({"postgres": 5433})
    assert Home(tmp_path).ports() == {"postgres": 5433}


def test_metrics_of_an_earlier_run_are_dropped(tmp_path: Path) -> None:
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "counter_1.db").touch()
    Home(tmp_path).make_folders()
    assert list((tmp_path / "metrics").iterdir()) == []


def test_a_private_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_private(path, {"a": 1})
    write_private(path, {"a": 2})
    assert path.read_text() == '{\n  "a": 2\n}\n'
    assert os.listdir(tmp_path) == ["file.json"]
