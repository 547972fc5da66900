"""Looks at fake vendors' lists, through the vendors' own SDKs, into PostgreSQL."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from catalog import discovery_runs
from catalog.discovery_runs import accept, begin_runs, ignore
from catalog.models import DiscoveryRun, EmbeddingModel, ModelEvent, Price, VectorSpace
from catalog.services import find_model
from catalog.upstreams import add_provider, change_provider
from core.clock import utc_now
from core.errors import Conflict, InvalidRequest
from tests.catalog.looks import entry, keys, look
from tests.fakes import bedrock, vertex
from tests.fakes.azure import FakeAzure
from tests.fakes.bedrock import FakeBedrock
from tests.fakes.google import FakeGoogle
from tests.fakes.openai import FakeOpenAI
from tests.fakes.vertex import FakeVertex

pytestmark = pytest.mark.django_db(transaction=True)
RUNS = "/api/v1/embedding-models/discovery/runs"
ROOT = Path(__file__).resolve().parents[2]


SMALL, LARGE, ADA = (entry(f"text-embedding-{name}") for name in ("3-small", "3-large", "ada-002"))


def test_a_first_look_registers_drafts_with_widths_and_prices(vendor: FakeOpenAI) -> None:
    run = look()
    assert (run.state, run.listed) == ("applied", 3)
    assert [key for key, state in keys(run)] == [
        "new:text-embedding-3-large",
        "new:text-embedding-3-small",
        "new:text-embedding-ada-002",
    ]
    small = EmbeddingModel.objects.get(name="text-embedding-3-small")
    assert (small.state, small.dimensions, small.max_tokens, small.tokenizer, small.space.slug) == (
        "draft",
        1536,
        8191,
        "cl100k_base",
        "vendor/text-embedding-3-small",
    )
    assert Price.objects.get(model=small).cost_per_million_tokens == Decimal("0.02")
    assert ModelEvent.objects.get(model=small).kind == "discovered"


def test_a_second_look_finds_nothing(vendor: FakeOpenAI) -> None:
    look()
    before = list(EmbeddingModel.objects.values("id", "updated_at"))
    run = look()
    assert (run.state, run.changes) == ("unchanged", [])
    assert list(EmbeddingModel.objects.values("id", "updated_at")) == before


def test_a_new_model_is_found(vendor: FakeOpenAI) -> None:
    look()
    vendor.switch(listed=[SMALL, LARGE, ADA, entry("text-embedding-4", dimensions=2048), entry("gpt-9")])
    assert keys(look()) == [("new:text-embedding-4", "applied")]
    assert EmbeddingModel.objects.get(name="text-embedding-4").dimensions == 2048


def test_a_model_of_unknown_width_waits_until_somebody_says_it(vendor: FakeOpenAI) -> None:
    vendor.switch(listed=[SMALL, entry("my-embedder")])
    run = look()
    assert (run.state, keys(run)) == (
        "waiting",
        [("new:my-embedder", "pending"), ("new:text-embedding-3-small", "applied")],
    )
    with pytest.raises(InvalidRequest, match="width of my-embedder"):
        accept(run_id=run.id, keys=["new:my-embedder"], actor="me")
    assert (
        accept(run_id=run.id, keys=["new:my-embedder"], widths={"new:my-embedder": 77}, actor="me").state == "applied"
    )
    assert EmbeddingModel.objects.get(name="my-embedder").dimensions == 77


def test_a_changed_width_mends_a_draft_and_never_a_released_row(vendor: FakeOpenAI) -> None:
    look()
    vendor.switch(listed=[SMALL | {"dimensions": 512}, LARGE, ADA])
    assert keys(look()) == [("changed:text-embedding-3-small", "applied")]
    row = EmbeddingModel.objects.get(name="text-embedding-3-small")
    assert row.dimensions == 512
    EmbeddingModel.objects.filter(id=row.id).update(state="available")
    vendor.switch(listed=[SMALL | {"dimensions": 256}, LARGE, ADA])
    run = look()
    assert (run.state, keys(run)) == ("waiting", [("changed:text-embedding-3-small", "pending")])
    with pytest.raises(Conflict, match="dimensions is relied on"):
        accept(run_id=run.id, keys=["changed:text-embedding-3-small"], actor="me")
    assert find_model(row.id).dimensions == 512
    assert ignore(run_id=run.id).state == "ignored"


def test_gone_is_who_is_missing_three_times(vendor: FakeOpenAI) -> None:
    look()
    EmbeddingModel.objects.update(state="available")
    vendor.switch(listed=[SMALL, LARGE])
    assert [look().state for _ in range(2)] == ["unchanged", "unchanged"]
    vendor.switch(listed=[SMALL, LARGE, ADA])
    look()
    vendor.switch(listed=[SMALL, LARGE])
    assert [keys(look()) for _ in range(3)] == [[], [], [("gone:text-embedding-ada-002", "applied")]]
    ada = EmbeddingModel.objects.get(name="text-embedding-ada-002")
    assert (ada.state, ada.unavailable_cause) == ("unavailable", "provider")
    assert look().state == "unchanged"


def test_a_model_that_its_vendor_retires_is_deprecated_with_its_date(vendor: FakeOpenAI, table: Any) -> None:
    look()
    EmbeddingModel.objects.update(state="available")
    ends = (utc_now() + timedelta(days=60)).date()
    table({"text-embedding-ada-002": {"litellm_provider": "openai", "deprecation_date": ends.isoformat()}})
    assert keys(look()) == [("deprecated:text-embedding-ada-002", "applied")]
    row = EmbeddingModel.objects.get(name="text-embedding-ada-002")
    assert row.state == "deprecated"
    assert row.sunset_at is not None
    assert row.sunset_at.date() == ends


def test_bedrock_says_itself_what_it_retires(table: Any) -> None:
    with FakeBedrock() as fake:
        add_provider(slug="bedrock", kind="bedrock", base_url=fake.base_url, region=bedrock.REGION, secret=fake.secret)
        assert look("bedrock").state in ("applied", "waiting")
        EmbeddingModel.objects.filter(identifier=bedrock.TITAN_V1).update(state="available")
        summary = {"modelId": bedrock.TITAN_V1, "modelName": "x", "modelArn": "arn:aws:x", "inputModalities": ["TEXT"]}
        fake.switch(listed=[summary | {"modelLifecycle": {"status": "LEGACY"}}])
        assert ("deprecated:amazon.titan-embed-text-v1", "applied") in keys(look("bedrock"))


@pytest.mark.slow
def test_a_list_that_leads_elsewhere_is_not_followed(vendor: FakeOpenAI, table: Any) -> None:
    with FakeGoogle() as google, FakeVertex() as on_vertex, FakeAzure() as azure:
        add_provider(slug="google", kind="google", base_url=google.base_url, secret={"api_key": google.key})
        add_provider(slug="azure", kind="azure", base_url=azure.base_url, secret={"api_key": azure.key})
        add_provider(
            slug="vertex",
            kind="vertex",
            base_url=on_vertex.base_url,
            region=vertex.REGION,
            secret=on_vertex.secret,
            by_operator=True,
        )
        for fake in (vendor, google, azure, on_vertex):
            fake.switch(fault="redirect", times=1)  # whoever followed would get a good list
        runs = begin_runs(actor="a test")
        assert {row.provider.slug: discovery_runs.run(row.id) for row in runs} == dict.fromkeys(
            ("azure", "google", "vendor", "vertex"), "failed"
        )


@pytest.mark.slow
def test_one_vendor_that_is_down_does_not_stop_the_others(vendor: FakeOpenAI, table: Any) -> None:
    with FakeGoogle() as google, FakeVertex() as on_vertex:
        add_provider(slug="google", kind="google", base_url=google.base_url, secret={"api_key": google.key})
        add_provider(
            slug="vertex",
            kind="vertex",
            base_url=on_vertex.base_url,
            region=vertex.REGION,
            secret=on_vertex.secret,
            by_operator=True,
        )
        google.switch(fault="status", status=503)
        runs = begin_runs(actor="a test")
        outcomes = {row.provider.slug: discovery_runs.run(row.id) for row in runs}
        assert outcomes == {"google": "failed", "vendor": "applied", "vertex": "applied"}
        assert DiscoveryRun.objects.get(provider__slug="google").detail.startswith("server")
        google.switch(fault="")
        assert look("google").state == "applied"
    assert set(EmbeddingModel.objects.values_list("provider__slug", flat=True)) == {"google", "vendor", "vertex"}


@pytest.mark.parametrize(
    "switches",
    [
        {"listed": []},
        {"listed": [SMALL, entry("bad name")]},
        {"listed": [SMALL, entry("embed", dimensions=10**9)]},
        {"listed": [{"object": "model"}]},
        {"listed": ["text-embedding-3-small"]},
        {"fault": "html"},
        {"fault": "invalid_json"},
        {"fault": "short_body"},
    ],
)
def test_garbage_changes_nothing_and_is_told(switches: dict[str, Any], vendor: FakeOpenAI) -> None:
    look()
    before = list(EmbeddingModel.objects.order_by("id").values())
    vendor.switch(**switches)
    run = look()
    assert run.state == "failed"
    assert run.detail
    assert list(EmbeddingModel.objects.order_by("id").values()) == before


def test_without_a_credential_there_is_no_daily_run_and_a_clear_word_for_an_asked_one(table: Any) -> None:
    add_provider(slug="bare", kind="openai")
    assert begin_runs(actor="beat") == []
    run = look("bare")
    assert (run.state, run.detail) == ("failed", "No credential was added yet that can be used.")


def test_a_provider_may_be_left_alone(vendor: FakeOpenAI) -> None:
    change_provider(slug="vendor", discovery="off")
    assert begin_runs(actor="beat") == []


def test_with_approval_everything_waits_and_may_be_taken_in_part(vendor: FakeOpenAI) -> None:
    change_provider(slug="vendor", discovery="approval")
    run = look()
    assert (run.state, EmbeddingModel.objects.count()) == ("waiting", 0)
    again = look()
    with pytest.raises(Conflict, match="newer look"):
        accept(run_id=run.id, keys=["new:text-embedding-3-small"], actor="me")
    with pytest.raises(InvalidRequest):
        accept(run_id=again.id, keys=["new:text-embedding-3-small", "new:nothing"], actor="me")
    assert EmbeddingModel.objects.count() == 0
    half = accept(run_id=again.id, keys=["new:text-embedding-3-small"], actor="me")
    assert (half.state, EmbeddingModel.objects.get().name) == ("waiting", "text-embedding-3-small")
    assert ignore(run_id=again.id, keys=["new:text-embedding-ada-002"]).state == "waiting"
    assert [key for key, _ in keys(look())] == ["new:text-embedding-3-large"]


def test_two_looks_at_once_are_one(vendor: FakeOpenAI, at_once: Callable[..., list[Any]]) -> None:
    vendor.switch(latency_s=1.0)
    first, second = (begin_runs(slug="vendor", actor=actor)[0] for actor in ("one", "two"))
    outcomes = at_once(lambda: discovery_runs.run(first.id), lambda: discovery_runs.run(second.id))
    assert sorted(outcomes) == ["applied", "skipped"]
    assert EmbeddingModel.objects.count() == 3


KILLED_INSIDE = """
import os, signal, sys, django
django.setup()
from uuid import UUID
from catalog import discovered, discovery_runs, prices
from catalog.price_sources import Table
prices.sources = lambda: [Table()]
discovered.Price.objects.bulk_create = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)
discovery_runs.run(UUID(sys.argv[1]))
"""


@pytest.mark.slow
def test_a_worker_killed_while_it_writes_leaves_no_row(vendor: FakeOpenAI) -> None:
    [row] = begin_runs(slug="vendor", actor="a test")
    base, _, _ = os.environ["DATABASE_URL"].rpartition("/")
    environment = os.environ | {"DATABASE_URL": f"{base}/{connection.settings_dict['NAME']}"}
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_INSIDE, str(row.id)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -9, killed.stderr.decode()
    assert DiscoveryRun.objects.get().state == "running"
    tables = (EmbeddingModel, VectorSpace, Price, ModelEvent)
    assert [each.objects.count() for each in tables] == [0, 0, 0, 0]
    assert discovery_runs.run(row.id) == "applied"  # the broker hands it out again
    assert EmbeddingModel.objects.count() == 3


def test_a_run_that_died_is_told_by_the_next(vendor: FakeOpenAI) -> None:
    [dead] = begin_runs(slug="vendor", actor="a test")
    DiscoveryRun.objects.filter(id=dead.id).update(state="running")
    assert look().state == "applied"
    dead.refresh_from_db()
    assert (dead.state, dead.detail) == ("failed", "The worker went away.")


def test_a_server_of_one_model_tells_of_itself(openai: FakeOpenAI, table: Any) -> None:
    openai.switch(info={"model_id": "BAAI/bge-m3", "max_input_length": 8192, "model_type": {"embedding": {}}})
    add_provider(slug="tei", kind="openai_compatible", base_url=openai.base_url, secret={"api_key": openai.key})
    run = look("tei")
    assert keys(run) == [("new:BAAI/bge-m3", "pending")]
    assert run.changes[0]["now"]["max_tokens"] == 8192


@pytest.mark.slow
def test_three_vendors_with_2000_models_cost_little(vendor: FakeOpenAI, table: Any) -> None:
    names = [f"embed-{index:04}" for index in range(2000)]
    width = {"output_vector_size": 256, "input_cost_per_token": 1e-8}
    table(
        {name: width | {"litellm_provider": "openai"} for name in names}
        | {f"gemini/{name}": width | {"litellm_provider": "gemini"} for name in names}
        | {f"amazon.{name}": width | {"litellm_provider": "bedrock"} for name in names}
    )
    with FakeGoogle() as google, FakeBedrock() as on_bedrock:
        add_provider(slug="google", kind="google", base_url=google.base_url, secret={"api_key": google.key})
        add_provider(
            slug="bedrock",
            kind="bedrock",
            base_url=on_bedrock.base_url,
            region=bedrock.REGION,
            secret=on_bedrock.secret,
        )
        vendor.switch(listed=[entry(name) for name in names])
        google.switch(
            listed=[{"name": f"models/{name}", "supportedGenerationMethods": ["embedContent"]} for name in names]
        )
        on_bedrock.switch(
            listed=[
                {"modelId": f"amazon.{name}", "modelArn": "arn:aws:x", "inputModalities": ["TEXT"]} for name in names
            ]
        )
        for _ in ("first", "second"):
            for row in begin_runs(actor="a test"):
                with CaptureQueriesContext(connection) as queries:
                    assert discovery_runs.run(row.id) in ("applied", "unchanged")
                assert len(queries) <= 20, "\n".join(each["sql"][:90] for each in queries)
    assert EmbeddingModel.objects.count() == Price.objects.count() == 6000
