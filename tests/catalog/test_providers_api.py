"""`/api/v1/embedding-models/providers`: adding a vendor, its credentials, and what nobody gets to see."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from catalog.loading import load_catalog, open_credential
from catalog.models import ProviderCredential
from tests.conftest import Party
from tests.fakes.openai import FakeOpenAI

PROVIDERS = "/api/v1/embedding-models/providers"
CATALOG = "/api/v1/embedding-models/catalog"
SECRET = "sk-a-secret-of-the-tests-wxyz"
OPENAI = {"slug": "openai-eu", "kind": "openai", "secret": {"api_key": SECRET}}


@pytest.fixture
def fake() -> Iterator[FakeOpenAI]:
    with FakeOpenAI() as server:
        yield server


def test_a_secret_goes_in_and_never_comes_out(operator: Any) -> None:
    answer = operator.post(PROVIDERS, OPENAI)
    assert answer.status_code == 201, answer.json()
    assert [each["hint"] for each in answer.json()["credentials"]] == ["wxyz"]
    told = [answer, operator.get(PROVIDERS), operator.get(f"{PROVIDERS}/openai-eu")]
    assert all(SECRET not in each.content.decode() for each in told)
    credential = ProviderCredential.objects.get()
    assert SECRET not in credential.sealed
    assert open_credential(credential) == {"api_key": SECRET}


def test_credentials_are_added_listed_and_forgotten(operator: Any) -> None:
    operator.post(PROVIDERS, OPENAI)
    url = f"{PROVIDERS}/openai-eu/credentials"
    second = operator.post(url, {"secret": {"api_key": "sk-second-of-the-tests"}, "label": "team b"})
    assert second.status_code == 201, second.json()
    assert [each["label"] for each in operator.get(url).json()["results"]] == ["", "team b"]
    assert operator.delete(f"{url}/{second.json()['id']}").status_code == 204
    assert operator.delete(f"{url}/{second.json()['id']}").status_code == 404
    assert len(operator.get(url).json()["results"]) == 1


def test_a_secret_in_a_patch_takes_the_place_of_all(operator: Any) -> None:
    operator.post(PROVIDERS, OPENAI)
    operator.post(f"{PROVIDERS}/openai-eu/credentials", {"secret": {"api_key": "sk-second-of-the-tests"}})
    changed = operator.patch(f"{PROVIDERS}/openai-eu", {"secret": {"api_key": "sk-the-third-one"}, "timeout_s": 5})
    assert [each["hint"] for each in changed.json()["credentials"]] == ["-one"]
    assert changed.json()["timeout_s"] == 5


@pytest.mark.parametrize(
    ("kind", "items", "tokens"),
    [("openai", 2048, 300_000), ("bedrock", 96, 300_000), ("google", 100, 300_000), ("vertex", 250, 20_000)],
)
def test_each_kind_starts_with_its_vendors_caps(kind: str, items: int, tokens: int, operator: Any) -> None:
    row = operator.post(PROVIDERS, {"slug": "new", "kind": kind}).json()
    assert (row["max_items"], row["max_tokens_per_call"]) == (items, tokens)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"slug": "With Spaces"}, "slug"),
        ({"slug": "health"}, "slug"),
        ({"kind": "oracle"}, "kind"),
        ({"kind": "openai_compatible"}, "base_url"),
        ({"kind": "local"}, "secret"),
        ({"kind": "vertex"}, "secret"),
        ({"kind": "bedrock", "secret": {"aws_access_key_id": "AKIA"}}, "secret"),
        ({"secret": {}}, "secret"),
        ({"secret": {"password": "x"}}, "secret.password"),
        ({"secret": {"api_key": "sk-with a space"}}, "secret.api_key"),
        ({"secret": {"api_key": "sk-with-a-newline\n"}}, "secret.api_key"),
        ({"base_url": "ftp://host/v1"}, "base_url"),
        ({"base_url": "https://user:pass@host/v1"}, "base_url"),
        ({"base_url": "https://host/v1?key=1"}, "base_url"),
        ({"base_url": "http://169.254.169.254/v1"}, "base_url"),
        ({"max_items": 0}, "max_items"),
        ({"max_concurrency": 5000}, "max_concurrency"),
        ({"batch_window_ms": 101}, "batch_window_ms"),
        ({"batch_window_ms": -1}, "batch_window_ms"),
        ({"mixes_tenants": "perhaps"}, "mixes_tenants"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_bad_input_is_named(change: dict[str, Any], field: str, operator: Any) -> None:
    answer = operator.post(PROVIDERS, OPENAI | change)
    assert (answer.status_code, list(answer.json().get("errors", {}))) == (400, [field]), answer.json()
    assert SECRET not in answer.content.decode()
    assert operator.get(PROVIDERS).json()["results"] == []


def test_who_shares_calls_is_set_by_the_operator_and_reaches_the_data_plane(operator: Any, add_model: Any) -> None:
    model = add_model(tokenizer="cl100k_base")
    before = load_catalog().deployments[model.id]
    assert (before.batch_window_s, before.mixes_tenants) == (0.005, False)
    changed = operator.patch(f"{PROVIDERS}/vendor", {"batch_window_ms": 20, "mixes_tenants": True}).json()
    assert (changed["batch_window_ms"], changed["mixes_tenants"]) == (20, True)
    after = load_catalog().deployments[model.id]
    assert (after.batch_window_s, after.mixes_tenants) == (0.02, True)


def test_tenants_share_no_calls_where_tokens_are_estimated(operator: Any, add_model: Any) -> None:
    exact = add_model("exact", tokenizer="cl100k_base")
    assert operator.patch(f"{PROVIDERS}/vendor", {"mixes_tenants": True}).status_code == 200
    estimated = add_model("estimated", tokenizer="bytes")  # comes later: its own calls stay apart
    found = load_catalog().deployments
    assert (found[exact.id].mixes_tenants, found[estimated.id].mixes_tenants) == (True, False)
    answer = operator.patch(f"{PROVIDERS}/vendor", {"mixes_tenants": True})
    assert (answer.status_code, list(answer.json()["errors"])) == (400, ["mixes_tenants"])
    assert "estimated" in answer.json()["detail"]


def test_a_slug_is_taken_once_and_stays(operator: Any) -> None:
    operator.post(PROVIDERS, OPENAI)
    assert operator.post(PROVIDERS, OPENAI).json()["code"] == "already_exists"
    assert operator.patch(f"{PROVIDERS}/openai-eu", {"slug": "other"}).status_code == 400
    assert operator.patch(f"{PROVIDERS}/openai-eu", {"kind": "azure"}).status_code == 400


def test_a_provider_with_models_stays(operator: Any, add_model: Callable[..., Any]) -> None:
    add_model()
    assert operator.delete(f"{PROVIDERS}/vendor").json()["code"] == "in_use"
    operator.post(PROVIDERS, OPENAI)
    assert operator.delete(f"{PROVIDERS}/openai-eu").status_code == 204
    assert operator.get(f"{PROVIDERS}/openai-eu").status_code == 404


def test_a_tenant_sees_that_a_provider_is_there_and_no_more(operator: Any, mallory: Party) -> None:
    operator.post(PROVIDERS, OPENAI | {"base_url": "http://inner.example:8000/v1"})
    seen = {"slug": "openai-eu", "kind": "openai", "region": "", "is_enabled": True}
    assert mallory.api.get(PROVIDERS).json()["results"] == [seen]
    assert mallory.api.get(f"{PROVIDERS}/openai-eu").json() == seen
    url = f"{PROVIDERS}/openai-eu"
    refused = [
        mallory.api.post(PROVIDERS, OPENAI | {"slug": "mine"}),
        mallory.api.patch(url, {"base_url": "http://mine.example/v1"}),
        mallory.api.delete(url),
        mallory.api.get(f"{url}/credentials"),
        mallory.api.post(f"{url}/credentials", {"secret": {"api_key": "mine"}}),
        mallory.api.delete(f"{url}/credentials/{uuid4()}"),
    ]
    assert {each.status_code for each in refused} == {403}


def test_the_list_costs_as_many_queries_for_fifty_as_for_one(operator: Any) -> None:
    def cost() -> int:
        with CaptureQueriesContext(connection) as queries:
            assert operator.get(f"{PROVIDERS}?limit=100").status_code == 200
        return len(queries)

    operator.post(PROVIDERS, OPENAI)
    once = cost()
    for index in range(49):
        operator.post(PROVIDERS, OPENAI | {"slug": f"p{index}"})
    assert cost() == once


@pytest.fixture
def model_at_fake(operator: Any, fake: FakeOpenAI) -> dict[str, Any]:
    """What to POST for a model that the fake serves."""
    body = OPENAI | {"slug": "fake", "base_url": fake.base_url, "secret": {"api_key": fake.key}}
    assert operator.post(PROVIDERS, body).status_code == 201
    name = "text-embedding-3-small"
    return {"provider": "fake", "model_name": name, "model_identifier": name, "dimensions": 1536, "activate": True}


@pytest.mark.django_db(transaction=True)
def test_a_model_that_embeds_becomes_available(operator: Any, fake: FakeOpenAI, model_at_fake: dict[str, Any]) -> None:
    answer = operator.post(CATALOG, model_at_fake)
    assert (answer.status_code, answer.json()["state"]) == (201, "available")
    assert [call.items for call in fake.calls] == [23, 4]  # the probes that it takes for sure, and some of them again


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("switches", "change", "probe", "got", "fields"),
    [
        ({"fault": "status", "status": 500}, {}, "native", "server", []),
        ({"fault": "zero_vector"}, {}, "native: one word", "0", []),
        ({"fault": "nan_base64"}, {}, "native: one word", "nan", []),
        ({"fault": "fewer"}, {}, "native", "bad_answer", []),
        ({"key": "another"}, {}, "native", "credential", []),
        ({}, {"dimensions": 8}, "native", "23 vectors of 1536 floats", ["dimensions"]),
        ({}, {"model_identifier": "no-such-model"}, "native", "model_missing", []),
        (
            {"fault": "ignores_dimensions"},
            {"allowed_dimensions": [512]},
            "512 dimensions",
            "17 vectors of 1536 floats",
            ["allowed_dimensions"],
        ),
    ],
)
def test_a_model_that_does_not_embed_stays_a_draft(
    switches: dict[str, Any],
    change: dict[str, Any],
    probe: str,
    got: str,
    fields: list[str],
    operator: Any,
    fake: FakeOpenAI,
    model_at_fake: dict[str, Any],
) -> None:
    fake.switch(**switches)
    answer = operator.post(CATALOG, model_at_fake | change)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (422, "validation_failed")
    assert problem["probes"][0]["probe"] == probe
    assert got in problem["probes"][0]["got"]
    assert [*problem.get("errors", {})] == fields
    assert operator.get(f"{CATALOG}/{problem['id']}").json()["state"] == "draft"


@pytest.mark.django_db(transaction=True)
def test_a_mended_draft_is_activated_by_a_patch(operator: Any, fake: FakeOpenAI, model_at_fake: dict[str, Any]) -> None:
    draft = operator.post(CATALOG, model_at_fake | {"dimensions": 8}).json()["id"]
    answer = operator.patch(f"{CATALOG}/{draft}", {"dimensions": 1536, "activate": True})
    assert (answer.status_code, answer.json()["state"]) == (200, "available")


@pytest.mark.django_db(transaction=True)
def test_without_a_credential_the_probe_says_so(operator: Any) -> None:
    operator.post(PROVIDERS, {"slug": "bare", "kind": "openai"})
    body = {"provider": "bare", "model_name": "m", "model_identifier": "m", "dimensions": 8, "activate": True}
    assert operator.post(CATALOG, body).json()["probes"][0]["got"] == "no credential was added for bare yet"
