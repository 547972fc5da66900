"""`manage.py up` itself, as somebody at a terminal has it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from config.up.ports import free_port
from config.up.postgres import THROWAWAY, EmbeddedPostgres
from tests.up.processes import Up, children_of, eventually, get, is_running

pytestmark = pytest.mark.slow
Start = Callable[..., Up]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts as many as a test wants, on one home unless it names others, and ends them all."""
    running: list[Up] = []

    def begin(*arguments: str, home: str = "home", port: int | None = None, **environment: str) -> Up:
        running.append(Up(tmp_path / home, port or free_port(), tmp_path, "--workers", "1", *arguments, **environment))
        return running[-1]

    yield begin
    for up in running:
        up.close()


@pytest.fixture(scope="module")
def home_of_before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home that an `up` has made and left in good order."""
    folder = tmp_path_factory.mktemp("before")
    up = Up(folder / "home", free_port(), folder, "--workers", "1")
    try:
        up.quickstart()
    finally:
        up.close()
    assert up.process.returncode == 0
    return folder / "home"


@pytest.fixture
def used_home(home_of_before: Path, tmp_path: Path) -> None:
    """What is told of a platform that runs needs no database made anew."""
    shutil.copytree(home_of_before, tmp_path / "home")


def family(quickstart: dict[str, Any]) -> list[int]:
    """All processes of a platform but its supervisor."""
    pids = quickstart["pids"]
    direct = [pid for name, pid in pids.items() if name != "supervisor" and pid]
    return direct + [child for pid in direct for child in children_of(pid)]


def all_gone(pids: list[int]) -> bool:
    return not any(is_running(pid) for pid in pids)


def test_it_starts_tells_and_stops(start: Start, tmp_path: Path) -> None:
    up = start()
    found = up.quickstart()
    path = tmp_path / "home" / "quickstart.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert found["home"] == str(tmp_path / "home")
    assert get(f"{found['base_url']}/readyz")[0] == 200
    assert set(found["pids"]) == {"supervisor", "web", "worker", "beat", "postgres", "redis"}
    assert found["pids"]["supervisor"] == up.process.pid
    command = next(line for line in up.said.splitlines() if line.strip().startswith("curl "))
    answer = json.loads(subprocess.run(command, shell=True, capture_output=True, check=True).stdout)
    assert len(answer["data"][0]["embedding"]) > 1
    members = family(found)
    up.signal(signal.SIGINT)
    assert up.ends() == 0
    assert all_gone(members)
    assert not path.exists()


@pytest.mark.usefixtures("used_home")
def test_data_and_credentials_outlive_a_restart(start: Start) -> None:
    first = start()
    before = first.quickstart()
    with psycopg.connect(before["database_url"]) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS a")
    first.signal(signal.SIGTERM)
    assert first.ends() == 0
    after = start().quickstart()
    kept = ("api_key", "operator_key", "admin_password", "tenant_id", "database_url", "redis_url")
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    with psycopg.connect(after["database_url"]) as connection:
        assert connection.execute("SELECT a FROM kept").fetchone() == (7,)


@pytest.mark.usefixtures("used_home")
def test_killed_it_leaves_nothing_and_starts_again_at_once(start: Start) -> None:
    up = start()
    members = family(up.quickstart())
    up.signal(signal.SIGKILL)
    up.ends()
    again = start()
    eventually(lambda: all_gone(members), 5)
    assert get(f"{again.quickstart()['base_url']}/readyz")[0] == 200


@pytest.mark.usefixtures("used_home")
@pytest.mark.parametrize("name", ["web", "worker", "beat", "postgres", "redis"])
def test_a_child_that_dies_is_named_and_stops_the_rest(start: Start, name: str) -> None:
    up = start()
    found = up.quickstart()
    members = family(found)
    os.kill(found["pids"][name], signal.SIGKILL)
    assert up.ends() == 1
    assert f"quiver: {name} was killed by SIGKILL; its last lines:" in up.said
    eventually(lambda: all_gone(members), 5)


@pytest.mark.usefixtures("used_home")
def test_a_killed_web_worker_comes_back_and_nothing_stops(start: Start) -> None:
    up = start()
    found = up.quickstart()
    for pid in children_of(found["pids"]["web"]):
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: get(f"{found['base_url']}/livez")[0] == 200, 20)
    assert up.process.poll() is None


@pytest.mark.usefixtures("used_home")
def test_a_second_request_to_stop_hurries(start: Start) -> None:
    up = start()
    found = up.quickstart()
    members = family(found)
    os.kill(found["pids"]["beat"], signal.SIGSTOP)  # it would take its whole grace
    up.signal(signal.SIGINT)
    eventually(lambda: "once more to hurry" in up.said)
    up.signal(signal.SIGINT)
    assert up.ends(10) == 0
    eventually(lambda: all_gone(members), 5)


def test_a_second_one_on_the_same_home_is_told_who_has_it(start: Start) -> None:
    first = start()
    eventually(lambda: "home" in first.said)
    second = start()
    assert second.ends() == 1
    assert second.said.splitlines()[-1].endswith(f"is held by another `up`, process {first.process.pid}")


@pytest.mark.usefixtures("used_home")
def test_a_port_in_use_is_told(start: Start) -> None:
    first = start()
    port = first.quickstart()["base_url"].rpartition(":")[2]
    second = start(home="other", port=int(port))
    assert second.ends() == 1
    assert second.said.splitlines()[-1].startswith(f"quiver: port {port} of 127.0.0.1 is in use")


@pytest.mark.parametrize("obstacle", ["file", "/proc/quiver", "/dev/full/quiver"])
def test_an_unwritable_home_is_told_in_one_line(start: Start, tmp_path: Path, obstacle: str) -> None:
    (tmp_path / "file").touch()
    up = start(home=obstacle)
    assert up.ends() == 1
    assert len(up.said.splitlines()) == 1
    assert up.said.startswith("quiver: ")


def test_an_environment_that_is_nonsense_is_told(start: Start) -> None:
    up = start(QUIVER_DEADLINE_MS="soon", QUIVER_METRIC_TENANTS="-1")
    assert up.ends() == 1
    assert "QUIVER_DEADLINE_MS" in up.said
    assert "QUIVER_METRIC_TENANTS" in up.said
    assert "Traceback" not in up.said


def test_a_database_that_is_away_is_told(start: Start) -> None:
    up = start(DATABASE_URL="postgresql://u:p@127.0.0.1:1/d?connect_timeout=1", QUIVER_DRAIN_SECONDS="0")
    eventually(lambda: "migrating" in up.said)
    up.signal(signal.SIGTERM)
    assert up.ends(10) == 0


def test_two_at_once_on_one_database_both_start(start: Start, tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "shared", free_port(), "super", THROWAWAY)
    server.initialise()
    server.start()
    try:
        server.wait_until_ready()
        server.create_database(owner="o", password="p", database="d")
        url = server.url("o", "p", "d")
        both = [start(home=name, DATABASE_URL=url) for name in ("a", "b")]
        found = [up.quickstart(90) for up in both]
        assert [quickstart["pids"]["postgres"] for quickstart in found] == [None, None]
        assert {quickstart["database_url"] for quickstart in found} == {url}
        assert len({quickstart["tenant_id"] for quickstart in found}) == 1
        for up in both:
            up.signal(signal.SIGTERM)
        assert [up.ends() for up in both] == [0, 0]
    finally:
        server.stop("immediate")
