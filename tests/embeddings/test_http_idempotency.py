"""`Idempotency-Key` over real HTTP: the same request again is charged once and answered alike."""

from __future__ import annotations

from decimal import Decimal
from uuid import uuid4

import pytest

pytestmark = pytest.mark.slow
SMALL = "text-embedding-3-small"


def asked_of(vendor, text: str) -> int:
    """Calls to the vendor for this text."""
    return sum(call.body["input"] == [text] for call in vendor.calls)


def charges_of(platform, tenant: str) -> list[tuple[str, int]]:
    """Source and nano-dollars of a tenant's rows, oldest first."""
    found = platform.rows(
        f"SELECT source, status, cost_usd FROM billing_usagerow WHERE tenant_id = '{tenant}' ORDER BY id"
    )
    return [(source if status == "ok" else status, int(cost * 10**9)) for source, status, cost in found]


@pytest.fixture
def payer(platform):
    """Id and key of a tenant of this test alone."""
    tenant, key = platform.add_tenant(f"payer-{uuid4().hex[:12]}")
    platform.configure(key, platform.model_id)
    return tenant, key


def test_the_same_request_again_gets_the_same_answer_and_is_not_charged(platform, payer, vendor):
    tenant, key = payer
    body = {"input": "once", "dimensions": 8}
    first = platform.embed(key, body, Idempotency_Key="k" * 255)
    again = platform.ask("POST", "/api/v1/embeddings", body, key, Idempotency_Key="k" * 255)
    assert (first.status, again.status, again.body) == (200, 200, first.body)
    assert ("idempotent-replayed" in first.headers, again.headers["idempotent-replayed"]) == (False, "true")
    assert again.json["quiver"]["request_id"] == first.headers["x-request-id"] != again.headers["x-request-id"]
    alike = ("x-embedding-model", "x-embedding-space", "x-embedding-cost-usd", "x-embedding-dimensions")
    assert [again.headers[name] for name in alike] == [first.headers[name] for name in alike]
    assert asked_of(vendor, "once") == 1
    assert charges_of(platform, tenant) == [("api", 20)]


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        ({"input": "another"}, {}),
        ({"input": "one", "dimensions": 9}, {}),
        ({"input": "one"}, {"X_Require_Embedding_Space": f"fake/{SMALL}"}),
    ],
    ids=["text", "field", "header"],
)
def test_another_request_with_the_key_is_refused(platform, payer, body, headers):
    assert platform.embed(payer[1], {"input": "one"}, Idempotency_Key="k").status == 200
    answer = platform.embed(payer[1], body, Idempotency_Key="k", **headers)
    assert answer.error == (422, "idempotency_mismatch", "Idempotency-Key")


def test_keys_of_one_tenant_share_their_claims_as_far_as_they_may_do_the_same(platform, payer):
    tenant, key = payer
    first = platform.embed(key, {"input": "shared"}, Idempotency_Key="k")
    other = platform.mint(tenant, "embeddings")["key"]
    assert platform.embed(other, {"input": "shared"}, Idempotency_Key="k").body == first.body
    narrow = platform.mint(tenant, "embeddings", models=[SMALL])["key"]
    assert platform.embed(narrow, {"input": "shared"}, Idempotency_Key="k").status == 422


def test_mallory_never_meets_acmes_claims(platform, payer):
    assert platform.embed(payer[1], {"input": "secret"}, Idempotency_Key="k").status == 200
    tenant, key = platform.add_tenant("mallory-of-the-claims")
    platform.configure(key, platform.model_id)
    answer = platform.embed(key, {"input": "secret"}, Idempotency_Key="k")
    assert (answer.status, "idempotent-replayed" in answer.headers) == (200, False)
    assert platform.embed(key, {"input": "her"}, Idempotency_Key="hers").status == 200
    assert charges_of(platform, tenant) == [("api", 20), ("api", 20)]


@pytest.mark.parametrize(
    ("words", "status"),
    [({"input": ""}, 400), ({"input": "a", "max_cost_usd": 0}, 402), ({"input": "a", "model": "none"}, 404)],
)
def test_a_refusal_leaves_the_key_free_for_what_was_meant(platform, payer, words, status):
    assert platform.embed(payer[1], words, Idempotency_Key="k").status == status
    assert platform.embed(payer[1], {"input": "good"}, Idempotency_Key="k").status == 200
    assert charges_of(platform, payer[0]) == [("api", 20)]


def test_a_failure_of_the_provider_is_not_kept(platform, frail, vendor):
    vendor.switch(fault="status", status=500, times=2)  # our own retry fails as well
    failed = platform.embed(frail[1], {"input": "again"}, Idempotency_Key="k")
    vendor.reset()
    answer = platform.embed(frail[1], {"input": "again"}, Idempotency_Key="k")
    assert (failed.status, answer.status, "idempotent-replayed" in answer.headers) == (502, 200, False)
    assert charges_of(platform, frail[0]) == [("provider_error", 0), ("api", 20)]


def test_an_answer_above_a_mebibyte_is_embedded_again_at_the_platforms_cost(platform, payer, vendor):
    tenant, key = payer
    body = {"input": [f"text {number}" for number in range(100)], "encoding_format": "float"}
    first = platform.embed(key, body, Idempotency_Key="large", Cache_Control="no-store")
    again = platform.embed(key, body, Idempotency_Key="large", Cache_Control="no-store")
    assert len(first.body) > 2**20
    assert (again.status, again.json["data"]) == (200, first.json["data"])
    assert (again.headers["idempotent-replayed"], Decimal(again.headers["x-embedding-cost-usd"])) == ("true", 0)
    assert sum(call.items == 100 for call in vendor.calls) == 2
    ((_, charged), free) = charges_of(platform, tenant)
    assert (charged, free) == (first.json["usage"]["total_tokens"] * 20, ("replay", 0))
