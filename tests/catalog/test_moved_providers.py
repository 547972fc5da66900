"""A provider that moved: its models are measured anew, at once and by a worker, and nobody takes them for the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from catalog.lifecycle import Proof
from catalog.models import EmbeddingModel, ModelCheck
from catalog.rechecking import recheck_spaces
from catalog.services import add_model, find_model, move_model
from catalog.upstreams import add_credential, add_provider, change_provider
from catalog.validating import activate_model
from core.clock import utc_now
from tests.fakes.openai import FakeOpenAI

pytestmark = pytest.mark.django_db(transaction=True)
SMALL = "text-embedding-3-small"


@pytest.fixture
def elsewhere() -> Iterator[FakeOpenAI]:
    with FakeOpenAI() as fake:
        yield fake


def draft(**facts: Any) -> EmbeddingModel:
    known: dict[str, Any] = {"name": SMALL, "identifier": SMALL, "dimensions": 1536, "tokenizer": "cl100k_base"}
    return add_model(provider="vendor", **known | facts)


@pytest.fixture
def alone(vendor: FakeOpenAI) -> EmbeddingModel:
    """A model that was measured, alone in its space."""
    return activate_model(model_id=draft().id)


def test_what_is_the_same_at_the_new_address_stays(alone: EmbeddingModel, elsewhere: FakeOpenAI, worker: None) -> None:
    change_provider(slug="vendor", base_url=elsewhere.base_url)
    row = find_model(alone.id)
    assert row.state == "available"
    assert row.validated_at > alone.validated_at
    assert len(elsewhere.calls) > 0


def test_what_is_something_else_there_is_taken_out_though_nobody_shares_its_space(
    alone: EmbeddingModel, elsewhere: FakeOpenAI, worker: None
) -> None:
    elsewhere.switch(turned_by=5)
    change_provider(slug="vendor", base_url=elsewhere.base_url)
    row = find_model(alone.id)
    assert (row.state, row.unavailable_cause, row.validated_at) == ("unavailable", "drift", None)
    elsewhere.switch(turned_by=0)
    change_provider(slug="vendor", api_version="2")
    assert find_model(alone.id).state == "available"


def test_a_new_address_that_does_not_answer_is_no_drift(
    alone: EmbeddingModel, elsewhere: FakeOpenAI, worker: None
) -> None:
    elsewhere.switch(fault="status", status=500)
    change_provider(slug="vendor", base_url=elsewhere.base_url)
    row = find_model(alone.id)
    assert (row.state, row.validated_at) == ("available", None)
    elsewhere.switch(fault="", turned_by=5)
    assert recheck_spaces(now=utc_now()) == 1  # not measured since: by the next night at the latest
    assert find_model(alone.id).state == "unavailable"


def test_a_draft_is_validated_anew_before_it_is_released(vendor: FakeOpenAI, elsewhere: FakeOpenAI) -> None:
    row = draft()
    move_model(model_id=row.id, to="testing")
    EmbeddingModel.objects.filter(id=row.id).update(validated_at=utc_now(), cuts="measured")
    change_provider(slug="vendor", base_url=elsewhere.base_url)
    row = find_model(row.id)
    assert (row.validated_at, row.cuts) == (None, "")


def test_a_setting_that_is_no_address_asks_nothing(alone: EmbeddingModel, vendor: FakeOpenAI, worker: None) -> None:
    calls = len(vendor.calls)
    change_provider(slug="vendor", base_url=vendor.base_url, timeout_s=5, secret={"api_key": vendor.key})
    assert (len(vendor.calls), find_model(alone.id).validated_at) == (calls, alone.validated_at)


@pytest.mark.parametrize("way", [add_credential, change_provider])
def test_what_was_only_vouched_for_is_measured_with_its_first_secret(
    way: Any, openai: FakeOpenAI, table: object, worker: None
) -> None:
    add_provider(slug="vendor", kind="openai", base_url=openai.base_url)
    row = draft(capabilities=["dimensions", "matryoshka"])
    for state in ("testing", "available"):
        move_model(model_id=row.id, to=state, proof=Proof.VOUCHED)
    way(slug="vendor", secret={"api_key": openai.key})
    check = ModelCheck.objects.get(model=row)
    assert (check.kind, check.passed, find_model(row.id).cuts) == ("validation", True, "measured")
