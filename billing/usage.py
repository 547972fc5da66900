"""What a tenant used in some time, added up as asked: by model, provider, agent, key or task, as a whole or in steps.
What all of them used together is another function's, so that nothing is unscoped by leaving something out.

Owns the question; which part of it is answered by hours that were added up and which by the ledger is
`billing.usage_parts`. Sums of money hold adjustments, numbers of requests do not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Any
from uuid import UUID

from django.db import connection, transaction

from billing.rollups import rolled_until
from billing.usage_parts import Parts, parts
from core.ids import uuid7_floor

# What a sum may be asked by → the columns that tell it.
GROUPS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "model": ("model_id", "model", "provider"),
        "provider": ("provider",),
        "agent": ("agent_id",),
        "key": ("key_id",),
        "task": ("task_type",),
    }
)
STEPS = ("minute", "hour", "day")
# Sums of a hundred thousand hours are made by hashing then; with PostgreSQL's 4 MB they are sorted on disk, three times
# slower.
_WORK_MEM = "32MB"
_DIMENSIONS = "tenant_id, model_id, model, provider, agent_id, key_id, task_type"
SUMS = ("requests", "failed", "items", "cached", "tokens", "cost_usd")
_OF_HOURS = f"""SELECT hour AS at, {_DIMENSIONS}, {", ".join(SUMS)} FROM billing_hourlyusage
WHERE hour >= %({{0}}_since)s AND hour < %({{0}}_until)s"""
_OF_ROWS = f"""SELECT created_at, {_DIMENSIONS}, (source <> 'adjustment')::int, (status <> 'ok')::int, items, cached,
tokens, cost_usd FROM billing_usagerow
WHERE created_at >= %({{0}}_since)s AND created_at < %({{0}}_until)s"""
_OF_TENANT = " AND tenant_id = %(tenant)s"
# Of all tenants: ids begin with the time, and their index serves all tenants together.
_BY_ID = " AND id >= %({0}_first)s AND id < %({0}_last)s"


@dataclass(frozen=True, slots=True)
class Used:
    """One sum: of what, from when on (of one step), how much."""

    of: Mapping[str, Any]
    start: datetime | None
    requests: int
    failed: int
    items: int
    cached: int
    tokens: int
    cost_usd: Decimal


@dataclass(frozen=True, slots=True)
class Narrowed:
    """Whose usage is counted; None: everybody's."""

    model_id: UUID | None = None
    agent_id: str | None = None
    key_id: UUID | None = None


EVERYBODY = Narrowed()


def sum_usage(
    tenant_id: UUID,
    *,
    since: datetime,
    until: datetime,
    by: str | None = None,
    step: str | None = None,
    narrowed: Narrowed = EVERYBODY,
    most: int | None = None,
) -> list[Used]:
    """In order of time, then the dearest first. Without `by` and `step`: one sum, if anything was used at all.
    At most `most + 1` of them, so that whoever asks sees that there are more."""
    return _summed(tenant_id, since, until, GROUPS[by] if by else (), step, narrowed, most)


def sum_everybodys(
    *, since: datetime, until: datetime, by_tenant: bool = False, step: str | None = None, most: int | None = None
) -> list[Used]:
    """The same of all tenants, for the platform's operators."""
    return _summed(None, since, until, ("tenant_id",) if by_tenant else (), step, EVERYBODY, most)


def _summed(
    tenant_id: UUID | None,
    since: datetime,
    until: datetime,
    columns: Sequence[str],
    step: str | None,
    narrowed: Narrowed,
    most: int | None,
) -> list[Used]:
    # Minutes are not in the hours.
    found = parts(since, until, rolled_until=None if step == "minute" else rolled_until())
    sql, words = _question(found, columns, step, narrowed, is_everybodys=tenant_id is None)
    if not sql:
        return []
    with transaction.atomic(savepoint=False), connection.cursor() as cursor:
        cursor.execute("SELECT set_config('work_mem', %s, true)", [_WORK_MEM])
        cursor.execute(
            sql + ("" if most is None else " LIMIT %(most)s"),
            {**words, "tenant": tenant_id, "most": None if most is None else most + 1},
        )
        rows = cursor.fetchall()
    return [_used(columns, row) for row in rows]


def _used(columns: Sequence[str], row: Sequence[Any]) -> Used:
    start, of, sums = row[0], row[1 : len(columns) + 1], row[len(columns) + 1 :]
    requests, failed, items, cached, tokens = map(int, sums[:-1])
    return Used(
        of=dict(zip(columns, of, strict=True)),
        start=start,
        requests=requests,
        failed=failed,
        items=items,
        cached=cached,
        tokens=tokens,
        cost_usd=sums[-1],
    )


def costs_of_agent(tenant_id: UUID, agent_id: str, *, since: datetime, until: datetime) -> list[Used]:
    """What an agent used of each model, the dearest first. What no model answered cost nothing and is left out."""
    return costs_by_model(tenant_id, Narrowed(agent_id=agent_id), since=since, until=until)


def costs_by_model(tenant_id: UUID, narrowed: Narrowed, *, since: datetime, until: datetime) -> list[Used]:
    """The same of an agent or of a key."""
    found = sum_usage(tenant_id, since=since, until=until, by="model", narrowed=narrowed)
    return [each for each in found if each.of["model"]]


def _question(
    found: Parts, columns: Sequence[str], step: str | None, narrowed: Narrowed, *, is_everybodys: bool
) -> tuple[str, dict[str, Any]]:
    """All names in it are our own; what somebody sent is in the parameters."""
    wishes = {
        "model_id": narrowed.model_id,
        "agent_id": narrowed.agent_id,
        "key_id": narrowed.key_id,
    }
    words: dict[str, Any] = {name: value for name, value in wishes.items() if value is not None}
    narrow = "".join(f" AND {name} = %({name})s" for name in words)
    if narrowed.agent_id:
        narrow += " AND agent_id <> ''"  # what the index of agents is for
    whose = {_OF_HOURS: "", _OF_ROWS: _BY_ID} if is_everybodys else {_OF_HOURS: _OF_TENANT, _OF_ROWS: _OF_TENANT}
    selects = []
    for number, (source, span) in enumerate(
        [*([(_OF_HOURS, found.hours)] if found.hours else []), *((_OF_ROWS, span) for span in found.rows)]
    ):
        name = f"part{number}"
        selects.append((source + whose[source]).format(name) + narrow)
        words |= {f"{name}_since": span[0], f"{name}_until": span[1]}
        words |= {f"{name}_first": uuid7_floor(span[0]), f"{name}_last": uuid7_floor(span[1])}
    if not selects:
        return "", {}
    at = f"date_trunc('{step}', at, 'UTC')" if step in STEPS else "NULL::timestamptz"
    names = "".join(f", {name}" for name in columns)
    sums = ", ".join(f"sum({each})" for each in SUMS)
    keys = [*(["1"] if step else []), *columns]
    grouped = f"GROUP BY {', '.join(keys)}" if keys else "HAVING count(*) > 0"
    order = ", ".join([*(["1"] if step else []), "sum(cost_usd) DESC", "sum(tokens) DESC", *columns])
    union = " UNION ALL ".join(selects)
    # The first of a union names the columns for all.
    head = f"used(at, {_DIMENSIONS}, {', '.join(SUMS)})"
    return f"SELECT {at}{names}, {sums} FROM ({union}) AS {head} {grouped} ORDER BY {order}", words
