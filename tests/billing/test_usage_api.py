"""`/api/v1/usage/records`: what was charged, request by request, and to nobody else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from billing.models import ProviderCall, UsageRow
from billing.partitions import make_partitions
from core.clock import utc_now
from core.ids import uuid7, uuid7_time
from tests.conftest import Party

RECORDS = "/api/v1/usage/records"
FIELDS = {
    "request_id",
    "created_at",
    "model",
    "provider",
    "space",
    "tokens",
    "cost_usd",
    "cached",
    "source",
    "status",
    "latency_ms",
    "provider_latency_ms",
    "attempts",
}


@pytest.fixture(autouse=True)
def partitions(db: None) -> None:
    make_partitions(today=utc_now().date() - timedelta(days=40), ahead=2)


def use(party: Party, at: datetime | None = None, **facts: Any) -> UUID:
    """A usage row; returns the request's id."""
    request_id = uuid7(int((at or utc_now()).timestamp() * 1000))
    plain = {"model": "small", "provider": "vendor", "space": "s", "tokens": 8, "held_tokens": 10, "attempts": 1}
    UsageRow.objects.create(id=request_id, created_at=uuid7_time(request_id), tenant_id=party.id, **(plain | facts))
    return request_id


def test_a_record_tells_what_was_charged(acme: Party) -> None:
    request_id = use(acme, cost_usd=Decimal("0.00000016"), latency_ms=12.5, cached=1)
    (row,) = acme.api.get(RECORDS).json()["results"]
    assert row.keys() >= FIELDS
    assert row["request_id"] == str(request_id)
    assert (row["cost_usd"], row["tokens"], row["cached"]) == ("0.000000160", 8, 1)
    assert row["created_at"] == uuid7_time(request_id).isoformat().replace("+00:00", "Z")


def test_a_record_is_found_by_its_id_with_its_calls(acme: Party) -> None:
    request_id = use(acme)
    for outcome in ("timeout", "ok"):
        call_id = uuid7()
        ProviderCall.objects.create(
            id=call_id,
            created_at=uuid7_time(call_id),
            tenant_id=acme.id,
            request_id=request_id,
            model_id=uuid4(),
            model="small",
            provider="vendor",
            items=1,
            outcome=outcome,
            latency_ms=3,
        )
    record = acme.api.get(f"{RECORDS}/{request_id}").json()
    assert sorted(each["outcome"] for each in record["provider_calls"]) == ["ok", "timeout"]
    assert acme.api.get(f"{RECORDS}?request_id={request_id}").json()["results"][0]["request_id"] == str(request_id)


@pytest.mark.parametrize("known", [uuid4(), uuid7(), UUID("ffffffff-ffff-7fff-bfff-ffffffffffff")], ids=["4", "7", "f"])
def test_an_id_that_nobody_made_is_404(known: UUID, acme: Party) -> None:
    assert acme.api.get(f"{RECORDS}/{known}").status_code == 404
    assert acme.api.get(f"{RECORDS}?request_id={known}").json()["results"] == []


def test_looking_up_one_request_reads_one_month(acme: Party) -> None:
    request_id = use(acme)
    with CaptureQueriesContext(connection) as queries:
        acme.api.get(f"{RECORDS}/{request_id}")
    (query,) = [each["sql"] for each in queries if 'FROM "billing_usagerow"' in each["sql"]]
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN {query}")
        plan = "\n".join(line for (line,) in cursor.fetchall())
    assert f"billing_usagerow_{utc_now():%Y_%m}" in plan
    assert plan.count("billing_usagerow_") - plan.count("billing_usagerow_default") <= 2  # the table and its index
    assert "billing_usagerow_default" not in plan


def test_records_are_filtered(acme: Party) -> None:
    yesterday = utc_now() - timedelta(days=1)
    use(acme, yesterday, model="large", agent_id="crawler")
    use(acme, model="small")

    def models(**query: str) -> list[str]:
        answer = acme.api.get(RECORDS, query)
        assert answer.status_code == 200, answer.json()
        return [each["model"] for each in answer.json()["results"]]

    between = (utc_now() - timedelta(hours=1)).isoformat()
    assert models() == ["small", "large"]
    assert models(model="large") == ["large"]
    assert models(agent_id="crawler") == ["large"]
    assert models(**{"from": between}) == ["small"]
    assert models(to=between) == ["large"]
    assert models(to=yesterday.strftime("%Y-%m-%dT00:00:00Z")) == []


@pytest.mark.parametrize("query", ["from=yesterday", "to=x", "request_id=7", "modle=small", "limit=0", "cursor=x"])
def test_a_query_that_cannot_be_meant_is_400(query: str, acme: Party) -> None:
    answer = acme.api.get(f"{RECORDS}?{query}")
    assert (answer.status_code, list(answer.json()["errors"])) == (400, [query.partition("=")[0]])


def test_pages_hold_all_rows_once_while_more_arrive(acme: Party) -> None:
    moment = datetime.now(UTC) - timedelta(minutes=5)
    made = {str(use(acme, moment + timedelta(milliseconds=index // 3))) for index in range(30)}
    seen: list[str] = []
    url: str | None = f"{RECORDS}?limit=7"
    while url:
        page = acme.api.get(url).json()
        seen += [each["request_id"] for each in page["results"]]
        url = page["next"]
        use(acme)  # newer than all: comes before what was read already
    assert (len(seen), set(seen)) == (30, made)


def test_mallory_sees_nothing_of_acmes(acme: Party, mallory: Party) -> None:
    request_id = use(acme)
    use(mallory, model="hers")
    assert [each["model"] for each in mallory.api.get(RECORDS).json()["results"]] == ["hers"]
    assert mallory.api.get(f"{RECORDS}/{request_id}").status_code == 404
    assert mallory.api.get(f"{RECORDS}?request_id={request_id}").json()["results"] == []


def test_reading_needs_its_scope_and_a_tenant(acme: Party, operator: Any, mint: Any, as_key: Any) -> None:
    assert as_key(mint(acme.id, "usage:read")).get(RECORDS).status_code == 200
    assert as_key(mint(acme.id, "embeddings", "models:read")).get(RECORDS).status_code == 403
    assert "mint a key" in operator.get(RECORDS).json()["detail"]
    assert acme.api.post(RECORDS, {}).status_code == 405


def test_the_list_costs_as_many_queries_for_fifty_as_for_one(acme: Party) -> None:
    def cost() -> int:
        with CaptureQueriesContext(connection) as queries:
            assert acme.api.get(RECORDS).status_code == 200
        return len(queries)

    use(acme)
    once = cost()
    for _ in range(49):
        use(acme)
    assert cost() == once
