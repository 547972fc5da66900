"""What the data plane asks of PostgreSQL stays as fast as it is, however much was used: with a million usage rows over
twelve months, none of its statements looks at the usage table; one of them adds to it."""

from __future__ import annotations

import ast
import inspect
import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from types import ModuleType
from typing import Any
from uuid import UUID

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from billing import forgetting, granting, idempotency, ledger, reconciling
from billing.loading import load_limits
from billing.partitions import make_partitions
from billing.services import add_limit, configure_model
from catalog.loading import catalog_version, load_catalog
from core.ids import uuid7
from tenants.loading import find_key, load_tenant, tenant_versions
from tests.conftest import Party, owners_cursor

pytestmark = [pytest.mark.slow, pytest.mark.django_db]
FIRST = date(2030, 1, 1)
ROWS = 1_000_000
# 200 tenants; the ids begin with the time, as UUIDv7 do.
FILL = f"""
INSERT INTO billing_usagerow (id, created_at, tenant_id, model_id, agent_id, items, tokens, held_tokens, cost_usd, pool)
SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7000' || lpad(to_hex(n), 16, '8'))::uuid, at,
    lpad(to_hex(n % 200), 32, '0')::uuid, lpad('7', 32, '0')::uuid, 'agent', 1, 8, 8, 0.00000016, n % 50
FROM (SELECT n, '2030-01-01Z'::timestamptz + n * interval '364 days' / {ROWS} AS at
    FROM generate_series(0, {ROWS - 1}) AS n) AS rows
"""
STATEMENT = re.compile(r"\s*(WITH|INSERT|UPDATE|DELETE|SELECT)\b")
PLACEHOLDER = re.compile(r"%\((\w+)\)s|%s")


@pytest.fixture
def full_year(acme: Party) -> None:
    """A million rows over twelve partitions."""
    make_partitions(today=FIRST, ahead=11)
    with connection.cursor() as cursor:
        cursor.execute(FILL)
    with owners_cursor() as cursor:
        cursor.execute("ANALYZE billing_usagerow")


def statements_of(module: ModuleType) -> Iterator[str]:
    """All SQL that is written in a module."""
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and STATEMENT.match(node.value):
            yield node.value


def statements_run_by(read: Callable[[], object]) -> list[str]:
    with CaptureQueriesContext(connection) as found:
        read()
    return [each["sql"] for each in found if STATEMENT.match(each["sql"])]


def plan_of(statement: str) -> Mapping[str, Any]:
    """The generic plan, whatever the parameters are."""
    numbers: dict[str, int] = {}
    fresh = itertools.count()
    text = PLACEHOLDER.sub(
        lambda match: f"${numbers.setdefault(match[1] or f' {next(fresh)}', len(numbers) + 1)}", statement
    )
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (GENERIC_PLAN, FORMAT JSON) {text}")
        found: Mapping[str, Any] = cursor.fetchone()[0][0]["Plan"]
        return found


def nodes(plan: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield plan
    for each in plan.get("Plans", ()):
        yield from nodes(each)


def touched(statement: str) -> set[tuple[str, str]]:
    """What a statement does with the usage table or its partitions."""
    return {
        (node.get("Operation", node["Node Type"]), node["Relation Name"])
        for node in nodes(plan_of(statement))
        if node.get("Relation Name", "").startswith("billing_usagerow")
    }


def test_statements_keep_off_the_usage_table_or_find_by_index(full_year: None, acme: Party, add_model: Any) -> None:
    """One test, because the million rows take a while."""
    check_data_plane(acme, add_model)
    check_reconciling()
    check_forgetting()


def check_data_plane(acme: Party, add_model: Any) -> None:
    """None of its statements looks at the usage table; the ledger's add to it."""
    model = add_model()
    configure_model(tenant_id=acme.id, model_id=model.id, limits={"daily_token_limit": 10})
    add_limit(tenant_id=acme.id, scope="tenant", scope_id="", measure="usd", period="month", amount=10)
    read = [
        *statements_run_by(lambda: find_key(b"digest")),
        *statements_run_by(lambda: load_tenant(acme.id)),
        *statements_run_by(lambda: load_limits(acme.id)),
        *statements_run_by(load_catalog),
        *statements_run_by(lambda: (catalog_version(), tenant_versions([acme.id]))),
    ]
    written = [*statements_of(granting), *statements_of(idempotency)]
    assert len(read) >= 8
    assert len(written) >= 13
    assert [each for each in (*read, *written) if touched(each)] == []
    for claims in (False, True):
        assert touched(ledger._statement(claims=claims)) == {("Insert", "billing_usagerow")}


def check_reconciling() -> None:
    """What became of a hold is found by the index of its month's partition."""
    moment = datetime(2030, 7, 9, 12, tzinfo=UTC)
    ids = [uuid7(int((moment + timedelta(seconds=n)).timestamp() * 1000)) for n in range(50)]
    words = {"tenant": UUID(int=7), "ids": ids, "first": moment, "last": moment + timedelta(seconds=50)}
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (FORMAT JSON) {reconciling._CHARGES}", words)
        found = [node for node in nodes(cursor.fetchone()[0][0]["Plan"]) if "Relation Name" in node]
    assert [node["Relation Name"] for node in found] == ["billing_usagerow_2030_07"]
    assert all("Index" in node["Node Type"] or "Bitmap" in node["Node Type"] for node in found)
    assert touched(reconciling._CLAIM) == {("Insert", "billing_usagerow")}


def check_forgetting() -> None:
    """Requests that are no longer kept are found by the index of one month, and their calls by theirs."""
    tenant, moment = UUID(int=7), datetime(2030, 7, 9, 12, tzinfo=UTC)
    words = {"tenant": tenant, "since": moment, "until": moment + timedelta(days=20), "most": 5_000}
    calls = {"calls_since": moment - timedelta(days=1), "calls_until": moment + timedelta(days=21)}
    oldest = scans(forgetting._OLDEST, {"tenant": tenant, "until": moment})
    found = scans(forgetting._FORGET, words | calls)
    assert {kind for kind, _ in oldest} <= {"Index Scan", "Index Only Scan"}
    assert {name for _, name in found if name.startswith("billing_usagerow_")} == {"billing_usagerow_2030_07"}
    assert {kind for kind, _ in found} <= {"Tid Scan", "Index Scan", "Bitmap Heap Scan"}


def scans(statement: str, words: Mapping[str, Any]) -> set[tuple[str, str]]:
    """How a statement finds the rows of which relation."""
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (FORMAT JSON) {statement}", words)
        found = [node for node in nodes(cursor.fetchone()[0][0]["Plan"]) if "Relation Name" in node]
    return {(node["Node Type"], node["Relation Name"]) for node in found if node["Node Type"] != "ModifyTable"}
