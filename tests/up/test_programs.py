from __future__ import annotations

from pathlib import Path

import pytest

from config.up import programs
from config.up.failures import UpError
from config.up.home import Home, Secrets
from config.up.options import parse
from config.up.quickstart import Quickstart, curl

SECRETS = Secrets.generate()


@pytest.mark.parametrize(
    ("redis", "broker"),
    [
        ("redis://h:1/0", "redis://h:1/1"),
        ("redis://:p@h:1", "redis://:p@h:1/1"),
        ("rediss://h/3?ssl_cert_reqs=none", "rediss://h/1?ssl_cert_reqs=none"),
        ("unix:///run/redis.sock", "unix:///run/redis.sock"),
    ],
)
def test_the_broker_is_another_database_of_the_same_server(redis: str, broker: str) -> None:
    assert programs.broker_url(redis) == broker


def test_a_secret_may_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("postgresql://x\n")
    assert programs.given("DATABASE_URL", {"DATABASE_URL_FILE": str(tmp_path / "url")}) == "postgresql://x"
    assert programs.given("DATABASE_URL", {"DATABASE_URL": "y"}) == "y"
    assert programs.given("DATABASE_URL", {"DATABASE_URL": ""}) is None


def test_a_missing_secret_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(UpError, match="DATABASE_URL_FILE"):
        programs.given("DATABASE_URL", {"DATABASE_URL_FILE": str(tmp_path / "none")})


def test_children_get_what_up_decided_and_no_file_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_text("k" * 40)
    monkeypatch.setenv("DJANGO_SECRET_KEY_FILE", str(tmp_path / "key"))
    monkeypatch.setenv("QUIVER_LOG_LEVEL", "DEBUG")
    found = programs.environment(Home(tmp_path), SECRETS, "postgresql://d", "redis://r/0")
    assert found["DJANGO_SECRET_KEY"] == "k" * 40
    assert "DJANGO_SECRET_KEY_FILE" not in found
    assert found["QUIVER_LOG_LEVEL"] == "DEBUG"
    assert found["DATABASE_URL"] == "postgresql://d"


def test_no_secret_is_on_a_command_line() -> None:
    commands = [programs.web("h", 1, 1), programs.worker(), programs.beat(), programs.prepare(demo=True)]
    words = " ".join(word for command in commands for word in command)
    assert not any(secret in words for secret in vars(SECRETS).values())


@pytest.mark.parametrize("arguments", [["--port", "0"], ["--port", "x"], ["--workers", "0"], ["--nonsense"]])
def test_nonsense_is_refused_with_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(arguments)
    assert ended.value.code == 2
    assert "usage: up" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("host", "url"), [("0.0.0.0", "http://127.0.0.1:1"), ("::", "http://[::1]:1"), ("h", "http://h:1")]
)
def test_the_address_is_one_that_can_be_called(host: str, url: str) -> None:
    assert parse(["--host", host, "--port", "1"]).base_url == url


def test_credentials_outlive_a_start_that_failed(tmp_path: Path) -> None:
    quickstart = Quickstart(tmp_path)
    assert quickstart.retire() is None
    quickstart.write({"api_key": "k"})
    assert quickstart.retire() == {"api_key": "k"}
    assert not quickstart.path.exists()
    assert quickstart.retire() == {"api_key": "k"}


def test_the_command_needs_no_demo_tenant() -> None:
    assert "catalog" in curl({"base_url": "http://h", "operator_key": "o", "api_key": None})
    assert "'Authorization: Bearer k'" in curl({"base_url": "http://h", "api_key": "k", "model": "m"})
