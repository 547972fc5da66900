"""What the database itself must look like, read from its own catalogue."""

from __future__ import annotations

import pytest
from django.db import connection

pytestmark = pytest.mark.django_db
# Tables that are the platform's: one set of rows for all tenants. All others belong to tenants.
PLATFORM = {
    "billing_rolledup",
    "catalog_catalogversion",
    "catalog_discoveryrun",
    "catalog_embeddingmodel",
    "catalog_modelcheck",
    "catalog_modelevent",
    "catalog_price",
    "catalog_priceproposal",
    "catalog_provider",
    "catalog_providercredential",
    "catalog_spacereference",
    "catalog_vectorspace",
    "tenants_tenant",
    "tenants_user",
    "tenants_user_groups",
    "tenants_user_user_permissions",
}
OURS = ("catalog_", "tenants_", "billing_", "embeddings_", "alerts_", "audit_")


def read(query: str) -> list[tuple[str, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchall()


def ours() -> set[str]:
    rows = read(
        "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE n.nspname = 'public' AND c.relkind IN ('r', 'p') AND NOT c.relispartition"
    )
    return {name for (name,) in rows if name.startswith(OURS)}


def test_every_table_of_tenants_has_a_tenant() -> None:
    query = "SELECT table_name, is_nullable FROM information_schema.columns WHERE column_name = 'tenant_id'"
    nullable: dict[str, str] = dict(read(query))  # type: ignore[arg-type]
    assert ours() - PLATFORM <= nullable.keys()
    # What belongs to no tenant is the platform's: its keys, what its operators are told and how. Nothing else may be.
    platforms_too = {"tenants_apikey", "alerts_alert", "alerts_alertchannel", "alerts_delivery", "audit_auditevent"}
    assert {name for name in ours() - PLATFORM if nullable[name] == "YES"} == platforms_too


def test_the_list_of_platform_tables_holds_none_that_is_gone() -> None:
    assert ours() >= PLATFORM


def test_every_table_of_tenants_has_an_index_that_starts_with_the_tenant() -> None:
    rows = read(
        "SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid "
        "JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[0] WHERE a.attname = 'tenant_id'"
    )
    assert ours() - PLATFORM <= {name for (name,) in rows}


def test_money_is_numeric_and_times_have_zones() -> None:
    columns = read(
        "SELECT table_name || '.' || column_name, data_type FROM information_schema.columns "
        "WHERE table_schema = 'public' AND (column_name LIKE '%cost%' OR column_name LIKE '%usd%' "
        "OR column_name = 'amount' OR data_type LIKE 'timestamp%')"
    )
    kinds = {name: kind for name, kind in columns if name.startswith(OURS)}
    assert set(kinds.values()) == {"numeric", "timestamp with time zone"}


def test_the_ledger_is_partitioned_by_month() -> None:
    rows = read("SELECT partrelid::regclass::text, partstrat::text FROM pg_partitioned_table ORDER BY 1")
    assert rows == [("billing_providercall", "r"), ("billing_usagerow", "r")]


@pytest.mark.parametrize(
    ("table", "constraint"),
    [
        ("tenants_tenantmodel", "tenant_model_one_default"),
        ("tenants_tenantmodel", "tenant_model_once"),
        ("tenants_tenantmodel", "tenant_model_default_is_enabled"),
        ("tenants_agent", "agent_once"),
        ("tenants_apikey", "key_operator_has_no_tenant"),
        ("catalog_embeddingmodel", "model_name_once_per_provider"),
        ("catalog_embeddingmodel", "model_state_known"),
        ("catalog_embeddingmodel", "model_unavailable_has_cause"),
        ("catalog_price", "price_not_negative"),
        ("catalog_priceproposal", "proposal_one_pending"),
        ("audit_auditevent", "audit_actor_known"),
        ("alerts_alert", "alert_once"),
        ("alerts_delivery", "delivery_once"),
        ("billing_hourlyusage", "hourly_usage_once"),
        ("billing_limit", "limit_once"),
        ("billing_idempotencyclaim", "idempotency_key_once"),
        ("billing_idempotencyclaim", "idempotency_answer_whole"),
        ("billing_usagerow", "usage_adjustment_named"),
        ("billing_usagerow", "usage_charged_within_hold"),
    ],
)
def test_the_database_holds_what_it_can_hold(table: str, constraint: str) -> None:
    rows = read(
        f"SELECT conname FROM pg_constraint WHERE conrelid = '{table}'::regclass "
        f"UNION SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = '{table}'::regclass"
    )
    assert (constraint,) in rows
