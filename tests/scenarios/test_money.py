"""A provider added over REST, and what its requests cost: to the nano-dollar, by a table written by hand."""

from __future__ import annotations

from decimal import Decimal

import pytest

# USD per million tokens, tokens of the request, nano-dollars. A cost is rounded up, once per request.
UNCACHED = {"Cache_Control": "no-cache, no-store"}
TABLE = [
    ("0.02", 1, 20),
    ("0.02", 2, 40),
    ("0.02", 8, 160),
    ("0.02", 1_000, 20_000),
    ("0.02", 8_191, 163_820),
    ("0.13", 1, 130),
    ("0.13", 3, 390),
    ("0.13", 777, 101_010),
    ("0.1", 1, 100),
    ("0.1", 12, 1_200),
    ("0.0001", 1, 1),
    ("0.0001", 9, 1),
    ("0.0001", 10, 1),
    ("0.0001", 11, 2),
    ("0.000000001", 1, 1),
    ("0.000000001", 5_000, 1),
    ("0.123456789", 7, 865),
    ("0.123456789", 1_000, 123_457),
    ("9.999999999", 3, 30_000),
    ("0", 5_000, 0),
]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def priced(platform, vendor):
    """A key, and the name of a model for each price."""
    _, key = platform.add_tenant("payer")
    platform.add_provider("money", vendor.base_url, vendor.key)
    names = {price: f"at-{price}" for price, _, _ in TABLE}
    for price, name in names.items():
        platform.configure(key, platform.add_model("money", name, cost_per_million_tokens=price))
    return key, names


@pytest.mark.parametrize(("price", "tokens", "nano"), TABLE)
def test_a_request_costs_what_the_table_says(platform, priced, price, tokens, nano):
    key, names = priced
    answer = platform.embed(key, model=names[price], input=[[7] * tokens], **UNCACHED)
    usd = Decimal(nano) / 10**9
    row = platform.operate("GET", f"/usage/records/{answer.json['quiver']['request_id']}", key=key)
    assert (answer.status, answer.json["usage"]["total_tokens"]) == (200, tokens)
    assert Decimal(answer.json["quiver"]["cost_usd"]) == Decimal(answer.headers["x-embedding-cost-usd"]) == usd
    assert (Decimal(row["cost_usd"]), row["tokens"], row["model"]) == (usd, tokens, names[price])


def test_the_sum_of_the_table_is_the_sum_of_the_ledger(platform, priced):
    key, names = priced
    before = platform.rows("SELECT coalesce(sum(cost_usd), 0) FROM billing_usagerow WHERE provider = 'money'")[0][0]
    for price, tokens, _ in TABLE:
        assert platform.embed(key, model=names[price], input=[[7] * tokens], **UNCACHED).status == 200
    after = platform.rows("SELECT sum(cost_usd) FROM billing_usagerow WHERE provider = 'money'")[0][0]
    assert after - before == Decimal(sum(nano for _, _, nano in TABLE)) / 10**9
