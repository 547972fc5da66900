"""Lists cost as many queries for fifty rows as for one, and few; of many tenants and keys, pages come from an index."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from alerts.models import Alert, AlertChannel
from billing.models import Limit
from billing.partitions import make_partitions
from core.clock import utc_now
from tenants.models import Agent, TenantModel
from tests.billing.test_usage_api import use
from tests.conftest import Party, owners_cursor

pytestmark = [pytest.mark.slow, pytest.mark.django_db]
MOST = 15
V1 = "/api/v1"
LARGE = {"tenants_tenant", "tenants_apikey", "tenants_membership", "billing_limit"}


@pytest.fixture
def fill(acme: Party, add_model: Callable[..., Any]) -> Callable[[range], None]:
    """Gives acme rows of each kind, one for each number."""
    make_partitions(today=utc_now().date(), ahead=0)

    def filled(numbers: range) -> None:
        for number in numbers:
            model = add_model(f"model-{number}", provider=f"vendor-{number}")
            row = TenantModel.objects.create(tenant_id=acme.id, model=model, is_default=number == 0)
            Agent.objects.create(tenant_id=acme.id, agent_id=f"agent-{number}")
            use(acme, model=f"model-{number}", agent_id=f"agent-{number}", model_id=model.id, key_id=acme.key_id)
            limit = {"tenant_id": acme.id, "period": "month", "amount": 10}
            Limit.objects.create(scope="model", scope_id=str(row.id), measure="tokens", **limit)
            Limit.objects.create(scope="agent", scope_id=f"agent-{number}", measure="usd", **limit)
            AlertChannel.objects.create(tenant_id=acme.id, name=f"channel-{number}", targets=["a@example.com"])
            Alert.objects.create(
                tenant_id=acme.id,
                kind="quota_warning",
                severity="warning",
                title="t",
                subject_key=str(number),
                created_at=utc_now(),
            )

    return filled


# Where fifty rows are looked for → by which name.
LISTS = {
    "/tenant-models?limit=200": "results",
    "/tenant-models/quotas": "models",
    "/tenant-models/usage?period=month": "by_model",
    "/limits?limit=200": "results",
    "/budgets?limit=200": "results",
    "/agents?limit=200": "results",
    "/agents/agent-0/models": "candidates",
    "/usage?group_by=model": "results",
    "/usage?group_by=agent": "results",
    "/usage/records?limit=200": "results",
    "/alerts?limit=200": "results",
    "/alert-channels?limit=200": "results",
}


def test_lists_cost_as_many_queries_for_fifty_rows_as_for_one(acme: Party, fill: Callable[[range], None]) -> None:
    fill(range(1))
    once = {path: cost(acme, path, name) for path, name in LISTS.items()}
    fill(range(1, 50))
    many = {path: cost(acme, path, name) for path, name in LISTS.items()}
    assert {path: queries for path, (queries, _) in many.items()} == {path: each for path, (each, _) in once.items()}
    assert {path: queries for path, (queries, _) in many.items() if queries > MOST} == {}
    assert min(rows for _, rows in many.values()) >= 50
    assert all(rows <= 2 for _, rows in once.values())


def cost(party: Party, path: str, name: str) -> tuple[int, int]:
    """How many queries a list takes, and how many rows it has."""
    with CaptureQueriesContext(connection) as queries:
        answer = party.api.get(V1 + path)
    assert answer.status_code == 200, answer.json()
    return len(spoken(queries)), len(answer.json()[name])


def spoken(queries: CaptureQueriesContext) -> list[str]:
    """All of them, but what a test does so that a request's role ends with the request."""
    return [each["sql"] for each in queries if "set_config('app.tenant', ''" not in each["sql"]]


# 10,000 tenants with ten keys, five limits and two members each.
FILL = """
INSERT INTO tenants_tenant (id, name, slug, tier, is_suspended, settings, version, created_at, updated_at)
SELECT md5('t' || n)::uuid, 'T', 't' || n, 'standard', false, '{}', 1, now(), now() FROM generate_series(1, 10000) n;
INSERT INTO tenants_user (password, is_superuser, email, name, is_active, created_at)
SELECT '', false, 'u' || n || '@example.com', '', true, now() FROM generate_series(1, 2000) n;
INSERT INTO tenants_membership (tenant_id, user_id, role, created_at)
SELECT t.id, u.id, 'viewer', now() FROM (SELECT id, row_number() OVER () AS n FROM tenants_tenant) t
JOIN (SELECT id, row_number() OVER () AS n FROM tenants_user) u ON u.n % 2000 IN (t.n % 2000, (t.n + 1) % 2000);
INSERT INTO billing_limit (id, tenant_id, scope, scope_id, measure, period, amount, mode, thresholds, origin,
    created_at, updated_at)
SELECT gen_random_uuid(), t.id, 'agent', 'a' || n, 'tokens', 'day', 1, 'hard', '[]', 'tenant', now(), now()
FROM tenants_tenant t CROSS JOIN generate_series(1, 5) n;
"""
KEYS = """
INSERT INTO tenants_apikey ({columns})
SELECT {values} FROM (SELECT * FROM tenants_apikey WHERE id = %s) k CROSS JOIN tenants_tenant t
CROSS JOIN generate_series(1, 10) n
"""
PAGES = ("/tenants", "/api-keys", "/limits", "/budgets", "/limits?scope=agent")


def test_pages_come_from_an_index_however_many_tenants_there_are(acme: Party, operator: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute(FILL)
        cursor.execute("SELECT column_name FROM information_schema.columns WHERE table_name = 'tenants_apikey'")
        own = {"id": "gen_random_uuid()", "tenant_id": "t.id", "prefix": "md5(t.slug || n)"}
        own["digest"] = "sha256((t.slug || n)::bytea)"
        columns = {name: own.get(name, f"k.{name}") for (name,) in cursor.fetchall()}
        statement = KEYS.format(columns=", ".join(columns), values=", ".join(columns.values()))
        cursor.execute(statement, [acme.key_id])
        assert cursor.rowcount >= 100_000
    with owners_cursor() as cursor:
        cursor.execute("ANALYZE")  # of what it does not own a role passes over
    for path in PAGES:
        party = operator if path == "/tenants" else acme.api
        with CaptureQueriesContext(connection) as queries:
            assert party.get(V1 + path).status_code == 200
        read = [each["sql"] for each in queries if each["sql"].startswith("SELECT")]
        assert {name for sql in read for name in scanned(sql)} == set(), path


def scanned(sql: str) -> list[str]:
    """The large tables that a query reads from one end to the other."""
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (FORMAT JSON) {sql}")
        plan = json.dumps(cursor.fetchone()[0][0])
    found = re.findall(r'"Node Type": "Seq Scan".*?"Relation Name": "(\w+)"', plan)
    return [name for name in found if name in LARGE]
