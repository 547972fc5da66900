"""Every route × method of the control plane × everybody who might ask: nothing of globex's reaches anybody else.

Told three times: as it is; with the code's scoping gone, so that row security alone must hold; with row security off,
so that the code alone must. Who may do what is in `tests.isolation.policy`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.db import transaction
from django.db.models.query import QuerySet

from core.clock import utc_now
from tenants.scopes import Scope, allows
from tests.admin.world import browser, furnish, used
from tests.architecture.test_routes import CLOSED
from tests.conftest import Party, client, make_party, owners_cursor
from tests.isolation.policy import LINES, OPERATOR, Line

pytestmark = [pytest.mark.django_db, pytest.mark.slow]
MARK = "globex"
NAMES = {id(line): f"{line.method} {line.route}" for line in LINES}
# What differs between two answers to the same question.
VOLATILE = re.compile(r'"(request_id|start_time|end_time|selected_at|from|to|until|updated_at|resets_at)": ?"[^"]*"')


SHARED = {"model", "provider", "nothing"}  # what everybody knows


@dataclass(frozen=True)
class World:
    """Globex, which has a row of each kind, and mallory, who has a key with all rights and nothing else."""

    globex: Party
    mallory: Party
    rows: dict[str, str]

    def path(self, line: Line) -> str:
        (route,) = {path for path, each in CLOSED if each.name == line.route}
        for name, kind in line.also.items():
            route = re.sub(f"<[a-z]+:{name}>", self.rows[kind], route)
        path = re.sub("<[^>]+>", self.rows[line.row], route) if line.row else route
        return f"/{path}?{line.query}" if line.query else f"/{path}"

    def body(self, line: Line) -> dict[str, Any] | None:
        return None if line.body is None else json.loads(re.sub(r"\{(\w+)\}", self._row, json.dumps(line.body)))

    def _row(self, found: re.Match[str]) -> str:
        return self.rows[found[1]]

    def ask(self, api: Any, line: Line) -> Any:
        """The answer to one line; whatever it did is undone."""
        with undone():
            api.raise_request_exception = False
            body = {} if self.body(line) is None else {"data": self.body(line)}
            return getattr(api, line.method.lower())(self.path(line), **body)

    def leaks(self, line: Line, answer: Any) -> list[str]:
        """What of globex's is in an answer, but for what the caller said themselves."""
        said = self.path(line) + json.dumps(self.body(line))
        text = content(answer)
        for each in sorted({*self.rows.values()}, key=len, reverse=True):
            text = text.replace(each, "") if each in said else text
        theirs = [each for kind, each in self.rows.items() if kind not in SHARED]
        return [each for each in (MARK, *theirs, str(self.globex.id)) if is_in(each, text)]


def is_in(mark: str, text: str) -> bool:
    """Numbers are too short to be recognised among others."""
    return len(mark) > 10 and mark in text if mark != MARK else mark in text.lower()


def content(answer: Any) -> str:
    return b"".join([f"{k}: {v}\n".encode() for k, v in answer.headers.items()]).decode() + (
        "" if answer.streaming else answer.content.decode()
    )


@contextmanager
def undone() -> Iterator[None]:
    with transaction.atomic():
        yield
        transaction.set_rollback(True)


@pytest.fixture
def model(add_model: Callable[..., Any]) -> Any:
    from catalog.upstreams import add_provider

    # An address where nobody answers: whoever may have it called gets a refusal at once.
    add_provider(slug="vendor", kind="openai", base_url="http://127.0.0.1:1/v1", secret={"api_key": "sk-concealed"})
    return add_model("small")


@pytest.fixture
def world(model: Any, globex: Party, mallory: Party) -> World:
    return World(globex, mallory, rows_of(globex, model))


def rows_of(party: Party, model: Any) -> dict[str, str]:
    """A row of each kind, by the words of the policies."""
    from alerts.services import add_channel, raise_alert
    from audit.models import AuditEvent
    from billing.models import Limit
    from catalog.models import DiscoveryRun, Provider
    from tenants.agents import add_agent
    from tenants.minting import mint_key
    from tenants.models import Invitation, Membership, TenantCredential, TenantModel
    from tenants.rights import Rights

    furnish(party, model)
    add_agent(tenant_id=party.id, agent_id=f"{party.slug}-agent", name=f"{party.slug} agent")
    channel = add_channel(tenant_id=party.id, name=f"{party.slug} channel", targets=[f"ops@{party.slug}.example"])
    alert = raise_alert(
        tenant_id=party.id, kind="quota_warning", subject=f"{party.slug} subject", title=f"of {party.slug}", detail={}
    )
    assert alert is not None
    own = {"tenant_id": party.id}
    vendor = Provider.objects.get(slug="vendor")
    found = {
        "tenant": party.id,
        "member": Membership.objects.get(**own, role="viewer").user_id,
        "invitation": Invitation.objects.get(**own).id,
        "key": mint_key(tenant_id=party.id, name="a", rights=Rights(frozenset({"keys:write"})))[0].id,
        "tenant_model": TenantModel.objects.get(**own).id,
        "own_credential": TenantCredential.objects.get(**own).id,
        "agent": f"{party.slug}-agent",
        "limit": Limit.objects.get(**own, measure="tokens").id,
        "budget": Limit.objects.filter(**own, measure="usd").earliest("id").id,
        "alert": alert.id,
        "channel": channel.id,
        "event": AuditEvent.objects.filter(**own).latest("id").id,
        "usage": used(party.id, party.slug).id,
        "model": model.id,
        "provider": "vendor",
        "credential": vendor.credentials.get().id,
        "run": DiscoveryRun.objects.create(provider=vendor).id,
        "nothing": uuid4(),
    }
    return {kind: str(each) for kind, each in found.items()}


# The three ways.


@pytest.fixture(params=["both walls", "row security alone", "the code alone"])
def walls(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "row security alone":
        without_the_codes_scoping(monkeypatch)
    if request.param == "the code alone":
        without_row_security()
    return str(request.param)


def without_the_codes_scoping(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes the tenant out of every condition that the code asks with on a tenant's behalf."""
    import config.admin_site
    import tenants.authentication
    from tenants.walls import act_for

    filtered, acting = QuerySet._filter_or_exclude_inplace, {"tenant": False}  # type: ignore[attr-defined]

    def act(tenant_id: Any) -> None:
        act_for(tenant_id)
        acting["tenant"] = True

    def unscoped(self: Any, negate: bool, args: Any, kwargs: dict[str, Any]) -> Any:
        if acting["tenant"] and not negate:
            kwargs = {each: kwargs[each] for each in kwargs if each.split("__")[0] not in ("tenant", "tenant_id")}
        return filtered(self, negate, args, kwargs)

    asked = World.ask

    def ask(self: World, api: Any, line: Line) -> Any:
        acting["tenant"] = False
        answer = asked(self, api, line)
        acting["tenant"] = False
        return answer

    monkeypatch.setattr(tenants.authentication, "act_for", act)
    monkeypatch.setattr(config.admin_site, "act_for", act)
    monkeypatch.setattr(QuerySet, "_filter_or_exclude_inplace", unscoped)
    monkeypatch.setattr(World, "ask", ask)


def without_row_security() -> None:
    with owners_cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")  # what is still to be checked keeps a table from being altered
        cursor.execute("SET CONSTRAINTS ALL DEFERRED")
        cursor.execute("SELECT relname FROM pg_class WHERE relrowsecurity AND relnamespace = 'public'::regnamespace")
        for (name,) in cursor.fetchall():
            cursor.execute(f"ALTER TABLE {name} NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY")


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


def walked(world: World, api: Any, lines: list[Line], expected: set[int]) -> list[Refused]:
    """What was answered otherwise than expected, or with something of globex's in it."""
    wrong = []
    for line in lines:
        answer = world.ask(api, line)
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
    before = globexs_rows(world)
    assert walked(world, world.mallory.api, theirs, {404}) == []
    assert globexs_rows(world) == before


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
        status = world.ask(world.globex.api, line).status_code
        if status in (401, 403, 404) or status >= 500:
            wrong.append((NAMES[id(line)], status))
    assert wrong == []


def test_an_operators_key_is_let_in_and_breaks_nothing(world: World, operator: Any) -> None:
    wrong = []
    for line in LINES:
        status = world.ask(operator, line).status_code
        # A tenant's own doors tell an operator to use a key of the tenant.
        if status == 401 or status >= 500 or (status == 403 and line.scope == OPERATOR):
            wrong.append((NAMES[id(line)], status))
    assert wrong == []


def globexs_rows(world: World) -> dict[str, list[Any]]:
    """All that is globex's, whatever the table."""
    from django.apps import apps

    return {
        each._meta.label: sorted(map(repr, each._default_manager.filter(tenant_id=world.globex.id).values_list()))
        for each in apps.get_models()
        if any(field.attname == "tenant_id" for field in each._meta.concrete_fields)
    }


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
