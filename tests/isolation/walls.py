"""The three ways in which all of it is told: as it is, and with each of the two walls gone, so that the other holds.

A wall is taken down by the test, never by a setting.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.core.signals import request_finished, request_started
from django.db.models.query import QuerySet

from tests.conftest import owners_cursor

WAYS = ("both walls", "row security alone", "the code alone")


@contextmanager
def without_the_codes_scoping() -> Iterator[None]:
    """Takes the tenant out of every condition that the code asks with on a tenant's behalf. What is asked in SQL or by
    `Q` it does not reach: that is `test_by_hand`."""
    import config.admin_site
    import tenants.authentication
    from tenants.walls import act_for

    filtered, acting = QuerySet._filter_or_exclude_inplace, {"tenant": False}  # type: ignore[attr-defined]

    def act(tenant_id: Any) -> None:
        act_for(tenant_id)
        acting["tenant"] = True

    def leave(**_: Any) -> None:
        acting["tenant"] = False

    def unscoped(self: Any, negate: bool, args: Any, kwargs: dict[str, Any]) -> Any:
        if acting["tenant"] and not negate:
            kwargs = {each: kwargs[each] for each in kwargs if each.split("__")[0] not in ("tenant", "tenant_id")}
        return filtered(self, negate, args, kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tenants.authentication, "act_for", act)
        patch.setattr(config.admin_site, "act_for", act)
        patch.setattr(QuerySet, "_filter_or_exclude_inplace", unscoped)
        request_started.connect(leave)
        request_finished.connect(leave)
        yield
        request_started.disconnect(leave)
        request_finished.disconnect(leave)


def without_row_security() -> None:
    """Until the test's transaction ends, or `with_row_security`."""
    with owners_cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")  # what is still to be checked keeps a table from being altered
        cursor.execute("SET CONSTRAINTS ALL DEFERRED")
        cursor.execute("SELECT relname FROM pg_class WHERE relrowsecurity AND relnamespace = 'public'::regnamespace")
        for (name,) in cursor.fetchall():
            cursor.execute(f"ALTER TABLE {name} NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY")


def with_row_security() -> None:
    """For tests that commit."""
    from config.walls import build

    with owners_cursor():
        build()
