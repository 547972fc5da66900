"""The operator's pages about what the catalogue found out by itself."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from django.test import Client

from catalog import discovery_runs, prices
from catalog.models import DiscoveryRun, EmbeddingModel, ModelCheck, Price, PriceProposal, Provider
from catalog.upstreams import add_provider
from tenants.services import add_user
from tests.fakes.openai import FakeOpenAI

pytestmark = pytest.mark.django_db
RUNS = "/admin/catalog/discoveryrun"
PROPOSALS = "/admin/catalog/priceproposal"


@pytest.fixture
def page() -> Client:
    """A browser of the operator."""
    client = Client()
    client.force_login(add_user(email="op@example.com", name="Op", is_operator=True))
    return client


@pytest.fixture
def fake() -> Iterator[FakeOpenAI]:
    with FakeOpenAI() as server:
        yield server


@pytest.fixture
def run(fake: FakeOpenAI, monkeypatch: pytest.MonkeyPatch) -> DiscoveryRun:
    """A look whose changes wait, one of them without a width."""
    monkeypatch.setattr(prices, "sources", list)
    prices._remembered.cache_clear()
    listed = [{"id": "embed-a", "dimensions": 8}, {"id": "embed-b"}, {"id": "embed-c", "dimensions": 8}]
    fake.switch(listed=[each | {"object": "model", "created": 1, "owned_by": "x"} for each in listed])
    add_provider(
        slug="vendor", kind="openai", base_url=fake.base_url, secret={"api_key": fake.key}, discovery="approval"
    )
    [row] = discovery_runs.begin_runs(slug="vendor", actor="op")
    discovery_runs.run(row.id)
    return DiscoveryRun.objects.get()


def test_a_look_is_asked_for(page: Client, fake: FakeOpenAI) -> None:
    add_provider(slug="vendor", kind="openai", base_url=fake.base_url, secret={"api_key": fake.key})
    assert "Look now" in page.get(f"{RUNS}/").content.decode()
    assert page.get(f"{RUNS}/look/").status_code == 200
    assert page.post(f"{RUNS}/look/", {"provider": "vendor"}).status_code == 302
    assert DiscoveryRun.objects.get().actor.startswith("op@example.com") or DiscoveryRun.objects.get().actor == "Op"


def test_a_run_shows_its_difference_and_is_taken_in_part(page: Client, run: DiscoveryRun) -> None:
    shown = page.get(f"{RUNS}/{run.pk}/change/").content.decode()
    assert "new: embed-b (width unknown)" in shown
    refused = page.post(f"{RUNS}/{run.pk}/accept/", {"changes": ["new:embed-b"]}).content.decode()
    assert "width of embed-b is not known" in refused
    done = page.post(f"{RUNS}/{run.pk}/accept/", {"changes": ["new:embed-a", "new:embed-b"], "width_0": "16"})
    assert done.status_code == 302
    assert dict(EmbeddingModel.objects.values_list("name", "dimensions")) == {"embed-a": 8, "embed-b": 16}
    assert page.post(f"{RUNS}/{run.pk}/ignore/", {"changes": ["new:embed-c"]}).status_code == 302
    run.refresh_from_db()
    assert (run.state, Provider.objects.get().ignored_models) == ("applied", ["embed-c"])
    assert "Accept" not in page.get(f"{RUNS}/{run.pk}/change/").content.decode()


@pytest.mark.parametrize(("way", "price"), [("approve", "0.04"), ("refuse", "0.02")])
def test_a_proposed_price_is_decided(way: str, price: str, page: Client, add_model: Any) -> None:
    row = add_model()
    proposal = PriceProposal.objects.create(
        model=row, was=Decimal("0.02"), cost_per_million_tokens=Decimal("0.04"), source="table"
    )
    asked = page.get(f"{PROPOSALS}/{proposal.pk}/{way}/").content.decode()
    assert "goes from $0.02 to $0.04" in asked
    assert page.post(f"{PROPOSALS}/{proposal.pk}/{way}/", {"sure": "yes"}).status_code == 302
    assert Price.objects.filter(model=row)[0].cost_per_million_tokens == Decimal(price)


def test_prices_are_uploaded(page: Client, add_model: Any) -> None:
    row = add_model()
    head = "provider,model_identifier,cost_per_million_tokens\n"
    wrong = page.post(f"{PROPOSALS}/upload/", {"content": f"{head}vendor,small,cheap\n"}).content.decode()
    assert "line 2 holds what is no number" in wrong
    assert page.post(f"{PROPOSALS}/upload/", {"content": f"{head}vendor,small,0.021\n"}).status_code == 302
    assert Price.objects.filter(model=row)[0].cost_per_million_tokens == Decimal("0.021")


def test_a_validation_is_asked_for_and_its_finding_shown(page: Client, add_model: Any) -> None:
    row = add_model()
    assert page.post(f"/admin/catalog/embeddingmodel/{row.pk}/validate/", {"sure": "yes"}).status_code == 302
    check = ModelCheck.objects.create(
        model=row,
        kind="validation",
        passed=False,
        failed=[{"probe": "native", "expected": "24 vectors", "got": "none"}],
        probes=24,
        tokens=0,
        actor="Op",
    )
    assert "24 vectors" in page.get(f"/admin/catalog/modelcheck/{check.pk}/change/").content.decode()


@pytest.mark.parametrize("name", ["discoveryrun", "priceproposal", "modelcheck", "modelevent"])
def test_lists_are_the_operators(name: str, page: Client, add_model: Any) -> None:
    add_model()
    assert page.get(f"/admin/catalog/{name}/").status_code == 200
    other = Client()
    other.force_login(add_user(email="someone@example.com", name="Someone"))
    assert other.get(f"/admin/catalog/{name}/").status_code in (302, 403, 404)
