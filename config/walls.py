"""Builds the second wall after each migration: the roles, what each may do with which table, the row policies.

Walks what is there, so a new table with a `tenant_id` is walled in by having that column. Changes only what is not so
yet, in one transaction, as the owner of the tables; whoever does not own them changes nothing. Which role a request
runs under is `tenants.walls`.

Partitions get no grants: rows are reached through their parents, whose policies hold. That is why there are no default
privileges, which partitions would get as well.

Failure: a login that may make no roles leaves those out that are missing; the tables are walled in all the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from django.db import DEFAULT_DB_ALIAS, connections, transaction

from tenants.walls import SETTING, Roles, roles_of

_LOCK = 0x51554957
_OWN = f"tenant_id = nullif(current_setting('{SETTING}', true), '')::uuid"
ALL = frozenset({"SELECT", "INSERT", "UPDATE", "DELETE"})
READ = frozenset({"SELECT"})
APPEND = frozenset({"SELECT", "INSERT"})
NONE: frozenset[str] = frozenset()
# What a tenant may do with its own rows, where that is not everything.
OF_TENANTS: Mapping[str, frozenset[str]] = {
    "audit_auditevent": APPEND,
    "billing_hourlyusage": READ,
    "billing_idempotencyclaim": NONE,
    "billing_keptfrom": NONE,
    "billing_latehour": NONE,
    "billing_providercall": READ,
    "billing_usagerow": READ,
}
# Tables without a tenant. What is not named here no tenant touches: secrets of providers, sessions, the timetable.
SHARED: Mapping[str, frozenset[str]] = {
    "billing_rolledup": READ,
    "catalog_catalogversion": READ,
    "catalog_embeddingmodel": READ,
    "catalog_price": READ,
    "catalog_provider": READ,
    "catalog_vectorspace": READ,
    "django_admin_log": frozenset({"INSERT"}),
    "django_content_type": READ,
    "tenants_tenant": READ,
    "tenants_user": READ,
}
# Single columns: of its own tenant's row what a tenant decides itself, and the key that an INSERT gives back.
COLUMNS: Mapping[str, Mapping[str, frozenset[str]]] = {
    "tenants_tenant": {"UPDATE": frozenset({"name", "settings", "version", "updated_at"})},
    "django_admin_log": {"SELECT": frozenset({"id"})},
    # Holding a row while configuring it needs the right to update one of its columns; the policy refuses any change.
    "catalog_embeddingmodel": {"UPDATE": frozenset({"id"})},
}
OF_PLATFORM: Mapping[str, frozenset[str]] = {"audit_auditevent": APPEND, "django_migrations": READ}
# Of the people, a tenant sees its members and those whom its own rows name.
_PEOPLE = (
    "id IN (SELECT user_id FROM tenants_membership) OR id IN (SELECT created_by_id FROM tenants_apikey) "
    "OR id IN (SELECT invited_by_id FROM tenants_invitation) OR id IN (SELECT accepted_by_id FROM tenants_invitation)"
)


@dataclass(frozen=True, slots=True)
class Policy:
    """`using`: which rows are seen; `check`: which may be written."""

    command: str
    using: str
    check: str | None

    def clauses(self) -> str:
        return f"FOR {self.command} TO {{role}} USING ({self.using})" + (
            f" WITH CHECK ({self.check})" if self.check is not None else ""
        )


EVERYTHING = Policy("ALL", "true", "true")
OWN_ROWS = Policy("ALL", _OWN, _OWN)
# Of tables without a tenant column whose rows are not all for everybody.
SPECIAL: Mapping[str, tuple[Policy, ...]] = {
    "tenants_tenant": (Policy("ALL", _OWN.removeprefix("tenant_"), _OWN.removeprefix("tenant_")),),
    "tenants_user": (Policy("SELECT", _PEOPLE, None),),
    "catalog_embeddingmodel": (Policy("SELECT", "true", None), Policy("UPDATE", "true", "false")),
}


@dataclass(frozen=True, slots=True)
class Table:
    """What the database's catalogue says of a relation."""

    name: str
    owner: str
    is_partition: bool
    has_tenant: bool
    is_walled: bool  # row security is on and forced
    policies: frozenset[str]
    grants: frozenset[tuple[str, str]]  # role, privilege
    column_grants: frozenset[tuple[str, str, str]]  # role, privilege, column


def build(using: str = DEFAULT_DB_ALIAS, **_: Any) -> None:
    """Django's `post_migrate` calls it; so may anybody, at any time."""
    connection = connections[using]
    with transaction.atomic(using), connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        found = [each for each in _tables(cursor) if each.owner == _who(cursor)]
        if not found:
            return
        roles = _make_roles(cursor, roles_of(connection.settings_dict["NAME"]))
        for statement in [each for table in found for each in _statements(table, roles)]:
            cursor.execute(statement)
        for statement in list(_missing_keys(cursor)):
            cursor.execute(statement)


def _who(cursor: Any) -> str:
    cursor.execute("SELECT current_user")
    return str(cursor.fetchone()[0])


def _make_roles(cursor: Any, roles: Roles) -> dict[str, str]:
    """Those that are there in the end, by what they are for. The platform's cannot log in before it has a password."""
    cursor.execute("SELECT rolcreaterole OR rolsuper, rolsuper FROM pg_roles WHERE rolname = current_user")
    may_make, is_superuser = cursor.fetchone()
    there = {"platform": _exists(cursor, roles.platform), "tenant": _exists(cursor, roles.tenant)}
    if may_make and not all(there.values()):
        for purpose, name, options in (
            ("tenant", roles.tenant, "NOLOGIN"),
            ("platform", roles.platform, "LOGIN NOINHERIT"),
        ):
            if not there[purpose]:
                cursor.execute(f"CREATE ROLE {_quoted(name)} {options}")
        # The platform becomes the tenant and can do nothing more by it; the owner becomes both.
        cursor.execute(f"GRANT {_quoted(roles.tenant)} TO {_quoted(roles.platform)}")
        if not is_superuser:
            cursor.execute(f"GRANT {_quoted(roles.tenant)}, {_quoted(roles.platform)} TO CURRENT_USER")
        there = {"platform": True, "tenant": True}
    return {purpose: name for purpose, name in roles._asdict().items() if there[purpose]}


def _exists(cursor: Any, role: str) -> bool:
    cursor.execute("SELECT FROM pg_roles WHERE rolname = %s", [role])
    return cursor.fetchone() is not None


def _tables(cursor: Any) -> list[Table]:
    cursor.execute(
        """
        SELECT c.relname, pg_get_userbyid(c.relowner), c.relispartition,
            EXISTS (SELECT FROM pg_attribute a
                WHERE a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped),
            c.relrowsecurity AND c.relforcerowsecurity,
            ARRAY(SELECT p.polname FROM pg_policy p WHERE p.polrelid = c.oid)::text[],
            (SELECT coalesce(json_agg(json_build_array(pg_get_userbyid(g.grantee), g.privilege_type)), '[]')
                FROM aclexplode(c.relacl) g WHERE g.grantee <> c.relowner),
            (SELECT coalesce(json_agg(json_build_array(pg_get_userbyid(g.grantee), g.privilege_type, a.attname)), '[]')
                FROM pg_attribute a, aclexplode(a.attacl) g WHERE a.attrelid = c.oid AND NOT a.attisdropped)
        FROM pg_class c WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm')
        ORDER BY c.relname
        """
    )
    return [
        Table(name, owner, is_partition, has_tenant, is_walled, frozenset(policies), _set(grants), _set(columns))
        for name, owner, is_partition, has_tenant, is_walled, policies, grants, columns in cursor.fetchall()
    ]


def _set(lists: list[list[str]]) -> Any:
    return frozenset(tuple(each) for each in lists)


def _statements(table: Table, roles: Mapping[str, str]) -> Iterator[str]:
    """What is still to be done for a table."""
    grants, columns = _grants(table, roles)
    ours = frozenset(roles.values())
    named = _quoted(table.name)
    # Of other roles, which an administrator may have added, partitions alone lose what they have.
    surplus = {each for each in table.grants - grants if table.is_partition or each[0] in ours}
    for role, privilege in sorted(surplus):
        yield f"REVOKE {privilege} ON {named} FROM {_grantee(role)}"
    for role, privilege in sorted(grants - table.grants):
        yield f"GRANT {privilege} ON {named} TO {_quoted(role)}"
    for role, privilege, column in sorted(each for each in table.column_grants - columns if each[0] in ours):
        yield f"REVOKE {privilege} ({_quoted(column)}) ON {named} FROM {_quoted(role)}"
    for role, privilege, column in sorted(columns - table.column_grants):
        yield f"GRANT {privilege} ({_quoted(column)}) ON {named} TO {_quoted(role)}"
    wanted = _policies(table, roles)
    if not wanted:
        return
    if not table.is_walled:
        yield f"ALTER TABLE {named} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY"
    for name in sorted(table.policies - wanted.keys()):
        yield f"DROP POLICY {_quoted(name)} ON {named}"
    for name in sorted(wanted.keys() - table.policies):
        yield f"CREATE POLICY {_quoted(name)} ON {named} {wanted[name]}"


def _grants(
    table: Table, roles: Mapping[str, str]
) -> tuple[frozenset[tuple[str, str]], frozenset[tuple[str, str, str]]]:
    found: set[tuple[str, str]] = set()
    columns: set[tuple[str, str, str]] = set()
    if table.is_partition:
        return frozenset(), frozenset()
    if "platform" in roles:
        found |= {(roles["platform"], each) for each in OF_PLATFORM.get(table.name, ALL)}
    if "tenant" in roles:
        rights = OF_TENANTS.get(table.name, ALL) if table.has_tenant else SHARED.get(table.name, NONE)
        found |= {(roles["tenant"], each) for each in rights}
        single = COLUMNS.get(table.name, {})
        columns |= {(roles["tenant"], right, name) for right, names in single.items() for name in names}
    return frozenset(found), frozenset(columns)


def _policies(table: Table, roles: Mapping[str, str]) -> dict[str, str]:
    """By name. A name ends in a digest of what it stands for, so that a changed rule is another policy."""
    if table.is_partition or not (table.has_tenant or table.name in SPECIAL):
        return {}
    wanted = [("owner", table.owner, EVERYTHING)]
    if "platform" in roles:
        wanted.append(("platform", roles["platform"], EVERYTHING))
    if "tenant" in roles:
        wanted += [("tenant", roles["tenant"], each) for each in SPECIAL.get(table.name, (OWN_ROWS,))]
    found = {}
    for purpose, role, policy in wanted:
        text = policy.clauses().format(role=_quoted(role))
        found[f"{purpose}_{hashlib.sha256(text.encode()).hexdigest()[:8]}"] = text
    return found


# A foreign key sees past row security: with the tenant in it, a row points at rows of its own tenant alone.
_POINTERS = """
    SELECT k.conname, s.relname, sa.attname, t.relname, ta.attname FROM pg_constraint k
    JOIN pg_class s ON s.oid = k.conrelid JOIN pg_class t ON t.oid = k.confrelid
    JOIN pg_attribute sa ON sa.attrelid = s.oid AND sa.attnum = k.conkey[1]
    JOIN pg_attribute ta ON ta.attrelid = t.oid AND ta.attnum = k.confkey[1]
    WHERE k.contype = 'f' AND cardinality(k.conkey) = 1 AND s.relnamespace = current_schema()::regnamespace
        AND s.relkind = 'r' AND t.relkind = 'r' AND pg_get_userbyid(s.relowner) = current_user
        AND EXISTS (SELECT FROM pg_attribute WHERE attrelid = s.oid AND attname = 'tenant_id' AND NOT attisdropped)
        AND EXISTS (SELECT FROM pg_attribute WHERE attrelid = t.oid AND attname = 'tenant_id' AND NOT attisdropped)
    ORDER BY 2, 3"""
# The platform's own keys mint keys of tenants.
ACROSS_TENANTS: Collection[tuple[str, str]] = frozenset({("tenants_apikey", "created_with_id")})


def _missing_keys(cursor: Any) -> Iterator[str]:
    cursor.execute(_POINTERS)
    found = [row[1:] for row in cursor.fetchall() if (row[1], row[2]) not in ACROSS_TENANTS]
    cursor.execute("SELECT conname FROM pg_constraint WHERE connamespace = current_schema()::regnamespace")
    there = {name for (name,) in cursor.fetchall()}
    for table, column, target, key in found:
        unique, pointer = _constraint(target, key, "of_tenant"), _constraint(table, column, "same_tenant")
        if unique not in there:
            there.add(unique)
            yield f"ALTER TABLE {_quoted(target)} ADD CONSTRAINT {_quoted(unique)} UNIQUE (tenant_id, {_quoted(key)})"
        if pointer not in there:
            yield (
                f"ALTER TABLE {_quoted(table)} ADD CONSTRAINT {_quoted(pointer)} "
                f"FOREIGN KEY (tenant_id, {_quoted(column)}) REFERENCES {_quoted(target)} (tenant_id, {_quoted(key)}) "
                "DEFERRABLE INITIALLY DEFERRED"
            )


def _constraint(table: str, column: str, what: str) -> str:
    name = f"{table}_{column}_{what}"
    return name if len(name) <= 63 else f"{name[:50]}_{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _grantee(role: str) -> str:
    return "PUBLIC" if role == "unknown (OID=0)" else _quoted(role)
