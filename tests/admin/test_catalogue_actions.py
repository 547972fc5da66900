"""The catalogue in the admin: legal moves, prices that stay, a released model's identity."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

from tests.admin.pages import fill, page, read
from tests.conftest import Party


def test_a_model_in_use_is_not_deleted(chief: Any, furnished: Party) -> None:
    from catalog.models import EmbeddingModel

    row = EmbeddingModel.objects.get(name="small")
    asked = read(chief, page("catalog_embeddingmodel_delete", row.id))
    assert "Are you sure" in asked.text
    answer = chief.post(page("catalog_embeddingmodel_delete", row.id), {"post": "yes"}, follow=True)
    assert "Tenants have this model configured" in answer.content.decode()
    assert EmbeddingModel.objects.get(name="small").state == "available"


def test_only_legal_moves_are_offered(chief: Any, furnished: Party) -> None:
    from catalog.models import EmbeddingModel

    row = EmbeddingModel.objects.get(name="small")
    url = page("catalog_embeddingmodel_move", row.id)
    offered = set(re.findall(r'<option value="(\w+)"', read(chief, url).text))
    assert {"unavailable", "deprecated"} <= offered
    assert not offered & {"draft", "testing", "removed"}
    refused = chief.post(url, {"to": "draft", "reason": "back"}).content.decode()
    assert "from there it goes to unavailable or deprecated" in refused
    assert "This field is required" in chief.post(url, {"to": "unavailable"}).content.decode()
    moment = {
        "sunset_at_0": "2030-01-01",
        "sunset_at_1": "12:00",
        "successor": str(EmbeddingModel.objects.get(name="large").id),
    }
    assert chief.post(url, {"to": "deprecated", "reason": "old", **moment}).status_code == 302
    row.refresh_from_db()
    assert (row.state, row.state_reason, row.sunset_at.year, row.successor.name) == ("deprecated", "old", 2030, "large")


def test_a_model_is_removed_before_its_end_only_when_that_is_meant(chief: Any, furnished: Party) -> None:
    from catalog.models import EmbeddingModel
    from catalog.services import move_model
    from core.clock import utc_now

    row = EmbeddingModel.objects.get(name="small")
    url = page("catalog_embeddingmodel_move", row.id)
    assert 'name="force"' not in read(chief, url).text  # nothing to be removed yet
    move_model(model_id=row.id, to="deprecated", sunset_at=utc_now() + timedelta(days=9))
    refused = chief.post(url, {"to": "removed", "reason": "now"}).content.decode()
    assert "Tenants were told that the model answers until" in refused
    assert 'name="force"' in refused
    assert chief.post(url, {"to": "removed", "reason": "now", "force": "on"}).status_code == 302
    row.refresh_from_db()
    assert row.state == "removed"


def test_prices_are_added_and_never_changed(chief: Any, furnished: Party) -> None:
    from catalog.models import EmbeddingModel, Price

    row = EmbeddingModel.objects.get(name="small")
    url = page("catalog_embeddingmodel_add_price", row.id)
    dear = {"cost_per_million_tokens": "50", "source": "a contract"}
    assert "is above $10" in chief.post(url, dear).content.decode()
    assert chief.post(url, dear | {"confirm": "on"}).status_code == 302
    assert row.prices.count() == 2
    price = Price.objects.first()
    assert chief.get(page("catalog_price_change", price.pk)).status_code == 200
    assert chief.post(page("catalog_price_change", price.pk), {"source": "x"}).status_code == 403


def test_a_released_models_identity_stays(chief: Any, furnished: Party) -> None:
    from catalog.models import EmbeddingModel

    row = EmbeddingModel.objects.get(name="small")
    changes = {"identifier": "another", "dimensions": "99", "space_name": "another", "max_tokens": "4096"}
    assert fill(chief, page("catalog_embeddingmodel_change", row.id), **changes).status_code == 302
    row.refresh_from_db()
    assert (row.identifier, row.dimensions, row.space.slug, row.max_tokens) == ("small", 8, "vendor/small", 4096)


def test_a_draft_is_added_changed_and_erased(chief: Any, furnished: Party) -> None:
    from catalog.models import EmbeddingModel, Provider

    wishes = {
        "provider": str(Provider.objects.get().pk),
        "name": "fresh",
        "identifier": "fresh",
        "dimensions": "32",
        "allowed_dimensions": "8, 16",
        "capabilities": ["matryoshka"],
        "cost_per_million_tokens": "0.5",
    }
    refused = fill(chief, page("catalog_embeddingmodel_add"), **(wishes | {"capabilities": []}))
    assert "is not the model" in refused.content.decode()
    assert fill(chief, page("catalog_embeddingmodel_add"), **wishes).status_code == 302
    row = EmbeddingModel.objects.get(name="fresh")
    assert (row.state, row.allowed_dimensions, row.space.slug) == ("draft", [8, 16], "vendor/fresh")
    assert fill(chief, page("catalog_embeddingmodel_change", row.id), space_name="shared").status_code == 302
    row.refresh_from_db()
    assert row.space.slug == "shared"
    chief.post(page("catalog_embeddingmodel_delete", row.id), {"post": "yes"})
    assert not EmbeddingModel.objects.filter(name="fresh").exists()
