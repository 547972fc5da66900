"""The data plane's door over real HTTP: who gets in, what is refused, and every header of an answer."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from tenants.keys import mint
from tests.embeddings.agents import Agent
from tests.embeddings.raw import Wire
from tests.fakes.openai_model import expected_vector
from tests.up.processes import eventually

MODEL = "text-embedding-3-small"
MEBIBYTE = 2**20
pytestmark = pytest.mark.slow


# Who gets in


@pytest.mark.parametrize(
    "headers",
    [
        lambda key: {"Authorization": f"Bearer {key}"},
        lambda key: {"Authorization": f"bearer  {key} "},
        lambda key: {"X_API_Key": key},
    ],
    ids=["bearer", "in other letters", "x-api-key"],
)
def test_a_key_comes_in_either_header(platform, acme, headers):
    assert platform.embed("", input="a", **headers(acme[1])).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        lambda key: {},
        lambda key: {"Authorization": "Basic cXVpdmVy", "X_API_Key": key},
        lambda key: {"Authorization": f"Bearer {mistyped(key)}", "X_API_Key": key},
    ],
    ids=["none", "another scheme", "two that differ"],
)
def test_both_planes_refuse_for_the_same_reason(platform, acme, headers):
    sent = headers(acme[1])
    here = platform.ask("POST", "/v1/embeddings", {"input": "a"}, **sent)
    there = platform.ask("GET", "/api/v1/tenant-models", **sent)
    assert (here.status, there.status) == (401, 401)
    assert here.json["error"]["message"] == there.json["detail"]


def mistyped(key: str) -> str:
    """With two neighbours in its secret exchanged for others."""
    middle = len(key) // 2
    return key[:middle] + ("ab" if key[middle : middle + 2] != "ab" else "ba") + key[middle + 2 :]


@pytest.mark.parametrize(
    "wrong",
    [lambda key: "", mistyped, lambda key: key[:-1], lambda key: "sk-none", lambda key: mint().text, lambda key: "é"],
    ids=["missing", "mistyped", "cut off", "somebody else's", "unknown", "not ASCII"],
)
def test_without_a_right_key_nothing_is_told(platform, acme, wrong):
    for answer in (
        platform.ask("POST", "/v1/embeddings", {"input": "a"}, X_API_Key=wrong(acme[1]).encode().decode("latin-1")),
        platform.ask("GET", "/v1/models", X_API_Key=wrong(acme[1]).encode().decode("latin-1")),
    ):
        assert answer.error == (401, "invalid_api_key", None)
        assert answer.json["error"]["type"] == "authentication_error"
        assert answer.json["error"]["request_id"] == answer.headers["x-request-id"]


def test_a_revoked_key_ends_within_a_second_or_so(platform, acme):
    key = platform.mint(acme[0], "embeddings")
    assert platform.embed(key["key"], input="a").status == 200
    platform.operate("DELETE", f"/api-keys/{key['id']}")
    eventually(lambda: platform.embed(key["key"], input="a").status == 401, 5)
    assert platform.embed(key["key"], input="a").error == (401, "invalid_api_key", None)


def test_an_expired_key(platform, acme):
    soon = (datetime.now(UTC) + timedelta(seconds=1.5)).isoformat()
    key = platform.mint(acme[0], "embeddings", expires_at=soon)["key"]
    assert platform.embed(key, input="a").status == 200
    eventually(lambda: platform.embed(key, input="a").status == 401, 5)
    assert platform.embed(key, input="a").error == (401, "invalid_api_key", None)


def test_scopes(platform, acme):
    reader = platform.mint(acme[0], "models:read")["key"]
    embedder = platform.mint(acme[0], "embeddings")["key"]
    biller = platform.mint(acme[0], "usage:read")["key"]
    assert platform.embed(reader, input="a").error == (403, "key_not_permitted", None)
    assert platform.ask("GET", "/v1/models", key=reader).status == 200
    assert platform.ask("GET", "/v1/models", key=embedder).status == 200
    assert platform.ask("GET", "/v1/models", key=biller).error == (403, "key_not_permitted", None)


def test_networks(platform, acme):
    elsewhere = platform.mint(acme[0], "embeddings", networks=["10.0.0.0/8", "2001:db8::/32"])["key"]
    here = platform.mint(acme[0], "embeddings", networks=["127.0.0.0/8"])["key"]
    assert platform.embed(elsewhere, input="a").error == (403, "key_not_permitted", None)
    assert platform.embed(here, input="a").status == 200


async def test_networks_are_those_of_clients_behind_a_load_balancer(platform, acme):
    key = platform.mint(acme[0], "embeddings", "models:read", networks=["198.51.100.0/24"])["key"]
    inside, outside = "198.51.100.9", "203.0.113.9"
    for forwarded, status in ((inside, 200), (outside, 403), (f"{inside}, {outside}", 403)):
        assert platform.embed(key, input="a", X_Forwarded_For=forwarded).status == status
        assert (
            platform.ask("GET", "/api/v1/embedding-models/catalog", key=key, X_Forwarded_For=forwarded).status == status
        )
    sent = {"Authorization": f"Bearer {key}"}
    async with Agent(platform.port, additional_headers=sent | {"X-Forwarded-For": inside}) as agent:
        assert (await agent.call("embedding.generate", input="a"))["model"] == MODEL
    async with Agent(platform.port, additional_headers=sent | {"X-Forwarded-For": outside}) as agent:
        assert await agent.close_code() == 4401


def test_a_suspended_tenant_is_refused_until_it_is_not(platform):
    tenant, key = platform.add_tenant("suspended")
    platform.configure(key, platform.model_id)
    assert platform.embed(key, input="a").status == 200
    platform.operate("PATCH", f"/tenants/{tenant}", {"is_suspended": True})
    eventually(lambda: platform.embed(key, input="a").status == 403, 5)
    assert platform.embed(key, input="a").error == (403, "tenant_suspended", None)
    platform.operate("PATCH", f"/tenants/{tenant}", {"is_suspended": False})
    eventually(lambda: platform.embed(key, input="a").status == 200, 5)


def test_the_platforms_key_embeds_for_nobody(platform):
    assert platform.embed(platform.operator_key, input="a").error == (403, "key_not_permitted", None)


def test_agents(platform, acme):
    bound = platform.mint(acme[0], "embeddings", agent_id="helper")["key"]
    assert platform.embed(bound, input="a", X_Agent_Id="helper").status == 200
    assert platform.embed(bound, input="a", X_Agent_Id="other").error == (403, "key_not_permitted", "X-Agent-Id")
    assert platform.embed(acme[1], input="a", X_Agent_Id="other").error == (404, "not_found", "X-Agent-Id")


def test_mallory_sees_nothing_of_acmes(platform, acme, mallory):
    assert platform.ask("GET", "/v1/models", key=mallory).json["data"] == []
    assert platform.ask("GET", f"/v1/models/{MODEL}", key=mallory).error == (404, "not_found", "model")
    answer = platform.embed(mallory, input="a", model=MODEL)
    assert answer.error == (404, "model_not_configured", "model")
    assert answer.json["error"]["suggested_models"] == []
    assert platform.embed(mallory, input="a").error == (503, "no_model_available", None)


# What is refused


def test_bad_bodies_are_refused_with_field_and_reason(platform, acme):
    bodies = {
        b"{": (400, "invalid_request", None),
        b'{"input": null}': (400, "invalid_request", "input"),
        b'{"input": ""}': (400, "invalid_request", "input"),
        b'{"input": [[["a"]]]}': (400, "invalid_request", "input"),
        b'{"input": "a", "dimensions": NaN}': (400, "invalid_request", "dimensions"),
        b'{"input": "a", "dimensions": 1537}': (400, "dimensions_not_supported", "dimensions"),
        b'{"input": "a", "colour": 1}': (400, "unknown_field", "colour"),
        b'{"input": "a", "fallback": "never"}': (400, "invalid_request", "fallback"),
        b'{"input": "a", "model": "gpt"}': (404, "model_not_configured", "model"),
        b'{"input": "not cached", "max_cost_usd": 0}': (402, "quota_exceeded", "max_cost_usd"),
        json.dumps({"input": ["a"] * 2049}).encode(): (400, "invalid_request", "input"),
        json.dumps({"input": "word " * 8193}).encode(): (400, "context_length_exceeded", "input"),
        json.dumps({"input": [[7] * 8000] * 38}).encode(): (400, "invalid_request", "input"),
        rb'{"input": "a", "task_type": "\u0000"}': (400, "invalid_request", "task_type"),
    }
    assert {body: platform.embed(acme[1], body).error for body in bodies} == bodies


def test_a_refused_cost_tells_clients_not_to_try_again(platform, acme):
    answer = platform.embed(acme[1], input="not cached", max_cost_usd=0)
    assert (answer.headers["x-should-retry"], answer.json["error"]["quota_type"]) == ("false", "request")


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ({"Content_Type": "text/plain"}, (415, "unsupported_media_type", "Content-Type")),
        ({"Content_Type": "application/x-www-form-urlencoded"}, (415, "unsupported_media_type", "Content-Type")),
        ({"Content_Encoding": "gzip"}, (415, "unsupported_media_type", "Content-Encoding")),
        ({"Idempotency_Key": "k" * 256}, (400, "invalid_request", "Idempotency-Key")),
        ({"Idempotency_Key": ""}, (400, "invalid_request", "Idempotency-Key")),
        ({"X_Request_Timeout_Ms": "soon"}, (400, "invalid_request", "X-Request-Timeout-Ms")),
        ({"X_Request_Timeout_Ms": "0"}, (400, "invalid_request", "X-Request-Timeout-Ms")),
        ({"X_Request_Timeout_Ms": "-5"}, (400, "invalid_request", "X-Request-Timeout-Ms")),
        ({"X_Require_Embedding_Space": "@"}, (400, "invalid_request", "X-Require-Embedding-Space")),
        ({"X_Require_Embedding_Space": "elsewhere"}, (422, "space_mismatch", "X-Require-Embedding-Space")),
    ],
)
def test_bad_headers_are_refused_by_name(platform, acme, headers, error):
    assert platform.embed(acme[1], {"input": "a"}, **headers).error == error


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "APPLICATION/JSON"])
def test_json_by_other_spellings(platform, acme, content_type):
    assert platform.embed(acme[1], {"input": "a"}, Content_Type=content_type).status == 200


@pytest.mark.parametrize(
    ("method", "path", "error"),
    [
        ("GET", "/v1/embeddings", (405, "method_not_allowed", None)),
        ("DELETE", "/v1/embeddings", (405, "method_not_allowed", None)),
        ("POST", "/v1/models", (405, "method_not_allowed", None)),
        ("POST", "/v1/chat/completions", (404, "not_found", None)),
        ("GET", "/v1/", (404, "not_found", None)),
        ("GET", "/v1/embeddings/estimate", (405, "method_not_allowed", None)),
        ("GET", "/api/v1/embeddings/estimate", (405, "method_not_allowed", None)),
    ],
)
def test_paths_and_methods(platform, acme, method, path, error):
    assert platform.ask(method, path, {"input": "a"}, acme[1]).error == error


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "chunked"])
def test_a_hundred_megabytes_are_refused_while_they_are_read(platform, acme, declared):
    platform.embed(acme[1], input="warm")
    before = platform.memory_mb()
    with Wire(platform.port) as wire:
        wire.head(acme[1], f"content-length: {100 * MEBIBYTE}" if declared else "transfer-encoding: chunked")
        wire.pour(100 * MEBIBYTE, chunked=not declared)
        status, after = wire.status(), platform.memory_mb()
    assert status == 413
    assert after - before < (16 if declared else 80)  # the most that is held: 1 MiB of a body declared, else 32
    assert platform.embed(acme[1], input="a").status == 200


def test_a_body_that_does_not_come_is_not_waited_for(platform, acme):
    with Wire(platform.port) as wire:
        wire.head(acme[1], "content-length: 100", "x-request-timeout-ms: 150")
        wire.send(b'{"input": ')
        assert wire.status() == 400


def test_a_body_cut_off_is_never_taken_for_a_whole_one(platform, acme, vendor):
    def refused() -> int:
        return platform.log.read_text().count("invalid_request")

    before = refused()
    with Wire(platform.port) as wire:
        wire.head(acme[1], "content-length: 1000")
        wire.send(b'{"input": "cut off here"}')
    eventually(lambda: refused() > before)
    assert ["cut off here"] not in [call.body["input"] for call in vendor.calls]


# What is answered


def test_an_answer_carries_all_that_is_promised(platform, acme):
    answer = platform.embed(acme[1], input=["hello universe", "b"], model=MODEL, user="u", task_type="t")
    quiver = answer.json["quiver"]
    attempt = quiver["attempts"][0]
    assert (answer.status, answer.json["object"], answer.json["model"]) == (200, "list", MODEL)
    assert answer.json["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    assert quiver == {
        "provider": "fake",
        "model": MODEL,
        "space": f"fake/{MODEL}",
        "dimensions": 1536,
        "cost_usd": "0.000000060",
        "cached": 0,
        "attempts": [{"model": MODEL, "provider": "fake", "outcome": "ok", "ms": attempt["ms"]}],
        "request_id": answer.headers["x-request-id"],
    }
    promised = {
        "content-type": "application/json",
        "content-length": str(len(answer.body)),
        "cache-control": "private, no-store",
        "x-request-id": quiver["request_id"],
        "x-embedding-model": MODEL,
        "x-embedding-provider": "fake",
        "x-embedding-space": f"fake/{MODEL}",
        "x-embedding-dimensions": "1536",
        "x-embedding-cost-usd": "0.000000060",
        "x-embedding-cached": "0/2",
        "x-embedding-attempts": "1",
    }
    assert {name: answer.headers[name] for name in promised} == promised


@pytest.mark.parametrize("dimensions", [1536, 256])
def test_floats_and_base64_are_the_same_floats_to_the_bit(platform, acme, dimensions):
    texts = [f"hello {dimensions}", f"ﷺ {dimensions}", f"x {dimensions}"]  # not cut from what the cache has
    words = {"input": texts, "model": MODEL, "dimensions": dimensions}
    floats = platform.embed(acme[1], **words, encoding_format="float").json["data"]
    coded = platform.embed(acme[1], **words, encoding_format="base64").json["data"]
    for text, plain, packed in zip(texts, floats, coded, strict=True):
        expected = expected_vector(MODEL, text, dimensions)
        assert base64.b64decode(packed["embedding"]) == expected.astype("<f4").tobytes()
        assert np.array(plain["embedding"], np.float32).tobytes() == expected.tobytes()


def test_the_same_handler_serves_the_api_path(platform, acme):
    assert platform.ask("POST", "/api/v1/embeddings", {"input": "a"}, acme[1]).json["model"] == MODEL


def test_a_required_space_that_is_met(platform, acme):
    answer = platform.embed(acme[1], {"input": "a"}, X_Require_Embedding_Space=f"fake/{MODEL}@1536")
    assert answer.status == 200


def test_a_request_may_shorten_its_deadline(platform, frail, vendor):
    vendor.switch(fault="hang", times=1)
    answer = platform.embed(frail[1], {"input": "in a hurry"}, X_Request_Timeout_Ms="200")
    vendor.reset()
    assert answer.error == (504, "provider_timeout", None)
    assert "x-should-retry" not in answer.headers  # one candidate, one try: trying again may help


def test_a_providers_401_is_not_ours(platform, frail, vendor):
    vendor.switch(key="changed")
    answer = platform.embed(frail[1], input="for another key")
    vendor.reset()
    assert answer.error == (502, "provider_error", None)
    row = platform.rows(f"SELECT status, cost_usd FROM billing_usagerow WHERE id = '{answer.headers['x-request-id']}'")
    assert [(status, int(cost)) for status, cost in row] == [("provider_error", 0)]


def test_models_are_listed_and_found_by_every_name(platform, acme):
    listed = platform.ask("GET", "/v1/models", key=acme[1]).json
    assert (listed["object"], [each["id"] for each in listed["data"]]) == ("list", [MODEL, "BAAI/bge-m3"])
    detail = listed["data"][0]["quiver"]
    assert (detail["dimensions"], detail["space"], detail["state"]) == (1536, f"fake/{MODEL}", "available")
    assert detail["cost_per_million_tokens"] == "0.020000000"
    for name in ("BAAI/bge-m3", "fake/BAAI/bge-m3", "BAAI%2Fbge-m3"):
        assert platform.ask("GET", f"/v1/models/{name}", key=acme[1]).json["id"] == "BAAI/bge-m3"
        assert platform.embed(acme[1], input="a", model=name.replace("%2F", "/")).json["model"] == "BAAI/bge-m3"
    assert platform.ask("GET", "/v1/models/none", key=acme[1]).error == (404, "not_found", "model")


def test_a_key_sees_and_uses_its_own_models_only(platform, acme):
    key = platform.mint(acme[0], "embeddings", models=["BAAI/bge-m3"])["key"]
    assert [each["id"] for each in platform.ask("GET", "/v1/models", key=key).json["data"]] == ["BAAI/bge-m3"]
    assert platform.embed(key, input="a", model=MODEL).error == (403, "key_not_permitted", "model")
    assert platform.embed(key, input="a").json["model"] == "BAAI/bge-m3"


def test_a_deprecated_model_says_so(platform):
    _, key = platform.add_tenant("late")
    model_id = platform.add_model("fake", "old")
    platform.configure(key, model_id)
    move = {"to": "deprecated", "reason": "r", "sunset_at": "2099-01-02T03:04:05Z", "successor": platform.model_id}
    platform.operate("POST", f"/embedding-models/catalog/{model_id}/transition", move)
    eventually(lambda: "sunset" in platform.embed(key, input="a").headers, 5)
    answer = platform.embed(key, input="a")
    assert answer.headers["sunset"] == "Fri, 02 Jan 2099 03:04:05 GMT"
    assert answer.headers["link"] == f'</v1/models/{MODEL}>; rel="successor-version"'
    assert answer.json["quiver"]["deprecation"]["successor"] == MODEL
