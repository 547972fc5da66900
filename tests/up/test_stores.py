from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from config.up.account import user
from config.up.failures import UpError
from config.up.ports import free_port, require_free
from config.up.postgres import THROWAWAY, EmbeddedPostgres, StopMode
from config.up.valkey import EmbeddedValkey


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(tmp_path / "postgres", free_port(), "super", THROWAWAY)
    server.initialise()
    server.start()
    server.wait_until_ready()
    yield server
    server.stop("immediate")


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[EmbeddedValkey]:
    server = EmbeddedValkey(tmp_path / "with space", free_port(), "pw-of-valkey")
    server.start()
    server.wait_until_ready()
    yield server
    server.stop()


@pytest.mark.slow
def test_postgres_has_vectors_and_an_owner_who_is_no_superuser(postgres: EmbeddedPostgres) -> None:
    postgres.create_database(owner="o", password="p/w?", database="d")
    postgres.create_database(owner="o", password="p/w?", database="d")
    with psycopg.connect(postgres.url("o", "p/w?", "d")) as connection:
        row = connection.execute("SELECT '[1,2]'::vector <-> '[1,3]', current_setting('is_superuser')").fetchone()
    assert row == (1.0, "off")


@pytest.mark.slow
def test_postgres_asks_for_a_password(postgres: EmbeddedPostgres) -> None:
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(postgres.url("postgres", "wrong", "postgres"))
    assert "super" not in subprocess.run(["ps", "-A", "-o", "args="], capture_output=True, text=True).stdout.split()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["smart", "fast", "immediate"])
def test_postgres_keeps_committed_rows_over_a_restart(postgres: EmbeddedPostgres, mode: StopMode) -> None:
    with psycopg.connect(postgres.url("postgres", "super", "postgres")) as connection:
        connection.execute("CREATE TABLE t AS SELECT 1 AS a")
    postgres.restart(mode)
    with psycopg.connect(postgres.url("postgres", "super", "postgres")) as connection:
        assert connection.execute("SELECT a FROM t").fetchall() == [(1,)]


@pytest.mark.slow
def test_a_pid_file_that_names_a_foreign_process_does_not_block_postgres(postgres: EmbeddedPostgres) -> None:
    assert postgres.process is not None
    postgres.process.kill()
    postgres.process.wait()
    pid_file = postgres.data_dir / "postmaster.pid"
    lines = pid_file.read_text().split("\n")
    pid_file.write_text("\n".join([str(os.getpid()), *lines[1:]]))
    postgres.start()
    postgres.wait_until_ready()


@pytest.mark.slow
def test_a_second_postgres_on_the_same_data_is_refused(postgres: EmbeddedPostgres) -> None:
    with pytest.raises(UpError, match="another PostgreSQL"):
        EmbeddedPostgres(postgres.data_dir, free_port(), "super").start()


def test_data_of_another_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "PG_VERSION").write_text("16\n")
    with pytest.raises(UpError, match="PostgreSQL 16"):
        EmbeddedPostgres(tmp_path, 1, "super").initialise()


@pytest.mark.slow
def test_half_a_data_directory_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "postgres.unfinished").mkdir()
    (tmp_path / "postgres.unfinished" / "PG_VERSION").write_text("18\n")
    server = EmbeddedPostgres(tmp_path / "postgres", free_port(), "super", THROWAWAY)
    server.initialise()
    assert server.is_initialised
    assert os.listdir(tmp_path) == ["postgres"]


def test_a_postgres_that_cannot_start_is_told(tmp_path: Path) -> None:
    (tmp_path / "PG_VERSION").write_text("18\n")
    server = EmbeddedPostgres(tmp_path, free_port(), "super")
    server.start()
    with pytest.raises(UpError, match="stopped while starting"):
        server.wait_until_ready(10)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_without_namespaces_root_starts_postgres_as_nobody(tmp_path_factory: pytest.TempPathFactory) -> None:
    home = Path("/tmp") / f"quiver-nobody-{os.getpid()}"  # pytest's own folders are closed to others
    home.mkdir(mode=0o700)
    server = EmbeddedPostgres(home / "postgres", free_port(), "super", THROWAWAY, account=user(65534))
    try:
        server.initialise()
        server.start()
        server.wait_until_ready()
        assert server.data_dir.stat().st_uid == 65534
    finally:
        server.stop("immediate")
        subprocess.run(["rm", "-r", str(home)], check=True)


def test_valkey_keeps_its_data_over_a_kill(valkey: EmbeddedValkey) -> None:
    redis.Redis.from_url(valkey.url()).set("a", "1")
    assert valkey.process is not None
    valkey.process.kill()
    valkey.process.wait()
    valkey.start()
    valkey.wait_until_ready()
    assert redis.Redis.from_url(valkey.url()).get("a") == b"1"


def test_valkeys_password_is_needed_and_on_no_command_line(valkey: EmbeddedValkey) -> None:
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(port=valkey.port, retry=Retry(NoBackoff(), 0)).ping()
    assert "pw-of-valkey" not in subprocess.run(["ps", "-A", "-o", "args="], capture_output=True, text=True).stdout


def test_a_valkey_that_cannot_start_is_told(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    second = EmbeddedValkey(tmp_path / "second", valkey.port, "other")
    second.start()
    with pytest.raises(UpError, match="stopped while starting"):
        second.wait_until_ready(10)


def test_a_port_in_use_is_told_and_avoided(valkey: EmbeddedValkey) -> None:
    with pytest.raises(UpError, match=f"port {valkey.port} .* is in use"):
        require_free("127.0.0.1", valkey.port)
    assert free_port(valkey.port) != valkey.port


def test_a_free_port_is_kept() -> None:
    port = free_port()
    assert free_port(port) == port
