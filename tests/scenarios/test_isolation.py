"""The data plane × everybody who might ask, and what it leaves in Redis: nothing of one tenant's reaches another.

It works as the platform, for it must answer for all tenants at once, so that here the code is the only wall; what is
asked is in `tests.isolation.policy_data_plane`, what may stand in Redis in `tests.isolation.policy_redis`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import pytest

from embeddings.cache_keys import KeyRing
from tests.embeddings.agents import Agent, Refused
from tests.fakes.openai import FakeOpenAI
from tests.isolation import policy_data_plane
from tests.isolation.policy_data_plane import HTTP, SOCKET, Line
from tests.isolation.policy_redis import CACHED, NAMING_TENANTS, PLATFORMS, TENANTS, held_by_redis, owner_of
from tests.scenarios.accounts import holds
from tests.scenarios.platform import Answer, Platform
from tests.up.processes import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
UNAUTHENTICATED, FORBIDDEN, CLOSED = -32001, -32003, 4401


@dataclass(frozen=True)
class Side:
    """A tenant, its key, and a model that it alone has configured. The mark is in every word that it chose."""

    platform: Platform
    mark: str
    tenant: str
    key: str
    model: str

    @property
    def words(self) -> tuple[str, ...]:
        """By which it would be recognised."""
        return self.mark, self.tenant, self.tenant.replace("-", ""), self.key.split("_")[2]

    def said(self, line: Line) -> Any:
        """What is sent, of this side's."""
        filled = {"{mark}": self.mark, "{model}": self.model, "{key}": self.key}
        text = json.dumps([line.sent, line.suffix])
        for name, word in filled.items():
            text = text.replace(name, word)
        return json.loads(text)


@dataclass(frozen=True)
class World:
    platform: Platform
    one: Side
    other: Side
    refused: dict[str, str]  # keys that are nobody's any more
    too_little: dict[str, str]  # and such as may not


def add_side(platform: Platform, mark: str, model: str) -> Side:
    tenant, key = platform.add_tenant(mark)
    platform.configure(key, platform.model_id, daily_token_limit=100_000)
    platform.configure(key, platform.add_model("fake", model))
    platform.operate("POST", "/agents", {"agent_id": f"agent-of-{mark}", "name": mark}, key)
    return Side(platform, mark, tenant, key, model)


@pytest.fixture(scope="module")
def world(platform: Platform) -> World:
    one, other = add_side(platform, "concordia", "model-of-one"), add_side(platform, "melpomene", "model-of-other")
    suspended, suspended_key = platform.add_tenant("eunomia")
    platform.operate("PATCH", f"/tenants/{suspended}", {"is_suspended": True})
    revoked, expired = platform.mint(one.tenant, "admin"), platform.mint(one.tenant, "admin")
    platform.operate("DELETE", f"/api-keys/{revoked['id']}")
    demoted = platform.mint(one.tenant, "embeddings", "usage:read")
    platform.run(
        "from core.clock import utc_now; from tenants.members import add_member; from tenants.models import ApiKey; "
        "from tenants.services import add_user; from uuid import UUID; "
        f"viewer = add_user(email='viewer@concordia.example'); "
        f"add_member(tenant_id=UUID('{one.tenant}'), user=viewer, role='viewer'); "
        f"ApiKey.objects.filter(id='{demoted['id']}').update(created_by=viewer, created_with=None); "
        f"ApiKey.objects.filter(id='{expired['id']}').update(expires_at=utc_now())"
    )
    mistyped = one.key[:-1] + ("a" if one.key[-1] != "a" else "b")
    refused = {"garbage": "qv_live_garbage", "mistyped": mistyped, "revoked": revoked["key"], "expired": expired["key"]}
    too_little = {
        "without the scope": platform.mint(one.tenant, "usage:read")["key"],
        "a viewer's": demoted["key"],
        "suspended": suspended_key,
        "operator": platform.operator_key,
    }
    return World(platform, one, other, refused, too_little)


def ask(side: Side, line: Line, key: str, **headers: str) -> Answer:
    """This side's question, with whatever key."""
    sent, suffix = side.said(line)
    method, path = line.name.split()
    return side.platform.ask(method, path + suffix, sent, key, **headers)


def leaks(side: Side, lines: list[Line], text: str) -> list[str]:
    """What is recognised, but for what the asker said."""
    for said in strings([side.said(line) for line in lines]):
        text = text.replace(said, "")
    return [word for word in side.words if word in text]


def strings(sent: Any) -> Iterator[str]:
    """All texts in it."""
    if isinstance(sent, str) and sent:
        yield sent
    elif isinstance(sent, (dict, list)):
        for each in sent.values() if isinstance(sent, dict) else sent:
            yield from strings(each)


# Completeness.


def test_every_path_and_method_of_the_data_plane_has_a_line() -> None:
    from config import asgi
    from embeddings.http import ROUTES
    from embeddings.methods import METHODS

    assert {line.name: line.scopes for line in HTTP} == {f"{r.method} {path}": r.scopes for path, r in ROUTES.items()}
    assert {line.name: line.scopes for line in SOCKET} == {name: each.scopes for name, each in METHODS.items()}
    assert policy_data_plane.OPERATIONAL.keys() == asgi._OPERATIONAL.keys()
    assert [str(each.pattern) for each in asgi._agents.routes if str(each.pattern)] == policy_data_plane.SOCKETS


# Over HTTP.


def test_who_is_not_let_in_sees_nothing(world: World) -> None:
    for name, key in {"anonymous": "", **world.refused}.items():
        for line in HTTP:
            answer = ask(world.one, line, key)
            assert (answer.status, answer.error[1]) == (401, "invalid_api_key"), (name, line)
            assert leaks(world.one, [line], answer.body.decode()) == [], (name, line)


def test_who_may_not_is_refused(world: World) -> None:
    for name, key in world.too_little.items():
        for line in HTTP:
            answer = ask(world.one, line, key)
            code = "tenant_suspended" if name == "suspended" else "key_not_permitted"
            assert (answer.status, answer.error[1]) == (403, code), (name, line)
            assert leaks(world.one, [line], answer.body.decode()) == [], (name, line)


def test_each_scope_of_a_line_opens_it_and_no_other(world: World) -> None:
    keys = {scope: world.platform.mint(world.one.tenant, scope)["key"] for scope in ("embeddings", "models:read")}
    found = {(line.name, scope): ask(world.one, line, key).status for line in HTTP for scope, key in keys.items()}
    assert found == {(line, scope): 200 if scope in opens else 403 for line, opens in _opens(HTTP) for scope in keys}


def _opens(lines: list[Line]) -> list[tuple[str, tuple[str, ...]]]:
    return [(line.name, line.scopes) for line in lines]


def test_of_a_tenant_nobody_elses_key_learns(world: World) -> None:
    for line in HTTP:
        assert ask(world.one, line, world.one.key).status == 200, line
        answer = ask(world.one, line, world.other.key)
        assert answer.status == (404 if line.suffix else 200), line
        assert leaks(world.one, [line], answer.body.decode() + str(answer.headers)) == [], line


def test_whether_a_tenant_has_embedded_a_text_nobody_else_can_tell(world: World) -> None:
    asked = [world.platform.embed(side.key, input="a secret plan") for side in (world.one, world.other, world.other)]
    assert [answer.headers["x-embedding-cached"] for answer in asked] == ["0/1", "0/1", "1/1"]


def test_a_tenants_agent_is_nobody_elses(world: World) -> None:
    for line in [each for each in HTTP if each.sent]:
        agent = f"agent-of-{world.one.mark}"
        assert ask(world.one, line, world.one.key, X_Agent_Id=agent).status == 200
        assert ask(world.one, line, world.other.key, X_Agent_Id=agent).error == (404, "not_found", "X-Agent-Id")


def test_a_tenants_idempotency_key_is_nobody_elses(world: World) -> None:
    for side in (world.one, world.other):
        first, second = (ask(side, HTTP[0], side.key, Idempotency_Key="the same for both") for _ in range(2))
        assert "idempotent-replayed" not in first.headers
        assert (second.headers["idempotent-replayed"], second.body) == ("true", first.body)


# Over sockets.


@asynccontextmanager
async def connected(world: World, key: str = "") -> Any:
    async with Agent(world.platform.port, key) as agent:
        yield agent


async def asked(agent: Agent, side: Side) -> dict[str, tuple[int, str]]:
    """This side's questions, in order; the code of the error, or 0, and all that was answered."""
    found = {}
    for line in SOCKET:
        sent, _ = side.said(line)
        try:
            found[line.name] = (0, json.dumps(await agent.call(line.name, sent)))
        except Refused as refused:
            found[line.name] = (refused.code, f"{refused.message} {refused.data}")
    return found


async def test_a_socket_without_a_key_is_answered_nothing(world: World) -> None:
    async with connected(world) as agent:
        answers = await asked_but_for_the_key(agent, world.one)
    assert {code for code, _ in answers.values()} == {UNAUTHENTICATED}
    assert all(leaks(world.one, [line], answers[line.name][1]) == [] for line in SOCKET[:-1])


async def asked_but_for_the_key(agent: Agent, side: Side) -> dict[str, tuple[int, str]]:
    found = {}
    for line in SOCKET[:-1]:
        with pytest.raises(Refused) as refused:
            await agent.call(line.name, side.said(line)[0])
        found[line.name] = (refused.value.code, f"{refused.value.message} {refused.value.data}")
    return found


@pytest.mark.parametrize("who", ["garbage", "mistyped", "revoked", "expired", "suspended", "operator"])
async def test_a_socket_with_a_key_that_is_none_is_closed(world: World, who: str) -> None:
    key = {**world.refused, **world.too_little}[who]
    async with connected(world, key) as agent:
        assert await agent.close_code() == CLOSED
    async with connected(world) as agent:
        with pytest.raises(Refused):
            await agent.call("session.authenticate", api_key=key)


@pytest.mark.parametrize("who", ["without the scope", "a viewer's"])
async def test_a_method_asks_for_its_scope(world: World, who: str) -> None:
    async with connected(world, world.too_little[who]) as agent:
        answers = await asked_but_for_the_key(agent, world.one)
    assert {code for code, _ in answers.values()} == {FORBIDDEN}
    assert all(leaks(world.one, [line], answers[line.name][1]) == [] for line in SOCKET[:-1])


async def test_over_a_socket_nobody_elses_key_learns_of_a_tenant_or_disturbs_it(world: World) -> None:
    async with connected(world, world.one.key) as own, connected(world, world.other.key) as stranger:
        answers = await asked(own, world.one)
        strangers = await asked(stranger, world.one)
        assert await own.call("ping")  # though the stranger has registered an agent of the same name

    assert {name for name, (code, _) in answers.items() if code} == {"session.authenticate"}  # it has said it already
    assert strangers.keys() == answers.keys()
    assert leaks(world.one, SOCKET, str(strangers)) == []
    assert world.one.mark in answers["agent.list"][1]
    listed = json.loads(strangers["agent.list"][1])["agents"]
    assert {each["agent_id"] for each in listed} == {"agent-of-melpomene", "agent-of-concordia"}  # its own of that name
    assert [each["name"] for each in listed if each["agent_id"] == "agent-of-concordia"] == [""]


# In Redis.


async def test_redis_holds_what_is_known_by_its_owners_name_and_nothing_of_anothers(
    world: World, vendor: FakeOpenAI
) -> None:
    use_platform(world.platform)
    sides = (world.one, world.other)
    tenants = [tenant for (tenant,) in world.platform.rows("SELECT id FROM tenants_tenant")]
    ring = KeyRing(world.platform.environment["QUIVER_ENCRYPTION_KEYS"])
    async with connected(world, world.one.key) as one, connected(world, world.other.key) as other:
        for side, agent in zip(sides, (one, other), strict=True):
            await asked(agent, side)
            try_own_credential(side)
            be_refused(side)
        vendor.switch(latency_s=2)
        under_way = [one.ask("embedding.generate", input="slow"), other.ask("embedding.generate", input="slow")]
        await asyncio.to_thread(eventually, lambda: [holds(world.platform, each.tenant) for each in sides] == [1, 1])
        held = [each for url in world.platform.redis_urls for each in held_by_redis(url)]
        vendor.switch(latency_s=0)
        await asyncio.gather(*under_way)
    found = [(*owner_of(key, tenants, ring), value) for key, value in held]

    assert {line for line, _, _ in found} == {CACHED, *TENANTS, *PLATFORMS, *NAMING_TENANTS}
    assert {str(owner) for _, owner, _ in found} >= {side.tenant for side in sides}
    wrong = {
        (line, str(owner), word)
        for line, owner, value in found
        for side in sides
        for word in side.words
        if line not in NAMING_TENANTS and str(owner) != side.tenant and word.encode() in value
    }
    assert wrong == set()


def be_refused(side: Side) -> None:
    """By a limit of its own."""
    rows = side.platform.operate("GET", "/tenant-models", key=side.key)["results"]
    path = f"/tenant-models/{next(row['id'] for row in rows if row['model_name'] == side.model)}"
    side.platform.operate("PATCH", path, {"daily_token_limit": 10}, side.key)
    said = {"model": side.model, "input": f"too much of {side.mark}", "fallback": "none"}
    fresh = {"Cache_Control": "no-cache"}
    eventually(lambda: side.platform.ask("POST", "/v1/embeddings", said, side.key, **fresh).status == 402)
    side.platform.operate("PATCH", path, {"daily_token_limit": None}, side.key)


def try_own_credential(side: Side) -> None:
    """What the sockets do not: a credential of its own, which is tested."""
    row = {"provider": "fake", "secret": {"api_key": f"sk-{side.mark}"}, "label": side.mark, "use": "last"}
    added = side.platform.operate("POST", "/provider-credentials", row, side.key)
    side.platform.operate("POST", f"/provider-credentials/{added['id']}/test", key=side.key)


def use_platform(platform: Platform) -> None:
    """Everything of the platform's own that is kept in Redis."""
    platform.operate("GET", "/embedding-models/catalog")
    platform.operate("POST", "/embedding-models/providers/fake/breaker", {"state": "auto"})
    page = platform.ask("GET", "/admin/login/")
    token = page.headers["set-cookie"].partition("csrftoken=")[2].partition(";")[0]
    form = urlencode({"username": "nobody@example.com", "password": "wrong", "csrfmiddlewaretoken": token}).encode()
    kind = "application/x-www-form-urlencoded"
    platform.ask("POST", "/admin/login/", form, Content_Type=kind, Cookie=f"csrftoken={token}")
    platform.run(
        "from billing.dashboard import platform_figures; from catalog import connection_tests; "
        "from catalog.models import Provider; from core.clock import utc_now; from embeddings import tasks; "
        "platform_figures(now=utc_now()); connection_tests.begin(Provider.objects.get(slug='fake')); "
        "tasks.follow_breakers()"
    )
