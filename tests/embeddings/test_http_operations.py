"""What operators see of the data plane: health, metrics, the log; and how a process stops."""

from __future__ import annotations

import json
import signal
import threading
import uuid

import pytest

from tests.fakes.openai import FakeOpenAI
from tests.scenarios.platform import Platform
from tests.up.processes import eventually

pytestmark = pytest.mark.slow


def test_health_and_readiness(platform):
    assert platform.ask("GET", "/livez").json == {"status": "ok"}
    ready = platform.ask("GET", "/readyz")
    assert ready.json == {
        "status": "ok",
        "dependencies": {"postgresql": "ok", "configuration": "ok", "redis": "ok"},
        "second_wall": "up",
    }


def test_without_redis_everything_is_served_and_told(platform, acme):
    platform.valkey.stop()
    eventually(lambda: platform.ask("GET", "/readyz").json["dependencies"]["redis"] != "ok")
    assert platform.ask("GET", "/readyz").status == 200
    key = platform.mint(acme[0], "embeddings")
    assert platform.embed(key["key"], input="a").status == 200
    platform.operate("DELETE", f"/api-keys/{key['id']}")
    eventually(lambda: platform.embed(key["key"], input="a").status == 401, 5)  # found by comparing versions
    platform.valkey.start()
    platform.valkey.wait_until_ready()
    eventually(lambda: platform.ask("GET", "/readyz").json["dependencies"]["redis"] == "ok")


def metric(platform, start: str) -> float:
    """Sum of all samples that begin so."""
    lines = platform.ask("GET", "/metrics").body.decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(start))


def test_metrics_count_requests_tokens_and_money(platform):
    _, key = platform.add_tenant("counted")
    platform.configure(key, platform.model_id)
    for text in ("hello world", "goodbye world"):
        assert platform.embed(key, input=text).status == 200
    labels = 'model="text-embedding-3-small",provider="fake"'
    expected = {
        f'embedding_requests_total{{{labels},status="ok",tenant="counted"}}': 2,
        f'embedding_tokens_total{{{labels},tenant="counted"}}': 5,
        f'embedding_cost_usd_total{{{labels},tenant="counted"}}': pytest.approx(0.0000001),
    }
    eventually(lambda: {start: metric(platform, start) for start in expected} == expected)
    histograms = ("embedding_request_duration_seconds", "embedding_provider_duration_seconds", "embedding_batch_items")
    assert all(metric(platform, f"{name}_count") >= 2 for name in (*histograms, "ledger_commit_seconds"))
    assert metric(platform, "ledger_rows_total") >= 2


def test_neither_texts_nor_keys_get_into_log_or_metrics(platform, acme, frail, vendor):
    """Whatever becomes of a request: answered, refused by us, refused by the vendor, failed."""
    secret = f"geheim{uuid.uuid4().hex}"
    unknown = acme[1][:-8] + "secret99"
    asked = [
        platform.embed(acme[1], input=secret, user=secret, task_type="t"),
        platform.embed(acme[1], {"input": [secret, 3]}),
        platform.embed(acme[1], f'{{"input": "{secret}"'.encode()),
        platform.embed(acme[1], {"input": "a", secret: 1}),
        platform.embed(acme[1], input="a", model=secret),
        platform.embed(unknown, input=secret),
        platform.ask("GET", f"/v1/{secret}", key=acme[1]),
    ]
    vendor.switch(poison=secret)
    asked.append(platform.embed(acme[1], input=f"more {secret}"))
    vendor.switch(poison="", fault="status", status=500, body=json.dumps({"error": {"message": secret}}))
    asked.append(platform.embed(frail[1], input=f"still more {secret}"))
    vendor.reset()
    last = asked[-1].headers["x-request-id"]
    eventually(lambda: last in platform.log.read_text())
    log, metrics = platform.log.read_text(), platform.ask("GET", "/metrics").body.decode()
    assert [answer.status for answer in asked] == [200, 400, 400, 400, 404, 401, 404, 400, 502]
    assert all(answer.headers["x-request-id"] in log for answer in asked)
    for hidden in (secret, acme[1], frail[1], unknown, vendor.key, platform.operator_key):
        assert hidden not in log
        assert hidden not in metrics
    kept = platform.rows(f"SELECT 1 FROM billing_providercall WHERE position('{secret}' in detail || upstream_id) > 0")
    assert kept == []


def test_the_line_of_a_request_tells_what_it_did(platform, acme):
    answer = platform.embed(acme[1], input="goodbye moon", model="text-embedding-3-small")
    request_id = answer.headers["x-request-id"]
    eventually(lambda: request_id in platform.log.read_text())
    line = next(json.loads(each) for each in platform.log.read_text().splitlines() if request_id in each)
    facts = {"event": "embedding_request", "tenant": "acme-of-the-door", "status": "ok", "items": 1, "tokens": 3}
    assert {name: line[name] for name in facts} == facts
    assert line["ms"] >= line["provider_ms"] > 0


@pytest.fixture(scope="module")
def stopping(tmp_path_factory):
    """A platform that gives requests a second when it is told to stop; it is started anew by each story."""
    home = tmp_path_factory.mktemp("stopping") / "home"
    with FakeOpenAI() as vendor, Platform(home, settings={"QUIVER_DRAIN_SECONDS": "1.5"}) as platform:
        platform.add_provider("fake", vendor.base_url, vendor.key)
        _, platform.key = platform.add_tenant("acme")
        platform.configure(platform.key, platform.add_model("fake"))
        platform.vendor = vendor
        yield platform


def stop_under_way(platform, text: str) -> tuple[list, list]:
    """Stops the web while one request is at the vendor; what that one got, and what new ones got meanwhile."""
    before = len(platform.vendor.calls)
    slow: list = []
    thread = threading.Thread(target=lambda: slow.append(platform.embed(platform.key, input=text)))
    thread.start()
    eventually(lambda: len(platform.vendor.calls) > before)
    platform.web.send_signal(signal.SIGTERM)
    late: list = []

    def is_refused() -> bool:
        late.append(platform.ask("GET", "/v1/models", key=platform.key))
        return late[-1].status == 503

    eventually(is_refused, 5)
    thread.join(20)
    platform.web.wait(20)
    platform.vendor.reset()
    return slow, late


def test_stopping_lets_requests_finish_and_refuses_new_ones(stopping):
    stopping.vendor.switch(latency_s=0.8)
    slow, late = stop_under_way(stopping, "slow")
    stopping.start_web()
    assert [answer.status for answer in slow] == [200]
    assert late[-1].error == (503, "draining", None)
    assert late[-1].headers["x-should-retry"] == "true"


def test_what_outlives_the_grace_is_refused_and_not_charged(stopping):
    stopping.vendor.switch(fault="hang")
    slow, _ = stop_under_way(stopping, "for ever")
    stopping.start_web()
    assert [answer.error for answer in slow] == [(503, "draining", None)]
    request_id = slow[0].headers["x-request-id"]
    charged = stopping.rows(f"SELECT 1 FROM billing_usagerow WHERE id = '{request_id}' AND cost_usd > 0")
    assert charged == []
