"""The second wall: in a tenant's request PostgreSQL itself shows that tenant's rows and no others.

Decides under which of three database roles something runs. *Owner*: migrations, partitions. *Platform*: what looks at
all tenants, and what comes before a tenant is known (keys, sessions, Celery, the data plane, operators). *Tenant*: all
that a tenant's keys and people do in the control plane. Services log in as the platform; `act_for` takes a transaction
over to the tenant, which ends with it, so that nothing is left on a pooled connection. The roles, their grants and the
policies are made by `config.walls`.

Failure: a database without the tenant role (a login that may make no roles) goes on with the first wall alone;
`/readyz` says so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple
from uuid import UUID

from django.db import DatabaseError, connection
from django.db.transaction import TransactionManagementError

SETTING = "app.tenant"
_LONGEST_NAME = 63
# Both until the transaction ends. The role is looked up, so that one statement does, whether it is there or not.
SWITCH = f"""SELECT set_config('{SETTING}', %(tenant)s, true), set_config('role', coalesce(
    (SELECT rolname FROM pg_roles WHERE rolname = %(role)s AND pg_has_role(session_user, oid, 'MEMBER')),
    'none'), true)"""
_LEAVE = """
WITH was AS MATERIALIZED (SELECT current_setting('role') AS role) SELECT role, set_config('role', 'none', true) FROM was
"""
_IS_UP = """SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = %(role)s AND NOT rolsuper
    AND pg_has_role(session_user, oid, 'MEMBER'))"""


class Roles(NamedTuple):
    """Names of the roles of one database; roles are the server's, and other databases on it have their own."""

    platform: str
    tenant: str


def roles_of(database: str) -> Roles:
    """Their names; a database's long name is shortened, not cut, so that two never share a role."""
    if len(database) > _LONGEST_NAME - len("_platform"):
        database = f"{database[:40]}_{hashlib.sha256(database.encode()).hexdigest()[:12]}"
    return Roles(f"{database}_platform", f"{database}_tenant")


def switch_to(tenant_id: UUID, database: str) -> dict[str, str]:
    """The parameters of `SWITCH`, for who has a connection of its own, such as an export that is streamed."""
    return {"tenant": str(tenant_id), "role": roles_of(database).tenant}


def act_for(tenant_id: UUID) -> None:
    """Takes the transaction that is under way over to a tenant, until it ends."""
    if not connection.in_atomic_block:
        raise TransactionManagementError("Without a transaction nothing would become of this.")
    with connection.cursor() as cursor:
        cursor.execute(SWITCH, switch_to(tenant_id, _database()))


@contextmanager
def as_platform() -> Iterator[None]:
    """Within a tenant's transaction: for what needs rows that no tenant may read, such as the catalogue with secrets.
    Whoever uses it answers for what it hands on."""
    with connection.cursor() as cursor:
        cursor.execute(_LEAVE)
        (role, _) = cursor.fetchone()
        try:
            yield
        except BaseException:
            with suppress(DatabaseError):  # a transaction that failed goes back to before, and the role with it
                _become(cursor, role)
            raise
        _become(cursor, role)


def _become(cursor: Any, role: str) -> None:
    cursor.execute("SELECT set_config('role', %s, true)", [role])


def are_up() -> bool:
    """Whether a tenant's requests can run as the tenant role."""
    with connection.cursor() as cursor:
        cursor.execute(_IS_UP, {"role": roles_of(_database()).tenant})
        return bool(cursor.fetchone()[0])


def _database() -> str:
    return str(connection.settings_dict["NAME"])
