"""Prices corrected in the admin, and the adjustments that come of it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from billing.models import UsageRow
from billing.partitions import make_partitions
from catalog.models import Price
from core.clock import utc_now
from core.ids import uuid7, uuid7_time
from tests.admin.people import person, sign_in
from tests.conftest import Party


@pytest.fixture
def operators_browser(client: Client, db: None) -> Client:
    person("operator@quiver.example", is_operator=True)
    sign_in(client, "operator@quiver.example")
    return client


@pytest.fixture(autouse=True)
def tasks_at_once(db: None) -> Iterator[None]:
    from config.celery import app

    make_partitions(today=utc_now().date() - timedelta(days=31), ahead=2)
    app.conf.task_always_eager = True
    yield
    app.conf.task_always_eager = False


def correct(browser: Client, model: Any, committed: Any, **words: Any) -> Any:
    """Sends the form of a price that counts since two days ago."""
    since = utc_now() - timedelta(days=2)
    form = {
        "cost_per_million_tokens": "0.03",
        "effective_from_0": f"{since:%Y-%m-%d}",
        "effective_from_1": f"{since:%H:%M:%S}",
        "source": "letter",
        **words,
    }
    with committed():
        return browser.post(reverse("admin:catalog_embeddingmodel_add_price", args=[model.id]), form)


def used_yesterday(party: Party, model: Any) -> None:
    row_id = uuid7(int((utc_now() - timedelta(days=1)).timestamp() * 1000))
    UsageRow.objects.create(
        id=row_id,
        created_at=uuid7_time(row_id),
        tenant_id=party.id,
        model_id=model.id,
        tokens=8,
        held_tokens=8,
        cost_usd=Decimal("0.00000016"),
    )


def test_a_past_moment_needs_to_be_meant(operators_browser: Client, add_model: Any, committed: Any) -> None:
    model = add_model("small")
    page = correct(operators_browser, model, committed).content.decode()
    assert "This moment is in the past" in page
    page = correct(operators_browser, model, committed, correction="on").content.decode()
    assert "A correction needs a reason" in page
    assert Price.objects.filter(model=model).count() == 1


def test_a_correction_is_booked_and_shown(
    operators_browser: Client, acme: Party, add_model: Any, committed: Any
) -> None:
    model = add_model("small")
    Price.objects.filter(model=model).update(effective_from=utc_now() - timedelta(days=9))
    Price.objects.filter(model=model).update(created_at=utc_now() - timedelta(days=9))
    used_yesterday(acme, model)
    assert correct(operators_browser, model, committed, correction="on", reason="misread").status_code == 302
    adjustment = UsageRow.objects.get(source="adjustment")
    page = operators_browser.get(reverse("admin:billing_usagerow_change", args=[adjustment.id])).content.decode()
    assert ("misread" in page, "Corrects day" in page) == (True, True)
    usual = UsageRow.objects.exclude(source="adjustment").get()
    page = operators_browser.get(reverse("admin:billing_usagerow_change", args=[usual.id])).content.decode()
    assert "Corrects day" not in page
