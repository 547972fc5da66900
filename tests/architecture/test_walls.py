"""The second wall as PostgreSQL's own catalogue shows it: every table of tenants is behind it."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from django.db import connection

from billing import ledger
from config.walls import ACROSS_TENANTS, SHARED, build
from tenants.walls import act_for, are_up, roles_of
from tests.architecture.test_tables import PLATFORM, ours, read
from tests.conftest import owners_cursor

pytestmark = pytest.mark.django_db
# Unique without the tenant: what is random tells nobody what others have, and an alert is of one tenant.
UNIQUE_BY_CHANCE = {
    "tenants_apikey": {("prefix",), ("digest",)},
    "tenants_invitation": {("digest",)},
    "alerts_delivery": {("alert_id", "channel_id")},
    "billing_counter": {("limit_id", "period_start")},
    "billing_grant": {("limit_id", "period_start", "pool_id")},
}
WITH_TENANT = """
    SELECT c.oid, c.relname, c.relispartition, c.relrowsecurity, c.relforcerowsecurity, c.relowner FROM pg_class c
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')"""


def of_tenant(sql: str) -> str:
    return sql.replace("{tenant}", roles_of(connection.settings_dict["NAME"]).tenant)


def walled() -> set[str]:
    """Tables whose tenant sees and writes its own rows alone."""
    rows = read(
        of_tenant(
            f"""SELECT t.relname FROM ({WITH_TENANT}) t JOIN pg_policy p ON p.polrelid = t.oid
            WHERE t.relrowsecurity AND t.relforcerowsecurity AND p.polpermissive AND p.polcmd = '*'
            AND p.polroles = ARRAY['{{tenant}}'::regrole::oid]
            AND pg_get_expr(p.polqual, p.polrelid) LIKE '(tenant_id = %current_setting(''app.tenant''%'
            AND pg_get_expr(p.polwithcheck, p.polrelid) = pg_get_expr(p.polqual, p.polrelid)"""
        )
    )
    return {name for (name,) in rows}


def test_every_table_with_a_tenant_has_forced_row_security_and_a_policy_with_check() -> None:
    tables = {name for _, name, is_partition, *_ in read(WITH_TENANT) if not is_partition}
    assert tables >= ours() - PLATFORM
    assert walled() == tables


def test_nobody_but_the_owner_has_a_grant_on_a_partition() -> None:
    partitions = f"SELECT * FROM ({WITH_TENANT}) t WHERE t.relispartition"
    assert len(read(partitions)) >= 2
    assert not read(
        f"SELECT t.relname, g.grantee FROM ({partitions}) t JOIN pg_class c ON c.oid = t.oid, "
        "aclexplode(c.relacl) g WHERE g.grantee <> t.relowner"
    )


def test_no_policy_lets_the_tenants_role_past() -> None:
    rows = read(
        of_tenant(
            "SELECT polrelid::regclass::text, pg_get_expr(polqual, polrelid) FROM pg_policy "
            "WHERE '{tenant}'::regrole::oid = ANY (polroles) OR 0 = ANY (polroles)"
        )
    )
    assert {table for table, rule in rows if rule == "true"} == {"catalog_embeddingmodel"}


def test_what_a_tenant_may_touch_without_a_tenant_column_is_written_down() -> None:
    rows = read(
        of_tenant(
            "SELECT c.relname FROM pg_class c, aclexplode(c.relacl) g WHERE g.grantee = '{tenant}'::regrole "
            "AND c.relnamespace = 'public'::regnamespace"
        )
    )
    with_tenant = {name for _, name, *_ in read(WITH_TENANT)}
    assert {name for (name,) in rows} - with_tenant == SHARED.keys()
    assert SHARED.keys().isdisjoint({"catalog_providercredential", "django_session"})


def test_the_roles_can_do_nothing_beyond_their_tables() -> None:
    names = roles_of(connection.settings_dict["NAME"])
    rows = read(
        "SELECT rolname, rolcanlogin, rolinherit AND rolcanlogin, rolsuper OR rolbypassrls OR rolcreaterole OR "
        f"rolcreatedb OR rolreplication FROM pg_roles WHERE rolname IN ('{names.platform}', '{names.tenant}')"
    )
    assert sorted(rows) == [(names.platform, True, False, False), (names.tenant, False, False, False)]
    assert are_up()


def test_what_happened_is_only_added_to() -> None:
    names = roles_of(connection.settings_dict["NAME"])
    rows = read(
        "SELECT DISTINCT g.privilege_type FROM pg_class c, aclexplode(c.relacl) g WHERE c.relname LIKE 'audit%' "
        f"AND g.grantee IN ('{names.platform}'::regrole, '{names.tenant}'::regrole)"
    )
    assert {right for (right,) in rows} == {"SELECT", "INSERT"}


def test_a_row_points_at_rows_of_its_own_tenant() -> None:
    single = read(
        f"""SELECT k.conrelid::regclass::text, a.attname, t.relname FROM pg_constraint k
        JOIN ({WITH_TENANT}) s ON s.oid = k.conrelid JOIN ({WITH_TENANT}) t ON t.oid = k.confrelid
        JOIN pg_attribute a ON a.attrelid = s.oid AND a.attnum = k.conkey[1]
        WHERE k.contype = 'f' AND cardinality(k.conkey) = 1"""
    )
    composite = read(
        """SELECT k.conrelid::regclass::text, b.attname, k.confrelid::regclass::text FROM pg_constraint k
        JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = k.conkey[1] AND a.attname = 'tenant_id'
        JOIN pg_attribute b ON b.attrelid = k.conrelid AND b.attnum = k.conkey[2]
        WHERE k.contype = 'f' AND cardinality(k.conkey) = 2"""
    )
    assert {each for each in single if each[:2] not in ACROSS_TENANTS} == set(composite)


def test_unique_constraints_lead_with_the_tenant() -> None:
    rows = read(
        f"""SELECT t.relname, ARRAY(SELECT coalesce(a.attname, '?') FROM unnest(i.indkey) WITH ORDINALITY k (n, place)
            LEFT JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = k.n ORDER BY k.place)::text[]
        FROM ({WITH_TENANT}) t JOIN pg_index i ON i.indrelid = t.oid
        WHERE i.indisunique AND NOT t.relispartition AND NOT i.indisprimary"""
    )
    led = {(name, tuple(columns)) for name, columns in rows if columns[0] != "tenant_id"}  # type: ignore[arg-type]
    allowed = {(name, each) for name, columns in UNIQUE_BY_CHANCE.items() for each in columns}
    assert led <= allowed


def test_a_view_shows_what_its_reader_may_see() -> None:
    assert not read(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND (relkind = 'm' OR relkind = 'v' "
        "AND NOT 'security_invoker=true' = ANY (coalesce(reloptions, '{}')))"
    )


def test_building_again_changes_nothing() -> None:
    with owners_cursor() as cursor:
        cursor.execute("CREATE TABLE tenants_thing (id uuid PRIMARY KEY, tenant_id uuid NOT NULL)")
        build()
        assert "tenants_thing" in walled()
    statements: list[str] = []

    def watch(execute: object, sql: str, *rest: object) -> object:
        statements.append(sql.split()[0])
        return execute(sql, *rest)  # type: ignore[operator]

    with owners_cursor(), connection.execute_wrapper(watch):
        build()
    assert set(statements) <= {"SELECT", "SAVEPOINT", "RELEASE"}


def test_the_platform_pays_nothing_for_the_policies() -> None:
    """`true` is folded away: the ledger's insert and the reads of it are planned as if there were none."""
    asked = {
        ledger._statement(claims=False): ["[]", "[]"],
        "SELECT * FROM billing_usagerow WHERE tenant_id = %s ORDER BY created_at DESC, id DESC LIMIT 50": [uuid4()],
    }
    walled = {sql: plan(sql, words) for sql, words in asked.items()}
    with owners_cursor() as cursor:
        for table in ("billing_usagerow", "billing_providercall"):
            cursor.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY")
    assert {sql: plan(sql, words) for sql, words in asked.items()} == walled


def test_a_tenants_list_is_read_from_the_index_that_starts_with_the_tenant() -> None:
    tenant_id = uuid4()
    act_for(tenant_id)
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute("SET LOCAL enable_sort = off")  # of an empty table all indexes cost alike
    shown = plan("SELECT * FROM tenants_apikey WHERE tenant_id = %s ORDER BY created_at DESC, id DESC", [tenant_id])
    assert "Index" in shown
    assert "Sort" not in shown


def plan(sql: str, words: Any) -> str:
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (COSTS OFF) {sql}", words)
        return "\n".join(line for (line,) in cursor.fetchall())
