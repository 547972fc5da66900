"""Every route × method of the control plane × everybody who might ask: nothing of globex's reaches anybody else.

Told three times: as it is; with the code's scoping gone, so that row security alone must hold; with row security off,
so that the code alone must. Who may do what is in `tests.isolation.policy`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from core.clock import utc_now
from tenants.scopes import Scope, allows
from tests.admin.world import browser
from tests.architecture.test_routes import CLOSED
from tests.conftest import Party, client, make_party
from tests.isolation.policy import LINES, OPERATOR, Line
from tests.isolation.worlds import World, rows_in_database, rows_of

pytestmark = [pytest.mark.django_db, pytest.mark.slow]
NAMES = {id(line): f"{line.method} {line.route}" for line in LINES}
# What differs between two answers to the same question.
VOLATILE = re.compile(r'"(request_id|start_time|end_time|selected_at|from|to|until|updated_at|resets_at)": ?"[^"]*"')


def test_the_ways_are_what_they_say(world: World, walls: str) -> None:
    """Without the wall that is left, mallory would see what is globex's."""
    from tenants.models import Agent
    from tenants.walls import act_for

    line = next(each for each in LINES if each.route == "agent-list")
    assert world.ask(world.globex.api, line).json()["results"]
    act_for(world.mallory.id)
    assert Agent.objects.exists() is (walls == "the code alone")


# Completeness.


def test_every_route_and_method_has_a_line() -> None:
    found = set()
    for _, route in CLOSED:
        view: Any = route.callback
        methods = getattr(view, "actions", None) or [each for each in view.cls.http_method_names if _has(view, each)]
        found |= {(each.upper(), str(route.name)) for each in methods if each not in ("head", "options")}
    assert {(line.method, line.route) for line in LINES} == found
    assert len(LINES) == len(found)


def _has(view: Any, method: str) -> bool:
    return hasattr(view.cls, method)


# Columns.

Refused = tuple[str, int, list[str]]


def walked(
    world: World, api: Any, lines: list[Line], expected: set[int], ask: Callable[..., Any] = World.ask
) -> list[Refused]:
    """What was answered otherwise than expected, or with something of globex's in it."""
    wrong = []
    for line in lines:
        answer = ask(world, api, line)
        leaks = world.leaks(line, answer)
        if answer.status_code not in expected or leaks:
            wrong.append((NAMES[id(line)], answer.status_code, leaks))
    return wrong


def test_who_is_not_let_in_sees_nothing(world: World, walls: str, mint: Callable[..., str]) -> None:
    from tenants.minting import revoke_key
    from tenants.models import ApiKey, User

    revoked, unknown = mint(world.globex.id, "admin"), mint(world.globex.id, "admin")
    revoke_key(key_id=ApiKey.objects.get(prefix=prefix(revoked)).id, tenant_id=world.globex.id)
    ApiKey.objects.filter(prefix=prefix(unknown)).delete()
    expired = mint(world.globex.id, "admin", expires_at=utc_now() + timedelta(days=1))
    ApiKey.objects.filter(prefix=prefix(expired)).update(expires_at=utc_now())
    strangers = {
        "anonymous": client(None),
        "garbage": client("qv_live_garbage"),
        "mistyped": client(world.globex.key[:-1] + ("a" if world.globex.key[-1] != "a" else "b")),
        "unknown": client(unknown),
        "revoked": client(revoked),
        "expired": client(expired),
        "their owner's browser": as_api(browser(User.objects.get(email="owner@globex.example"))),
    }
    assert {name: found for name, api in strangers.items() if (found := walked(world, api, LINES, {401}))} == {}


def prefix(key: str) -> str:
    return "_".join(key.split("_")[:3])


def as_api(browser: Any) -> Any:
    from rest_framework.test import APIClient

    api = APIClient()
    api.cookies = browser.cookies
    return api


def test_a_suspended_tenants_key_and_one_without_the_scope_are_refused(
    world: World, walls: str, mint: Callable[..., str]
) -> None:
    from tenants.services import change_tenant

    unscoped = client(mint(world.globex.id, "embeddings"))
    assert walked(world, unscoped, LINES, {403}) == []
    change_tenant(tenant_id=world.globex.id, is_suspended=True)
    assert walked(world, world.globex.api, LINES, {403}) == []


def test_every_scope_but_the_lines_own_is_too_little(world: World, mint: Callable[..., str]) -> None:
    scopes = set(Scope) - {Scope.OPERATOR, Scope.ADMIN}
    keys = {scope: client(mint(world.globex.id, scope.value)) for scope in scopes}
    wrong = []
    for line in LINES:
        for scope, api in keys.items():
            is_refused = world.ask(api, line).status_code == 403
            if is_refused is allows({scope}, Scope(line.scope)):
                wrong.append((NAMES[id(line)], scope.value))
    assert wrong == []


def test_of_a_tenants_row_nobody_elses_key_knows(world: World, walls: str) -> None:
    theirs = [line for line in LINES if line.row and line.is_tenants and line.scope != OPERATOR]
    before = rows_in_database(world.globex)
    assert walked(world, world.mallory.api, theirs, {404}, World.send) == []
    assert rows_in_database(world.globex) == before


def test_what_is_the_operators_no_tenant_may(world: World, walls: str) -> None:
    lines = [line for line in LINES if line.scope == OPERATOR]
    assert walked(world, world.mallory.api, lines, {403}) == []


def test_lists_and_what_is_shared_tell_nothing_of_others(world: World, walls: str) -> None:
    shared = [line for line in LINES if line.scope != OPERATOR and not (line.row and line.is_tenants)]
    # 503: mallory configured no model that could be selected.
    assert walked(world, world.mallory.api, shared, {200, 201, 503}) == []


def test_counts_and_totals_are_the_same_whether_others_are_there_or_not(
    model: Any, globex: Party, mallory: Party, walls: str
) -> None:
    lines = [each for each in LINES if each.method == "GET" and not each.row and each.scope != OPERATOR]
    alone = World(globex, mallory, {"model": str(model.id)})
    before = {NAMES[id(line)]: settled(alone.ask(mallory.api, line)) for line in lines}
    together = World(globex, mallory, rows_of(globex, model))
    after = {NAMES[id(line)]: settled(together.ask(mallory.api, line)) for line in lines}
    assert after == before


def settled(answer: Any) -> tuple[int, str]:
    assert answer.status_code == 200
    return answer.status_code, "" if answer.streaming else VOLATILE.sub("", answer.content.decode())


def test_its_own_key_reaches_all_of_it(world: World) -> None:
    """Or else the refusals above would prove nothing."""
    mine = [line for line in LINES if line.scope != OPERATOR and line.body is None]
    lines = [line for line in mine if "nothing" not in line.also.values()]
    wrong = []
    for line in lines:
        answer = world.ask(world.globex.api, line)
        is_refused = answer.status_code in (401, 403, 404) or answer.status_code >= 500
        if is_refused or answer.streaming is not line.is_streamed:
            wrong.append((NAMES[id(line)], answer.status_code))
    assert wrong == []


def test_an_operators_key_is_let_in_and_breaks_nothing(world: World, operator: Any) -> None:
    wrong = []
    for line in LINES:
        status = world.ask(operator, line).status_code
        # A tenant's own doors tell an operator to use a key of the tenant.
        if status == 401 or status >= 500 or (status == 403 and line.scope == OPERATOR):
            wrong.append((NAMES[id(line)], status))
    assert wrong == []


def test_tenants_share_no_names(model: Any, globex: Party, mallory: Party, walls: str) -> None:
    """A name that somebody else has is free: a conflict would tell that they have it."""
    rows_of(globex, model)
    taken = [
        ("agents", {"agent_id": "globex-agent"}),
        ("alert-channels", {"name": "globex channel", "targets": ["a@example.com"]}),
        ("api-keys", {"name": "globex key", "scopes": ["embeddings"]}),
        ("provider-credentials", {"provider": "vendor", "secret": {"api_key": "sk"}, "label": "globex own"}),
        ("tenant-models", {"model_id": str(model.id)}),
        ("limits", {"scope": "tenant", "measure": "usd", "period": "month", "amount": "5"}),
    ]
    found = [mallory.api.post(f"/api/v1/{path}", body).status_code for path, body in taken]
    assert found == [201] * len(taken)


def test_a_third_party_is_no_different(world: World, walls: str) -> None:
    acme = make_party("acme")
    line = next(each for each in LINES if each.route == "usage-record-list")
    assert world.ask(acme.api, line).json()["results"] == []
