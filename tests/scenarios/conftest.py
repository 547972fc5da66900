"""One platform for all stories that only talk to it; those that break it have their own. It ends with them: idle it
still takes its share of a processor from other tests."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime

import pytest

from tests.fakes.openai import FakeOpenAI
from tests.fakes.server import KEY
from tests.scenarios.platform import Platform
from tests.up.processes import CHECKOUT, eventually

# A hold is dropped 11.5 s after its worker died, and a pool that is gone is counted after twice that. Shorter ones are
# of no use where 256 callers share two slow cores with other tests: a lease must be longer than any request lives.
SHORT_LEASES = {
    "QUIVER_DEADLINE_MS": "10000",
    "QUIVER_LEDGER_WAIT_MS": "1000",
    "QUIVER_HOLD_LEASE_SECONDS": "11.5",
    "QUIVER_RECONCILE_SECONDS": "0.5",
}


@pytest.fixture(autouse=True)
def no_midnight():
    """A story that began just before midnight would be told of two days."""
    eventually(lambda: f"{datetime.now(UTC):%H:%M}" not in ("23:57", "23:58", "23:59"), 190)


@pytest.fixture(scope="package")
def vendor():
    with FakeOpenAI() as fake:
        yield fake


@pytest.fixture(scope="package")
def platform(tmp_path_factory, vendor):
    # We are a load balancer as far as we say so: stories about who comes from where send `X-Forwarded-For`.
    with Platform(
        tmp_path_factory.mktemp("platform") / "home", settings={"QUIVER_TRUSTED_PROXIES": "127.0.0.1"}
    ) as running:
        running.add_provider("fake", vendor.base_url, vendor.key)
        running.model_id = running.add_model("fake")
        yield running
        running.look_into_redis()


@pytest.fixture(scope="package")
def acme_key(platform):
    """A tenant's key; its default is the fake's small model."""
    _, key = platform.add_tenant("acme-of-all-stories")  # "acme" is whom the examples of the API's schema set up
    platform.configure(key, platform.model_id)
    return key


@pytest.fixture(scope="package")
def crowded(tmp_path_factory):
    """Three web workers and Celery's, leases that are short, and a vendor in a process of its own."""
    command = [sys.executable, "-m", "tests.fakes.openai"]
    with subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE) as vendor:
        try:
            with Platform(tmp_path_factory.mktemp("crowded") / "home", 3, SHORT_LEASES) as running:
                running.add_provider("fake", vendor.stdout.readline().decode().strip(), KEY)
                running.model_id = running.add_model("fake")
                running.start_worker()
                yield running
                running.look_into_redis()
        finally:
            vendor.terminate()
