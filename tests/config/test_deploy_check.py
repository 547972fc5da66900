"""Django's own checks for production find nothing wrong with settings that are made from a production's environment."""

from __future__ import annotations

import base64
import subprocess
import sys

import pytest

from tests.up.processes import CHECKOUT, clean_environment

PRODUCTION = {
    "DJANGO_SECRET_KEY": base64.b64encode(bytes(range(60))).decode(),
    "QUIVER_ENCRYPTION_KEYS": "first:" + base64.b64encode(bytes(range(32))).decode(),
    "QUIVER_PUBLIC_URL": "https://quiver.example",
    "QUIVER_ALLOWED_HOSTS": "quiver.example",
    "DATABASE_URL": "postgresql://quiver:secret@db.quiver.example/quiver?sslmode=require",
}


def check(**changes: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "manage.py", "check", "--deploy", "--fail-level", "WARNING"]
    environment = clean_environment() | PRODUCTION | changes
    return subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_production_has_no_warnings() -> None:
    done = check()
    assert (done.returncode, "no issues" in done.stdout) == (0, True), done.stdout + done.stderr


@pytest.mark.slow
def test_what_is_unsafe_in_production_is_told() -> None:
    done = check(QUIVER_DEBUG="true")
    assert (done.returncode, "security.W018" in done.stderr) == (1, True), done.stdout + done.stderr
