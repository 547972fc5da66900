"""The encryption key is changed under load: no request fails, nothing that somebody wrote meanwhile is lost."""

from __future__ import annotations

import base64
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.openai import FakeOpenAI
from tests.scenarios.platform import Platform
from tests.up.processes import CHECKOUT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
OLD = f"old:{base64.b64encode(bytes(32)).decode()}"
NEW = f"new:{base64.b64encode(bytes(range(32))).decode()}"
CREDENTIALS = 60
SEALED = "SELECT sealed FROM catalog_providercredential UNION ALL SELECT sealed FROM tenants_tenantcredential"


class Load:
    """Callers of a tenant, and somebody who gives one of its credentials another secret all the time."""

    def __init__(self, platform: Platform, key: str, changing: str) -> None:
        self.platform, self.key, self.changing = platform, key, changing
        self.statuses: Counter[int] = Counter()
        self.last_secret = ""
        self.changes = 0
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=each) for each in (self._embed, self._embed, self._change)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join(60)

    def _embed(self) -> None:
        while not self._is_over.is_set():
            answer = self.platform.embed(self.key, model="text-embedding-3-small", input=f"at {time.monotonic_ns()}")
            self.statuses[answer.status] += 1

    def _change(self) -> None:
        while not self._is_over.is_set():
            secret = f"sk-changed-{self.changes:04}-while-rotating"
            body = {"secret": {"api_key": secret}}
            self.platform.operate("PATCH", f"/provider-credentials/{self.changing}", body, self.key)
            self.last_secret, self.changes = secret, self.changes + 1


def command(platform: Platform, *arguments: str) -> Any:
    return subprocess.run(
        [sys.executable, "manage.py", "rotate_encryption_key", *arguments],
        cwd=CHECKOUT,
        env=platform.environment,
        capture_output=True,
        text=True,
        check=False,
    )


def restart(platform: Platform, keys: str) -> None:
    platform.stop_web()
    platform.environment["QUIVER_ENCRYPTION_KEYS"] = keys
    platform.start_web()


def test_the_key_is_changed_under_load(tmp_path: Path) -> None:
    with FakeOpenAI() as vendor, Platform(tmp_path / "home", 1, {"QUIVER_ENCRYPTION_KEYS": OLD}) as platform:
        vendor.switch(key="")
        platform.add_provider("seller", vendor.base_url, "sk-of-the-platform")
        _, key = platform.add_tenant("acme")
        platform.configure(key, platform.add_model("seller"))
        for number in range(CREDENTIALS // 20):
            _, other = platform.add_tenant(f"other-{number}")
            for each in range(20):
                body = {"provider": "seller", "secret": {"api_key": f"sk-of-{number}-and-{each:04}"}}
                platform.operate("POST", "/provider-credentials", body, other)
        body = {"provider": "seller", "secret": {"api_key": "sk-of-acme-at-first"}}
        changing = platform.operate("POST", "/provider-credentials", body, key)["id"]
        restart(platform, f"{NEW},{OLD}")

        with Load(platform, key, changing) as load:
            time_to_begin(load)
            done = command(platform)
            seen = sum(load.statuses.values()), load.changes
            time_to_go_on(load, seen)

        assert done.returncode == 0, done.stderr
        assert set(load.statuses) == {200}
        assert {sealed.partition(":")[0] for (sealed,) in platform.rows(SEALED)} == {"new"}
        assert command(platform, "--check").returncode == 0
        restart(platform, NEW)
        vendor.calls.clear()
        assert platform.embed(key, model="text-embedding-3-small", input="after it all").status == 200
        assert [call.headers["authorization"] for call in vendor.calls] == [f"Bearer {load.last_secret}"]


def time_to_begin(load: Load) -> None:
    time_to_go_on(load, (20, 5))


def time_to_go_on(load: Load, since: tuple[int, int]) -> None:
    """Until more requests and changes than these have been."""
    from tests.up.processes import eventually

    requests, changes = since
    eventually(lambda: sum(load.statuses.values()) > requests and load.changes > changes, 60)
