"""Every vendor behind the one door, set up over REST alone: the same vectors as from its own SDK, the right bill, its
caps kept, and a refused text named."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from tests.scenarios.platform import Platform
from tests.scenarios.vendors import Vendor, all_vendors, set_up

TEXT = "Ein Fährmann setzt über, while the old lighthouse stands."
TEXTS = [f"text {number}" for number in range(500)]
NAMES = ("openai", "azure", "titan", "cohere", "gemini", "vertex")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shop(platform: Platform) -> Iterator[tuple[str, dict[str, Vendor]]]:
    """A tenant's key that may use a model of every vendor and the local one, and the vendors."""
    with all_vendors() as vendors:
        ids = set_up(platform.operate, vendors)
        local = platform.operate("GET", "/embedding-models/catalog?provider=local&limit=100")["models"]
        _, key = platform.add_tenant("everybodys")
        for model_id in [*ids.values(), *(each["id"] for each in local)]:
            platform.configure(key, model_id)
        yield key, vendors


@pytest.fixture(params=NAMES)
def served(request: pytest.FixtureRequest, shop: tuple[str, dict[str, Vendor]]) -> Vendor:
    return forgetful(shop[1][request.param])


def forgetful(found: Vendor) -> Vendor:
    """Forgets earlier calls and switches, not the access tokens that it gave out."""
    found.fake.calls.clear()
    found.fake.switch(poison="")
    return found


def embed(platform: Platform, shop: tuple[str, dict[str, Vendor]], served: Vendor, given: Any) -> Any:
    uncached = {"Cache_Control": "no-cache, no-store"}  # every story is about the vendor itself
    return platform.embed(shop[0], model=f"{served.provider}/{served.model}", input=given, **uncached)


def test_the_same_vector_as_from_the_vendors_own_sdk(platform: Platform, shop: Any, served: Vendor) -> None:
    answer = embed(platform, shop, served, TEXT)

    ours = np.float32(answer.json["data"][0]["embedding"])
    np.testing.assert_allclose(ours, np.float32(served.by_sdk(TEXT)), rtol=1e-6)
    np.testing.assert_allclose(ours, served.expected(TEXT), rtol=1e-5, atol=1e-7)


def test_the_row_says_who_answered_and_what_it_cost(platform: Platform, shop: Any, served: Vendor) -> None:
    answer = embed(platform, shop, served, TEXT)

    told = answer.json["quiver"]
    row = platform.operate("GET", f"/usage/records/{told['request_id']}", key=shop[0])
    assert (row["model"], row["provider"], row["status"]) == (served.model, served.provider, "ok")
    assert (row["tokens"], answer.json["usage"]["total_tokens"]) == (served.tokens([TEXT]),) * 2
    assert Decimal(row["cost_usd"]) == Decimal(told["cost_usd"]) == served.cost([TEXT])
    [call] = row["provider_calls"]
    assert (call["outcome"], call["items"]) == ("ok", 1)
    [(estimated,)] = platform.rows(f"SELECT estimated FROM billing_usagerow WHERE id = '{told['request_id']}'")
    assert estimated is served.estimated


def test_500_texts_go_by_the_vendors_caps_and_come_back_in_order(platform: Platform, shop: Any, served: Vendor) -> None:
    answer = embed(platform, shop, served, TEXTS)

    assert sorted(call.items for call in served.fake.calls) == sorted(served.sizes)
    assert [each["index"] for each in answer.json["data"]] == list(range(500))
    vectors = np.float32([each["embedding"] for each in answer.json["data"]])
    np.testing.assert_allclose(vectors, [served.expected(text) for text in TEXTS], rtol=1e-4, atol=1e-6)
    assert answer.json["usage"]["total_tokens"] == served.tokens(TEXTS)


def test_a_refused_text_is_the_callers_and_charged_to_nobody(platform: Platform, shop: Any, served: Vendor) -> None:
    served.fake.switch(poison="text 499")

    whole, alone = (embed(platform, shop, served, given) for given in (TEXTS, "text 499"))
    beside = embed(platform, shop, served, TEXTS[:499])

    assert [each.error for each in (whole, alone)] == [(400, "invalid_request", "input")] * 2
    assert alone.json["error"]["index"] == 0
    assert "text 499" not in whole.body.decode()
    assert beside.status == 200
    query = f"SELECT sum(cost_usd) FROM billing_usagerow WHERE id = '{whole.headers['x-request-id']}'"
    assert platform.rows(query) == [(Decimal(0),)]


def test_a_vendor_that_takes_texts_one_by_one_names_the_refused_one(platform: Platform, shop: Any) -> None:
    titan = forgetful(shop[1]["titan"])
    titan.fake.switch(poison="text 499")

    refused = embed(platform, shop, titan, TEXTS)

    assert (refused.status, refused.json["error"]["index"]) == (400, 499)


def test_the_local_model_answers_at_no_cost(platform: Platform, shop: Any) -> None:
    [local, *_] = platform.operate("GET", "/embedding-models/catalog?provider=local&limit=100")["models"]

    answer = platform.embed(shop[0], model=f"local/{local['model_name']}", input=[TEXT, "another"])

    vectors = np.float32([each["embedding"] for each in answer.json["data"]])
    assert vectors.shape == (2, local["dimensions"])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-4)
    row = platform.operate("GET", f"/usage/records/{answer.json['quiver']['request_id']}", key=shop[0])
    assert (row["provider"], row["model"], Decimal(row["cost_usd"])) == ("local", local["model_name"], 0)
    assert row["tokens"] == answer.json["usage"]["total_tokens"] > 0
