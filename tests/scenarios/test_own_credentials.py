"""A tenant's own key at a vendor, through the public door: the vendor tells which key called."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest

from tests.fakes.openai import FakeOpenAI
from tests.scenarios.platform import Platform
from tests.up.processes import eventually

pytestmark = pytest.mark.slow
PLATFORMS, OURS = "sk-of-the-platform", "sk-of-acme-itself-0123"
EFFECTIVE_S = 1.0


@pytest.fixture(scope="module")
def seller() -> Iterator[FakeOpenAI]:
    with FakeOpenAI() as fake:
        fake.switch(key="")  # whoever calls is known; the stories look at who it was
        yield fake


@pytest.fixture(scope="module")
def model_id(platform: Platform, seller: FakeOpenAI) -> str:
    platform.add_provider("seller", seller.base_url, PLATFORMS)
    return platform.add_model("seller", "text-embedding-3-small")


@pytest.fixture
def tenant(platform: Platform, seller: FakeOpenAI, model_id: str) -> Iterator[str]:
    """A key of a new tenant."""
    seller.calls.clear()
    _, key = platform.add_tenant(f"own-{time.monotonic_ns()}")
    platform.configure(key, model_id)
    yield key
    seller.switch(key="", fault="")


def own(platform: Platform, key: str, **words: Any) -> str:
    body = {"provider": "seller", "secret": {"api_key": OURS}, **words}
    found: str = platform.operate("POST", "/provider-credentials", body, key)["id"]
    return found


def callers(seller: FakeOpenAI) -> list[str]:
    """The keys that called since the last look, in order."""
    found = [call.headers["authorization"].removeprefix("Bearer ") for call in seller.calls]
    seller.calls.clear()
    return found


def embed(platform: Platform, key: str, text: str = "") -> Any:
    return platform.embed(key, model="seller/text-embedding-3-small", input=text or f"text {time.monotonic_ns()}")


def wait_until_called_with(platform: Platform, seller: FakeOpenAI, key: str, wanted: str) -> float:
    """Seconds until the first request that is called with this key."""
    began = time.monotonic()

    def is_so() -> bool:
        assert embed(platform, key).status == 200
        return callers(seller)[-1] == wanted

    eventually(is_so, 10)
    return time.monotonic() - began


def record(platform: Platform, key: str, answer: Any) -> Any:
    return platform.operate("GET", f"/usage/records/{answer.json['quiver']['request_id']}", key=key)


def test_adding_changing_and_deleting_take_effect_within_a_second(
    platform: Platform, seller: FakeOpenAI, tenant: str
) -> None:
    assert embed(platform, tenant).status == 200
    assert callers(seller) == [PLATFORMS]

    one = own(platform, tenant)
    taken = [wait_until_called_with(platform, seller, tenant, OURS)]
    platform.operate("PATCH", f"/provider-credentials/{one}", {"secret": {"api_key": "sk-another-0123"}}, tenant)
    taken.append(wait_until_called_with(platform, seller, tenant, "sk-another-0123"))
    platform.operate("DELETE", f"/provider-credentials/{one}", key=tenant)
    taken.append(wait_until_called_with(platform, seller, tenant, PLATFORMS))

    assert max(taken) < EFFECTIVE_S
    callers(seller)
    for _ in range(20):
        assert embed(platform, tenant).status == 200
    assert set(callers(seller)) == {PLATFORMS}


def test_it_costs_nothing_here_and_counts_in_limits_of_tokens(
    platform: Platform, seller: FakeOpenAI, tenant: str
) -> None:
    own(platform, tenant)
    wait_until_called_with(platform, seller, tenant, OURS)
    limit = {"scope": "tenant", "measure": "tokens", "period": "day", "amount": "1000"}
    platform.operate("POST", "/limits", limit, tenant)

    answer = embed(platform, tenant, "a text that has some tokens")

    assert Decimal(answer.json["quiver"]["cost_usd"]) == 0
    row = record(platform, tenant, answer)
    assert (row["paid_by"], Decimal(row["cost_usd"]), row["tokens"]) == ("tenant", 0, 6)
    books = "SELECT sum(cost_usd) FROM billing_usagerow WHERE paid_by = 'tenant'"
    assert platform.rows(books) == [(Decimal(0),)]
    eventually(lambda: platform.operate("GET", "/tenant-models/quotas", key=tenant)["tenant"][0]["used"] > 0, 10)


def test_only_never_falls_back_to_what_costs_money(platform: Platform, seller: FakeOpenAI, tenant: str) -> None:
    own(platform, tenant)
    wait_until_called_with(platform, seller, tenant, OURS)
    seller.switch(key=PLATFORMS)  # the tenant's is revoked there

    answers = [embed(platform, tenant) for _ in range(20)]

    assert {answer.status for answer in answers} <= {502, 503}
    assert OURS not in "".join(answer.body.decode() for answer in answers)
    assert set(callers(seller)) <= {OURS}


def test_first_falls_back_to_the_platforms_at_its_price(platform: Platform, seller: FakeOpenAI, tenant: str) -> None:
    own(platform, tenant, use="first")
    wait_until_called_with(platform, seller, tenant, OURS)
    seller.switch(key=PLATFORMS)

    answers = [embed(platform, tenant) for _ in range(20)]

    assert {answer.status for answer in answers} == {200}
    rows = [record(platform, tenant, answer) for answer in answers]
    assert {row["paid_by"] for row in rows} == {"platform"}
    assert all(Decimal(row["cost_usd"]) > 0 for row in rows)
    assert callers(seller).count(OURS) < 20, "its breaker did not open"


def test_a_tenants_bad_key_is_no_outage_for_others(platform: Platform, seller: FakeOpenAI, tenant: str) -> None:
    own(platform, tenant)
    wait_until_called_with(platform, seller, tenant, OURS)
    _, other = platform.add_tenant(f"other-{time.monotonic_ns()}")
    platform.configure(other, platform.operate("GET", "/tenant-models", key=tenant)["results"][0]["model_id"])
    seller.switch(key=PLATFORMS)
    for _ in range(20):
        embed(platform, tenant)
    callers(seller)

    answers = [embed(platform, other) for _ in range(10)]
    platform.run_task("embeddings.tasks.follow_breakers")

    assert {answer.status for answer in answers} == {200}
    assert callers(seller) == [PLATFORMS] * 10
    listed = platform.operate("GET", "/embedding-models/catalog?provider=seller")["models"]
    assert [each["state"] for each in listed] == ["available"]
    metrics = platform.ask("GET", "/metrics").body.decode()
    states = [line for line in metrics.splitlines() if line.startswith("circuit_breaker_state{") and "seller" in line]
    assert {line.split()[-1] for line in states} == {"0.0"}


def test_another_tenants_calls_never_use_it_and_share_none_with_it(
    platform: Platform, seller: FakeOpenAI, tenant: str
) -> None:
    own(platform, tenant)
    _, mallory = platform.add_tenant(f"mallory-{time.monotonic_ns()}")
    platform.configure(mallory, platform.operate("GET", "/tenant-models", key=tenant)["results"][0]["model_id"])
    wait_until_called_with(platform, seller, tenant, OURS)
    seller.switch(latency_s=0.05)  # so that texts gather

    with ThreadPoolExecutor(24) as crowd:
        asked = [
            crowd.submit(embed, platform, key, f"{name} {number} {time.monotonic_ns()}")
            for number in range(60)
            for name, key in (("acme", tenant), ("mallory", mallory))
        ]
        assert {each.result().status for each in asked} == {200}
    seller.switch(latency_s=0.0)

    sent: dict[str, set[str]] = {}
    for call in seller.calls:
        texts = call.body["input"]
        for text in [texts] if isinstance(texts, str) else texts:
            sent.setdefault(call.headers["authorization"], set()).add(text.split()[0])
    assert sent == {f"Bearer {OURS}": {"acme"}, f"Bearer {PLATFORMS}": {"mallory"}}


def test_selection_says_whose_credential_it_is(platform: Platform, seller: FakeOpenAI, tenant: str) -> None:
    own(platform, tenant)

    chosen = platform.operate("POST", "/embedding-models/select", {}, tenant)
    wait_until_called_with(platform, seller, tenant, OURS)
    estimate = platform.ask("POST", "/v1/embeddings/estimate", {"input": "new"}, tenant).json

    for told in (chosen, estimate):
        assert "with the tenant's own credential" in told["candidates"][0]["reasons"]
        assert "nothing else may serve" in told["dropped"][0]["reason"]
    assert Decimal(estimate["cost_usd"]) == 0
