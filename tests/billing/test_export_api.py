"""`/api/v1/usage/export.csv`: a tenant's requests as a file, however many they are."""

from __future__ import annotations

import asyncio
import csv
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from billing.models import UsageRow
from billing.partitions import make_partitions
from core.clock import utc_now
from core.ids import uuid7_time
from tests.billing.test_usage_api import RECORDS, use
from tests.conftest import Party, make_party

EXPORT = "/api/v1/usage/export.csv"
pytestmark = pytest.mark.django_db(transaction=True)  # a stream reads on a connection of its own


@pytest.fixture
def acme() -> Party:
    make_partitions(today=utc_now().date() - timedelta(days=40), ahead=2)
    return make_party("acme")


def exported(party: Party, **query: str) -> list[dict[str, str]]:
    answer = party.api.get(EXPORT, query)
    assert answer.status_code == 200, answer.content

    async def read() -> str:
        return b"".join([part async for part in answer.streaming_content]).decode()

    return list(csv.DictReader(asyncio.run(read()).splitlines()))


def test_a_file_holds_what_the_records_show(acme: Party) -> None:
    request_id = use(acme, cost_usd=Decimal("0.00000016"), latency_ms=12.5, agent_id="crawler", estimated=True)
    (row,) = exported(acme)
    (record,) = acme.api.get(RECORDS).json()["results"]
    assert row.keys() == record.keys()
    assert (row["request_id"], row["cost_usd"], row["tokens"]) == (str(request_id), "0.000000160", "8")
    assert row["created_at"] == uuid7_time(request_id).isoformat().replace("+00:00", "Z")
    assert (row["estimated"], row["key_id"], row["latency_ms"]) == ("true", "", "12.5")


def test_a_file_of_many_pages_holds_each_row_once_the_oldest_first(
    acme: Party, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("billing.export._ROWS_PER_PAGE", 7)
    moment = utc_now() - timedelta(seconds=30)
    made = {str(use(acme, moment + timedelta(milliseconds=number // 5))) for number in range(35)}
    found = [row["request_id"] for row in exported(acme, **{"from": (moment - timedelta(days=1)).isoformat()})]
    assert (len(found), set(found)) == (35, made)
    assert found == sorted(found)


def test_an_empty_file_names_its_columns(acme: Party) -> None:
    assert exported(acme) == []
    answer = acme.api.get(EXPORT)
    assert (answer["Content-Type"], answer["Cache-Control"]) == ("text/csv; charset=utf-8", "private, no-store")
    assert answer["Content-Disposition"].startswith('attachment; filename="usage-')


def test_a_file_is_of_this_month_or_of_what_is_asked(acme: Party) -> None:
    earlier = utc_now().replace(day=1) - timedelta(days=2)
    use(acme, earlier, model="old")
    use(acme, model="new", status="quota_exceeded")
    assert [row["model"] for row in exported(acme)] == ["new"]
    since = (earlier - timedelta(days=1)).isoformat()
    assert [row["model"] for row in exported(acme, **{"from": since})] == ["old", "new"]
    assert [row["model"] for row in exported(acme, **{"from": since, "status": "ok"})] == ["old"]


def test_no_cell_is_a_formula(acme: Party) -> None:
    use(acme, agent_id="=HYPERLINK(1)", task_type="-1+1", cost_usd=Decimal(-1))
    (row,) = exported(acme)
    assert (row["agent_id"], row["task_type"], row["cost_usd"]) == ("'=HYPERLINK(1)", "'-1+1", "-1.000000000")


def test_a_program_that_accepts_csv_alone_is_answered(acme: Party) -> None:
    assert acme.api.get(EXPORT, HTTP_ACCEPT="text/csv").status_code == 200
    refused = acme.api.get(f"{EXPORT}?form=2030-01-01T00:00:00Z", HTTP_ACCEPT="text/csv")
    assert (refused.status_code, refused["Content-Type"]) == (400, "application/problem+json")
    assert refused.json()["errors"].keys() == {"form"}


def test_mallory_exports_nothing_of_acmes(acme: Party) -> None:
    mallory = make_party("mallory")
    request_id = use(acme)
    use(mallory, model="hers")
    assert [row["model"] for row in exported(mallory)] == ["hers"]
    assert exported(mallory, request_id=str(request_id)) == []
    assert exported(mallory, request_id="258b5847-03aa-5f4a-b153-99d6cd41de83") == []  # no id of ours


def test_the_database_itself_keeps_others_rows_out_of_a_stream(acme: Party, monkeypatch: pytest.MonkeyPatch) -> None:
    use(acme)
    use(make_party("mallory"), model="hers")
    monkeypatch.setattr("billing.selectors.usage_rows", lambda tenant_id: UsageRow.objects.all())
    assert [row["model"] for row in exported(acme)] == ["small"]


def test_an_export_needs_its_scope(acme: Party, mint: Any, as_key: Any) -> None:
    assert as_key(mint(acme.id, "usage:read")).get(EXPORT).status_code == 200
    assert as_key(mint(acme.id, "models:read")).get(EXPORT).status_code == 403
