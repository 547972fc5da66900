"""A provider that moved: its models are measured anew, at once and by a worker, and nobody takes them for the same."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from celery.signals import task_prerun

from catalog.lifecycle import Cause, Proof
from catalog.models import EmbeddingModel, ModelCheck
from catalog.rechecking import recheck_spaces
from catalog.services import add_model, find_model, move_model
from catalog.upstreams import add_credential, add_provider, change_provider
from catalog.validating import activate_model, validate_model
from core.clock import utc_now
from core.errors import IllegalTransition
from tests.fakes.openai import FakeOpenAI
from tests.up.processes import eventually

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


@pytest.mark.parametrize(("cause", "proof"), [(Cause.PROVIDER, Proof.TRIALS), (Cause.OPERATOR, Proof.HAND)])
def test_what_is_out_stays_out_until_it_was_measured_at_the_new_address(
    cause: Cause, proof: Proof, alone: EmbeddingModel, elsewhere: FakeOpenAI, worker: None
) -> None:
    move_model(model_id=alone.id, to="unavailable", cause=cause)
    elsewhere.switch(fault="status", status=500)
    change_provider(slug="vendor", base_url=elsewhere.base_url)
    assert len(elsewhere.calls) > 0
    with pytest.raises(IllegalTransition, match="run its probes first"):
        move_model(model_id=alone.id, to="available", proof=proof)
    elsewhere.switch(fault="")
    recheck_spaces(now=utc_now())
    assert move_model(model_id=alone.id, to="available", proof=proof).state == "available"


def test_what_is_on_trial_and_is_something_else_at_the_new_address_answers_nobody_any_more(
    alone: EmbeddingModel, elsewhere: FakeOpenAI, worker: None
) -> None:
    move_model(model_id=alone.id, to="unavailable", cause=Cause.PROVIDER)
    elsewhere.switch(turned_by=5)
    change_provider(slug="vendor", base_url=elsewhere.base_url)
    row = find_model(alone.id)
    assert (row.state, row.unavailable_cause, row.space.epoch) == ("unavailable", "drift", 2)
    elsewhere.switch(turned_by=0)
    recheck_spaces(now=utc_now())
    assert find_model(alone.id).state == "available"


def test_what_could_not_be_measured_is_validated_by_night_until_it_passes(
    alone: EmbeddingModel, elsewhere: FakeOpenAI, worker: None
) -> None:
    elsewhere.switch(fault="status", status=500)
    change_provider(slug="vendor", base_url=elsewhere.base_url)
    elsewhere.switch(fault="")
    assert [recheck_spaces(now=utc_now()) for _ in range(2)] == [1, 0]
    assert find_model(alone.id).validated_at is not None


def test_what_a_night_validates_counts_for_the_day(
    alone: EmbeddingModel, elsewhere: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    ModelCheck.objects.update(at=utc_now() - timedelta(days=2))
    EmbeddingModel.objects.update(validated_at=None)
    monkeypatch.setattr("catalog.rechecking.TOKENS_A_DAY", 1)
    nights = [recheck_spaces(now=utc_now())]
    EmbeddingModel.objects.update(validated_at=None)
    assert [*nights, recheck_spaces(now=utc_now())] == [1, 0]


def test_what_was_measured_at_the_old_address_moves_nothing(
    alone: EmbeddingModel, vendor: FakeOpenAI, elsewhere: FakeOpenAI, at_once: Any
) -> None:
    calls = len(vendor.calls)
    vendor.switch(turned_by=5, latency_s=0.5)

    def move() -> None:
        eventually(lambda: len(vendor.calls) > calls)
        change_provider(slug="vendor", base_url=elsewhere.base_url)

    outcomes = at_once(lambda: validate_model(model_id=alone.id), move)
    assert (outcomes[0].passed, outcomes[1]) == (False, None)
    assert find_model(alone.id).state == "available"


def test_the_data_planes_hear_of_a_move_before_a_worker_is_asked(
    alone: EmbeddingModel, elsewhere: FakeOpenAI, worker: None, changes: Any
) -> None:
    heard: list[int] = []

    def hear(**_: Any) -> None:
        heard.append(len(changes()))

    changes()
    task_prerun.connect(hear)
    try:
        change_provider(slug="vendor", base_url=elsewhere.base_url)
    finally:
        task_prerun.disconnect(hear)
    assert heard == [1]


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
