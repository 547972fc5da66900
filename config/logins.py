"""What services log in with: the platform's role, its password derived from that of the owner's address.

Derived, not kept: whoever starts a second machine on the same database comes to the same password, and there is no
further secret to lose. Who gets hold of it can try out guesses at the owner's own password, each at the price of one
`scrypt` (about a tenth of a second and 32 MiB): that is nothing against a random one, and too little for a word.

Failure: an address without a password, or a login that may not set one, leaves services with the owner's address; a
tenant's requests still run as the tenant role where there is one.
"""

from __future__ import annotations

import base64
import hashlib
from urllib.parse import quote

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from tenants.walls import roles_of


def platform_login(connection: psycopg.Connection, owner_url: str) -> str:
    """Lets the platform's role log in; the address for services."""
    facts = conninfo_to_dict(owner_url)
    password, role = str(facts.get("password") or ""), roles_of(connection.info.dbname).platform
    derived = _derived(password, role)
    if not password or not _can_log_in(connection, role, derived):
        return owner_url
    scheme, _, rest = owner_url.partition("://")
    address = rest.rpartition("@")[2]
    return f"{scheme}://{quote(role, safe='')}:{derived}@{address}"


def _can_log_in(connection: psycopg.Connection, role: str, password: str) -> bool:
    if connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [role]).fetchone() is None:
        return False
    try:
        connection.execute(
            sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(role), sql.Literal(password))
        )
    except psycopg.errors.InsufficientPrivilege:
        return False  # somebody else's role of that name
    return True


def _derived(password: str, role: str) -> str:
    made = hashlib.scrypt(
        password.encode(), salt=f"quiver login {role}".encode(), n=2**15, r=8, p=1, maxmem=2**26, dklen=32
    )
    return base64.urlsafe_b64encode(made).decode().rstrip("=")
