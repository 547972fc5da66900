"""What is asked in SQL by hand or by `Q`, which `without_the_codes_scoping` does not reach: each such place is named
here, with who asks there, and what is asked in a tenant's request yields nothing of another's, whatever id it is given.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings

from core.clock import utc_now
from tests.isolation.walls import without_row_security
from tests.isolation.worlds import World

APPS = ("audit", "catalog", "tenants", "alerts", "billing", "embeddings", "config")
BY_HAND = {"execute", "executemany", "raw", "RawSQL", "extra", "Q"}
# Who asks there, where it is not in a tenant's request.
PLATFORM = "the platform: what it asks is about all tenants, or comes before one is known"
SETTING = "it reads no row of a tenant: a lock, a role, a setting, a time limit"
SHARED = "rows of the catalogue, which are everybody's"
DATA_PLANE = "the data plane, for the tenant of the key"
REDIS = "no SQL"
STREAM = "a stream: `test_streams`"
ELSEWHERE = {
    "audit.services.forget_tenant": PLATFORM,
    "billing.adjustments._adjustments": PLATFORM,
    "billing.dashboard._patiently": SETTING,
    "billing.export.csv_of": STREAM,
    "billing.forgetting._forget_some": PLATFORM,
    "billing.forgetting._oldest": PLATFORM,
    "billing.granting.Grants._once": DATA_PLANE,
    "billing.granting.Grants.opening": SETTING,
    "billing.granting.Opening.is_open": DATA_PLANE,
    "billing.granting.Opening.new": DATA_PLANE,
    "billing.idempotency.Claims._once": DATA_PLANE,
    "billing.partitions.make_partitions": PLATFORM,
    "billing.reconciling._charges": PLATFORM,
    "billing.reconciling._count_done_pools": SETTING,
    "billing.reconciling._forget_old_periods": PLATFORM,
    "billing.reconciling._look_into_redis": REDIS,
    "billing.reconciling._turn": SETTING,
    "billing.rollups._add_up": PLATFORM,
    "billing.rollups._is_our_turn": SETTING,
    "billing.rollups.hold_still": SETTING,
    "billing.usage_admin.LedgerAdmin.changelist_view": SETTING,
    "catalog.discovery_runs._alone": SETTING,
    "catalog.moves._successor": SETTING,
    "catalog.rechecking": SHARED,
    "catalog.rechecking.recheck_spaces": SHARED,
    "catalog.selectors.list_models": SHARED,
    "config.dashboard._catalogue": PLATFORM,
    "config.logins._can_log_in": SETTING,
    "config.walls._exists": SETTING,
    "config.walls._make_roles": SETTING,
    "config.walls._missing_keys": SETTING,
    "config.walls._tables": SETTING,
    "config.walls._who": SETTING,
    "config.walls.build": SETTING,
    "embeddings.erasing.export": SETTING,
    "embeddings.news._numbered": REDIS,
    "tenants.api.TenantFilters.containing": PLATFORM,
    "tenants.loading.find_key": PLATFORM,
    "tenants.minting.record_use": PLATFORM,
    "tenants.streaming.read": STREAM,
    "tenants.walls._become": SETTING,
    "tenants.walls.act_for": SETTING,
    "tenants.walls.are_up": SETTING,
    "tenants.walls.as_platform": SETTING,
}


def filtered(filters: Any, model: Any, **words: str) -> list[Any]:
    return list(filters(words, queryset=model.objects.all()).qs)


def listed(filter_: Any, model: Any, value: str) -> list[Any]:
    """By a filter of the admin's lists."""
    made = filter_.__new__(filter_)
    made.value = lambda: value
    return list(made.queryset(None, model.objects.all()))


def questions(world: World) -> dict[str, Callable[[], Any]]:
    """What is asked in a tenant's request, here with everything of globex's that one can know."""
    from alerts.models import Alert
    from alerts.selectors import alerts_of, told
    from audit.models import AuditEvent
    from billing.api.agents import AgentFilters
    from billing.counters import ledger_sums
    from billing.dashboard import tenant_failures, tenant_figures
    from billing.models import Limit, UsageRow
    from billing.periods import start_of
    from billing.usage import sum_usage
    from billing.usage_admin import Outcome
    from tenants.api import KeyFilters
    from tenants.audit_api import EventFilters
    from tenants.key_admin import Standing
    from tenants.loading import find_grant
    from tenants.models import Agent, ApiKey, Membership
    from tenants.people_api import MemberFilters

    globex, now = world.globex, utc_now()
    day = timedelta(days=1)
    month = start_of("month", now.astimezone(UTC)).date()
    limits = list(Limit.objects.filter(tenant_id=globex.id, period="month").values_list("id", flat=True))
    events = AuditEvent.objects.filter(tenant_id=globex.id).values_list("actor", flat=True)
    actor = events.exclude(actor="").latest("id")

    def figures() -> Any:
        found = tenant_figures(globex.id, now=now)
        assert found is not None
        return [found.month] if found.month.requests else tenant_failures(globex.id, now=now)

    def of_globex(rows: list[Any]) -> list[Any]:
        return [row for row in rows if row.tenant_id == globex.id]

    return {
        "alerts.selectors.told": lambda: told(kinds=["quota_warning"], since=now - day, tenant_id=globex.id),
        "alerts.selectors.whose": lambda: [*alerts_of(globex.id), *of_globex(list(Alert.objects.all()))],
        "billing.api.agents.AgentFilters.containing": lambda: filtered(AgentFilters, Agent, q="globex"),
        "billing.counters.ledger_sums": lambda: ledger_sums([(each, month) for each in limits]),
        "billing.usage._summed": lambda: [*sum_usage(globex.id, since=now - day, until=now + day), *(figures() or [])],
        "billing.usage_admin.Outcome.queryset": lambda: of_globex(listed(Outcome, UsageRow, "failed")),
        "tenants.api.KeyFilters.containing": lambda: filtered(KeyFilters, ApiKey, q="globex"),
        "tenants.api.KeyFilters.standing_as": lambda: of_globex(filtered(KeyFilters, ApiKey, standing="active")),
        "tenants.audit_api.EventFilters.by_actor": lambda: of_globex(filtered(EventFilters, AuditEvent, actor=actor)),
        "tenants.key_admin.Standing.queryset": lambda: of_globex(listed(Standing, ApiKey, "active")),
        "tenants.loading.find_grant": lambda: find_grant(globex.key_id),
        "tenants.people_api.MemberFilters.containing": lambda: filtered(MemberFilters, Membership, q="globex"),
    }


# Completeness.


def by_hand(tree: ast.AST, place: str) -> Iterator[str]:
    """The functions in which something is asked by hand; constraints of models ask nothing."""
    for node in ast.iter_child_nodes(tree):
        inside = (
            f"{place}.{node.name}" if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) else place
        )
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            yield from [place] if called in BY_HAND else []
        if not inside.endswith(".Meta"):
            yield from by_hand(node, inside)


def places() -> set[str]:
    found: set[str] = set()
    for path in [each for app in APPS for each in (settings.BASE_DIR / app).rglob("*.py")]:
        inside: Path = path.relative_to(settings.BASE_DIR)
        if "migrations" not in inside.parts and inside.parts[:2] != ("config", "up"):  # `up` is before Quiver
            found |= set(by_hand(ast.parse(path.read_text()), ".".join(inside.with_suffix("").parts)))
    return found


@pytest.mark.django_db
def test_each_place_says_who_asks_there(world: World) -> None:
    asked = questions(world).keys()
    assert not asked & ELSEWHERE.keys()
    assert places() == asked | ELSEWHERE.keys()


# What they yield.


@pytest.mark.django_db
def test_in_a_tenants_request_none_yields_a_row_of_another(world: World) -> None:
    from tenants.walls import act_for

    asked = questions(world)
    assert [name for name, ask in asked.items() if not ask()] == []  # or else the rest would prove nothing
    act_for(world.mallory.id)
    assert {name: found for name, ask in asked.items() if (found := ask())} == {}


@pytest.mark.django_db
def test_it_is_row_security_that_holds(world: World) -> None:
    from tenants.walls import act_for

    asked = questions(world)
    without_row_security()
    act_for(world.mallory.id)
    assert [name for name, ask in asked.items() if not ask()] == []
