"""Spaces over real wires: who may join one, who is taken out of one, and who comes back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from audit.models import AuditEvent
from catalog.loading import load_catalog
from catalog.models import EmbeddingModel, ModelCheck, ModelEvent, SpaceReference, VectorSpace
from catalog.rechecking import recheck_spaces
from catalog.services import add_model, change_model, find_model, move_model, remove_model
from catalog.signals import model_moved
from catalog.upstreams import add_provider
from catalog.validating import activate_model, validate_model
from core.clock import utc_now
from core.errors import IllegalTransition, ValidationFailed
from tests.fakes.openai import FakeOpenAI
from tests.up.processes import eventually

pytestmark = pytest.mark.django_db(transaction=True)
SMALL = "text-embedding-3-small"


@pytest.fixture
def first() -> Iterator[FakeOpenAI]:
    with FakeOpenAI() as server:
        yield server


@pytest.fixture
def second() -> Iterator[FakeOpenAI]:
    with FakeOpenAI() as server:
        yield server


@pytest.fixture
def at(db: None) -> Callable[..., EmbeddingModel]:
    """A draft of the small model at a fake, in the space `small` unless told otherwise."""

    def added(slug: str, fake: FakeOpenAI, **facts: Any) -> EmbeddingModel:
        add_provider(slug=slug, kind="openai_compatible", base_url=fake.base_url, secret={"api_key": fake.key})
        known: dict[str, Any] = {
            "name": SMALL,
            "identifier": SMALL,
            "dimensions": 1536,
            "space": "small",
            "tokenizer": "cl100k_base",
            "cost_per_million_tokens": Decimal("0.02"),
        }
        return add_model(provider=slug, **known | facts)

    return added


@pytest.fixture
def two(at: Any, first: FakeOpenAI, second: FakeOpenAI) -> tuple[EmbeddingModel, EmbeddingModel]:
    """The same model at two providers, both available."""
    rows = at("first", first), at("second", second)
    return activate_model(model_id=rows[0].id), activate_model(model_id=rows[1].id)


def epoch() -> int:
    return VectorSpace.objects.get(slug="small").epoch


def test_the_first_leaves_its_vectors_as_the_reference(at: Any, first: FakeOpenAI) -> None:
    row = activate_model(model_id=at("first", first).id)
    kept = SpaceReference.objects.get()
    assert (kept.space_id, kept.dimensions, kept.model_id, len(kept.probes)) == (row.space_id, 1536, row.id, 24)
    assert len(bytes(kept.vectors)) == 24 * 1536 * 4
    check = ModelCheck.objects.get()
    assert (check.passed, check.source) == (True, "probe")
    assert check.tokens > 12_000
    assert check.cost_usd == Decimal(check.tokens) * Decimal("0.02") / 1_000_000


def test_the_same_model_elsewhere_may_join(two: tuple[EmbeddingModel, EmbeddingModel]) -> None:
    assert [row.state for row in two] == ["available", "available"]
    assert SpaceReference.objects.get().model_id == two[0].id


def test_another_model_of_the_same_name_may_not(at: Any, first: FakeOpenAI, second: FakeOpenAI) -> None:
    activate_model(model_id=at("first", first).id)
    second.switch(turned_by=5)
    with pytest.raises(ValidationFailed) as refused:
        activate_model(model_id=at("second", second).id)
    probes = refused.value.extra["probes"]
    assert len(probes) == 24
    assert probes[0] == {
        "probe": "one word",
        "expected": "a cosine of at least 0.999 to the reference of small",
        "got": "0.9962",
        "field": "space",
    }
    assert EmbeddingModel.objects.get(provider__slug="second").state == "draft"


def test_a_space_without_reference_takes_one_from_a_model_that_is_there(
    at: Any, first: FakeOpenAI, second: FakeOpenAI
) -> None:
    activate_model(model_id=at("first", first).id)
    SpaceReference.objects.all().delete()
    activate_model(model_id=at("second", second).id)
    assert SpaceReference.objects.get().model.provider.slug == "first"


def test_a_space_whose_models_are_gone_stays_bound_to_its_vectors(
    at: Any, first: FakeOpenAI, second: FakeOpenAI
) -> None:
    gone = activate_model(model_id=at("first", first).id)
    move_model(model_id=gone.id, to="unavailable")
    move_model(model_id=gone.id, to="removed")
    second.switch(turned_by=5)
    row = at("second", second)
    with pytest.raises(ValidationFailed):
        activate_model(model_id=row.id)
    second.switch(turned_by=0)
    assert activate_model(model_id=row.id).state == "available"


def test_an_erased_draft_binds_nobody(at: Any, first: FakeOpenAI, second: FakeOpenAI) -> None:
    draft = at("first", first)
    assert validate_model(model_id=draft.id).passed
    remove_model(model_id=draft.id)
    second.switch(turned_by=5)
    assert activate_model(model_id=at("second", second).id).state == "available"


def test_a_draft_that_was_mended_replaces_what_it_left(at: Any, first: FakeOpenAI) -> None:
    row = at("first", first)
    validate_model(model_id=row.id)
    first.switch(turned_by=5)
    assert activate_model(model_id=row.id).state == "available"


def test_of_two_that_are_first_at_once_one_binds_the_space(
    at: Any, first: FakeOpenAI, second: FakeOpenAI, at_once: Any
) -> None:
    rows = at("first", first), at("second", second)
    second.switch(turned_by=5)
    for fake in (first, second):
        fake.switch(latency_s=0.5)
    outcomes = at_once(*(lambda row=row: activate_model(model_id=row.id) for row in rows))
    assert sorted(type(each).__name__ for each in outcomes) == ["Conflict", "EmbeddingModel"]
    assert EmbeddingModel.objects.filter(state="available").count() == SpaceReference.objects.count() == 1


def test_what_was_changed_while_it_was_measured_is_not_released(at: Any, first: FakeOpenAI, at_once: Any) -> None:
    row = at("first", first)
    first.switch(latency_s=0.5)

    def change() -> None:
        eventually(lambda: first.calls)
        change_model(model_id=row.id, max_tokens=100)

    outcomes = at_once(lambda: activate_model(model_id=row.id), change)
    assert isinstance(outcomes[0], IllegalTransition)
    assert find_model(row.id).state == "testing"
    told = AuditEvent.objects.filter(subject_id=str(row.id)).order_by("id").values_list("action", flat=True)
    assert list(told) == ["model.added", "model.moved", "model.changed", "model.validated"]  # what was done of it


def test_where_nothing_can_be_compared_nobody_joins(at: Any, first: FakeOpenAI, second: FakeOpenAI) -> None:
    activate_model(model_id=at("first", first).id)
    SpaceReference.objects.all().delete()
    first.switch(fault="status", status=500)
    with pytest.raises(ValidationFailed, match="a reference of small to compare with"):
        activate_model(model_id=at("second", second).id)


def test_a_drift_is_found_the_next_day_and_nothing_of_it_is_kept(
    two: tuple[EmbeddingModel, EmbeddingModel], second: FakeOpenAI, committed: Any
) -> None:
    heard: list[dict[str, Any]] = []

    def hear(sender: object, **about: Any) -> None:
        heard.append(about)

    second.switch(turned_by=5)
    model_moved.connect(hear)
    try:
        recheck_spaces(now=utc_now())
    finally:
        model_moved.disconnect(hear)
    bad = find_model(two[1].id)
    assert (bad.state, bad.unavailable_cause) == ("unavailable", "drift")
    assert "17 probes differ from small" in bad.state_reason
    assert find_model(two[0].id).state == "available"
    assert epoch() == 2
    assert [(each["model_id"], each["now"], each["cause"]) for each in heard] == [(bad.id, "unavailable", "drift")]
    assert load_catalog().deployments[bad.id].state == "unavailable"
    assert ModelEvent.objects.filter(model=bad, kind="drifted").count() == 1


def test_it_comes_back_when_it_is_equal_again(two: tuple[EmbeddingModel, EmbeddingModel], second: FakeOpenAI) -> None:
    second.switch(turned_by=5)
    recheck_spaces(now=utc_now())
    recheck_spaces(now=utc_now())
    assert (find_model(two[1].id).state, epoch()) == ("unavailable", 2)
    second.switch(turned_by=0)
    recheck_spaces(now=utc_now())
    assert find_model(two[1].id).state == "available"


def test_a_provider_that_is_down_has_not_drifted(
    two: tuple[EmbeddingModel, EmbeddingModel], second: FakeOpenAI
) -> None:
    second.switch(fault="status", status=503)
    recheck_spaces(now=utc_now())
    assert find_model(two[1].id).state == "available"
    assert ModelCheck.objects.filter(model=two[1], kind="recheck").get().passed is False


def test_a_model_alone_in_its_space_is_not_asked_daily(at: Any, first: FakeOpenAI) -> None:
    activate_model(model_id=at("first", first).id)
    calls = len(first.calls)
    assert recheck_spaces(now=utc_now()) == 0
    assert len(first.calls) == calls


def test_a_day_of_checks_is_capped(two: tuple[EmbeddingModel, EmbeddingModel], monkeypatch: pytest.MonkeyPatch) -> None:
    ModelCheck.objects.update(at=utc_now() - timedelta(days=2))  # they were validated days ago
    monkeypatch.setattr("catalog.rechecking.TOKENS_A_DAY", 700)
    assert [recheck_spaces(now=utc_now()) for _ in range(3)] == [2, 0, 0]


def test_a_drift_of_an_own_server_is_found_by_its_deploy(
    operator: Any, two: tuple[EmbeddingModel, EmbeddingModel], first: FakeOpenAI
) -> None:
    first.switch(turned_by=5)
    answer = operator.post(f"/api/v1/embedding-models/catalog/{two[0].id}/validate")
    assert answer.status_code == 200, answer.json()
    assert (answer.json()["passed"], answer.json()["state"]) == (False, "unavailable")
    first.switch(turned_by=0)
    answer = operator.post(f"/api/v1/embedding-models/catalog/{two[0].id}/validate")
    assert (answer.json()["passed"], answer.json()["state"]) == (True, "available")


def test_a_deprecated_model_that_drifts_ends_early(
    two: tuple[EmbeddingModel, EmbeddingModel], second: FakeOpenAI
) -> None:
    move_model(model_id=two[1].id, to="deprecated")
    second.switch(turned_by=5)
    validate_model(model_id=two[1].id)
    assert find_model(two[1].id).state == "removed"


def test_cuts_are_served_when_they_were_measured(at: Any, first: FakeOpenAI) -> None:
    row = at("first", first, capabilities=["dimensions", "matryoshka"])
    move_model(model_id=row.id, to="testing")
    assert not load_catalog().deployments[row.id].can_answer_with(700)
    assert validate_model(model_id=row.id).passed
    move_model(model_id=row.id, to="available")
    assert find_model(row.id).cuts == "measured"
    assert load_catalog().deployments[row.id].can_answer_with(700)


def test_a_model_that_cannot_be_asked_for_a_cut_serves_none(at: Any, first: FakeOpenAI) -> None:
    row = at("first", first, capabilities=["matryoshka"], allowed_dimensions=[512])
    activate_model(model_id=row.id)
    assert find_model(row.id).cuts == ""
    assert not load_catalog().deployments[row.id].can_answer_with(512)


def test_what_is_asked_is_answered_over_rest(operator: Any, at: Any, first: FakeOpenAI, mallory: Any) -> None:
    row = at("first", first)
    url = f"/api/v1/embedding-models/catalog/{row.id}"
    assert operator.post(f"{url}/transition", {"to": "testing", "reason": "new"}).status_code == 200
    refused = operator.post(f"{url}/transition", {"to": "available", "reason": "now"})
    assert (refused.status_code, refused.json()["code"]) == (409, "illegal_transition")
    told = operator.post(f"{url}/validate").json()
    assert (told["passed"], told["failed"], told["probes"], told["state"]) == (True, [], 24, "testing")
    assert operator.post(f"{url}/transition", {"to": "available", "reason": "now"}).json()["state"] == "available"
    events = operator.get(f"{url}/events").json()["results"]
    assert [each["kind"] for each in events] == ["moved", "validated", "moved"]
    assert events[0]["actor"].startswith("key ")
    assert operator.post(f"{url}/validate", {"colour": "red"}).status_code == 400
    assert mallory.api.post(f"{url}/validate").status_code == 403
    assert mallory.api.get(f"{url}/events").status_code == 403
