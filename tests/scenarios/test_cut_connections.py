"""Callers that go and workers that die in the middle of a call: it is settled, charged once, cached, and holds nothing.

One worker, one slot at the vendor, so that what comes while a call is under way gathers into the next one.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import numpy as np
import openai
import pytest

from tests.fakes.openai import FakeOpenAI
from tests.fakes.openai_model import expected_vector
from tests.scenarios.platform import Platform
from tests.up.processes import CHECKOUT, eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]
MODEL = "text-embedding-3-small"
LEASE_S = "6"  # longer than the deadline and the wait for the ledger
RECONCILE = "import django; django.setup(); from billing.tasks import reconcile_limits; print(reconcile_limits())"


@pytest.fixture(scope="module")
def vendor_of_one():
    with FakeOpenAI() as fake:
        yield fake


@pytest.fixture(scope="module")
def platform(tmp_path_factory, vendor_of_one):
    settings = {"QUIVER_DEADLINE_MS": "4000", "QUIVER_LEDGER_WAIT_MS": "1000", "QUIVER_HOLD_LEASE_SECONDS": LEASE_S}
    with Platform(tmp_path_factory.mktemp("cut") / "home", settings=settings) as platform:
        platform.add_provider("fake", vendor_of_one.base_url, vendor_of_one.key, max_concurrency=1, batch_window_ms=100)
        platform.model = platform.add_model("fake")
        yield platform


@pytest.fixture
def vendor(vendor_of_one):
    vendor_of_one.reset()
    yield vendor_of_one
    vendor_of_one.reset()


def tenant(platform: Platform, slug: str) -> tuple[str, str]:
    """Id and key of a tenant with the model, and 1,000 tokens a day."""
    found, key = platform.add_tenant(slug)
    platform.configure(key, platform.model, daily_token_limit=1000)
    return found, key


def rows(platform: Platform, tenant_id: str) -> list[tuple[str, int, int]]:
    """Status, tokens and texts of the cache of a tenant's requests."""
    query = f"SELECT status, tokens, cached FROM billing_usagerow WHERE tenant_id = '{tenant_id}' ORDER BY id"
    return platform.rows(query)


def held(platform: Platform, key: str) -> int:
    found = platform.operate("GET", "/tenant-models/quotas", key=key)
    return sum(each["held"] for model in found["models"] for each in model["limits"])


def send(platform: Platform, key: str, text: str) -> socket.socket:
    """A request whose answer nobody reads yet."""
    body = b'{"input": "%b"}' % text.encode()
    connection = socket.create_connection(("127.0.0.1", platform.port))
    connection.sendall(
        b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        b"authorization: Bearer %b\r\ncontent-length: %d\r\n\r\n%b" % (key.encode(), len(body), body)
    )
    return connection


def test_a_call_whose_callers_went_is_charged_once_and_answers_their_retries(platform, vendor):
    tenant_id, key = tenant(platform, "leavers")
    texts = [f"text {number}" for number in range(4)]
    vendor.switch(latency_s=0.7)
    first = send(platform, key, "the one that takes the slot")
    eventually(lambda: len(vendor.calls) == 1)
    callers = [send(platform, key, text) for text in texts]
    eventually(lambda: len(vendor.calls) == 2)
    for caller in callers[:3]:
        caller.close()
    callers[3].recv(15)  # the one that stayed has its answer
    eventually(lambda: len(rows(platform, tenant_id)) == 5)
    vendor.switch(latency_s=0)
    again = [platform.embed(key, input=text) for text in texts]
    first.close()
    callers[3].close()

    assert [call.items for call in vendor.calls] == [1, 4]
    assert [each.headers["x-embedding-cached"] for each in again] == ["1/1"] * 4
    assert [each.json["usage"]["total_tokens"] for each in again] == [0] * 4
    for text, answer in zip(texts, again, strict=True):
        assert np.allclose(answer.json["data"][0]["embedding"], expected_vector(MODEL, text), atol=1e-6)
    assert Counter((status, cached) for status, _, cached in rows(platform, tenant_id)) == {("ok", 0): 5, ("ok", 1): 4}
    eventually(lambda: held(platform, key) == 0)


@contextmanager
def cutting_proxy(port: int, when):
    """Passes connections on to a port; the first is cut, both ways, as soon as `when` holds."""
    listener = socket.create_server(("127.0.0.1", 0))
    opened: list[socket.socket] = []

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def serve() -> None:
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", port))
                opened.extend((near, far))
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=pump, args=ends, daemon=True).start()
                if len(opened) == 2:
                    eventually(when)
                    for end in tuple(opened):
                        with suppress(OSError):  # the other end's going may have ended it already
                            end.shutdown(socket.SHUT_RDWR)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield listener.getsockname()[1], opened
    finally:
        listener.close()
        for each in opened:
            each.close()


def test_the_openai_clients_own_retry_after_a_cut_connection_costs_nothing_more(platform, vendor):
    tenant_id, key = tenant(platform, "retriers")
    vendor.switch(latency_s=0.2)
    with (
        cutting_proxy(platform.port, lambda: len(vendor.calls) == 1) as (port, opened),
        openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=key, timeout=10) as client,
    ):
        answer = client.embeddings.create(model=MODEL, input="hello world")

    assert len(opened) == 4  # two connections of two ends: the client did it again
    assert np.allclose(answer.data[0].embedding, expected_vector(MODEL, "hello world"), atol=1e-6)
    assert len(vendor.calls) == 1
    assert eventually(lambda: len(found := rows(platform, tenant_id)) == 2 and found) == [("ok", 2, 0), ("ok", 0, 1)]


def test_a_killed_workers_calls_are_unresolved_and_its_holds_are_free_after_their_lease(platform, vendor):
    tenant_id, key = tenant(platform, "widows")
    vendor.switch(fault="hang")
    with ThreadPoolExecutor(1) as hands, suppress(OSError):
        asked = hands.submit(platform.embed, key, input="hello world")
        eventually(lambda: len(vendor.calls) == 1)
        (worker,) = platform.worker_pids
        os.kill(worker, signal.SIGKILL)
        asked.result(30)
    eventually(lambda: platform.is_ready(), 60)
    still_held = held(platform, key)

    def is_free() -> bool:
        """After another run of what beat runs every ten seconds. What a pool held back goes free with the pool."""
        subprocess.run([sys.executable, "-c", RECONCILE], cwd=CHECKOUT, env=platform.environment, check=True)
        return bool(rows(platform, tenant_id)) and held(platform, key) == 0

    eventually(is_free, 60)
    assert still_held == 2
    assert rows(platform, tenant_id) == [("unresolved", 0, 0)]
    vendor.switch(fault="")
    assert platform.embed(key, input="hello world").status == 200
