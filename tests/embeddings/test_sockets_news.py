"""News for agents: who is told what, nobody else, and how one finds out that something was missed, or somebody gone."""

from __future__ import annotations

import asyncio
import os
import random
import signal

import pytest
import redis

from tests.embeddings.agents import PING, REGISTER, Agent, Refused
from tests.scenarios.platform import Platform
from tests.up.processes import eventually

pytestmark = pytest.mark.slow
TOPICS = ["models", "quotas", "budgets", "breakers", "alerts"]


@pytest.fixture(scope="module")
def home(tmp_path_factory, vendor):
    """A platform of this module's own, with two workers: its models move, and its agents are soon taken for gone."""
    soon = {"QUIVER_SOCKET_PRESENCE_SECONDS": "3"}
    with Platform(tmp_path_factory.mktemp("news") / "home", workers=2, settings=soon) as running:
        running.add_provider("fake", vendor.base_url, vendor.key)
        running.model_id = running.add_model("fake")
        yield running


def publish(platform, code):
    """Tells something from a process of the control plane's."""
    platform.run(f"from uuid import UUID; from embeddings import news; {code}")


async def test_models_that_move_are_told_to_tenants_that_have_them_and_to_nobody_else(home):
    _, ours = home.add_tenant("has-it")
    _, others = home.add_tenant("has-it-not")
    model = home.add_model("fake", "moving", model_identifier="text-embedding-3-small")
    home.configure(ours, model)
    async with Agent(home.port, ours) as agent, Agent(home.port, ours) as deaf, Agent(home.port, others) as other:
        for number, each in enumerate((agent, deaf, other)):
            await each.register(f"a{number}")
        for each in (agent, other):
            await each.call("subscribe", topics=TOPICS)
        words = {"to": "deprecated", "reason": "old", "sunset_at": "2031-01-01T00:00:00Z"}
        home.operate("POST", f"/embedding-models/catalog/{model}/transition", words)
        told = await agent.told("model.deprecated")
        assert (told["topic"], told["model"], told["provider"], told["now"]) == (
            "models",
            "moving",
            "fake",
            "deprecated",
        )
        words = {"sunset_at": "2032-01-01T00:00:00Z", "reason": "later"}
        home.operate("POST", f"/embedding-models/catalog/{model}/sunset", words)
        await agent.until(lambda: len(agent.news) == 2)
        told = [(each["method"], each["params"]["was"], each["params"]["sunset"]) for each in agent.news]
        assert told == [
            ("model.deprecated", "available", "2031-01-01T00:00:00Z"),
            ("model.deprecated", "deprecated", "2032-01-01T00:00:00Z"),
        ]
        for each in (deaf, other):
            await each.call("ping")
            assert each.news == []


async def test_a_quota_that_is_used_up_and_given_back_is_told(home):
    _, key = home.add_tenant("used-up")
    configured = home.configure(key, home.model_id, daily_token_limit=10)
    async with Agent(home.port, key) as agent:
        await agent.register("spender")
        await agent.call("subscribe", topics=["quotas", "budgets", "alerts"])
        await agent.call("embedding.generate", input="one two three four five six seven eight", dimensions=8)
        home.run(
            "from billing.limit_checks import BUDGETS, QUOTAS, check; from core.clock import utc_now; "
            "check(QUOTAS, now=utc_now()); check(BUDGETS, now=utc_now())"
        )
        warned = await agent.told("quota.warning")
        assert (warned["topic"], warned["detail"]["measure"], warned["threshold"]) == ("quotas", "tokens", 80)
        assert (await agent.told("alert.raised"))["kind"] == "quota_warning"
        home.operate("PATCH", f"/tenant-models/{configured['id']}", {"daily_token_limit": 1000}, key)
        assert (await agent.told("quota.reset"))["detail"]["measure"] == "tokens"


async def test_alerts_need_a_right_of_their_own(home):
    tenant, _ = home.add_tenant("secretive")
    key = home.mint(tenant, "embeddings")["key"]
    async with Agent(home.port, key) as agent:
        with pytest.raises(Refused) as caught:
            await agent.call("subscribe", topics=["models", "alerts"])
        assert caught.value.code == -32003
        assert (await agent.call("subscribe", topics=["models", "quotas"]))["topics"] == ["models", "quotas"]
        assert (await agent.call("unsubscribe", topics=["models"]))["topics"] == ["quotas"]


async def test_who_comes_back_learns_that_something_was_missed(home):
    tenant, key = home.add_tenant("away")
    async with Agent(home.port, key) as agent:
        first = (await agent.register("traveller"))["event_id"]
    async with Agent(home.port, key) as agent:
        assert (await agent.register("traveller", last_event_id=first))["event_id"] == first
        await agent.call("ping")
        assert agent.news == []
    publish(home, f"news.publish([UUID('{tenant}')], 'models', 'model.available', {{'model': 'm'}})")
    async with Agent(home.port, key) as agent:
        found = await agent.register("traveller", last_event_id=first)
        assert (await agent.told("resync")) == {"reason": "gap", "event_id": found["event_id"]}
        assert found["event_id"] != first


async def test_who_is_connected_learns_of_what_never_came(home):
    tenant, key = home.add_tenant("unlucky")
    async with Agent(home.port, key) as agent:
        await agent.register("unlucky")
        await agent.call("subscribe", topics=["models"])
        # A number was taken, and its event lost on the way.
        publish(home, f"news._numbered([UUID('{tenant}')])")
        assert (await agent.told("resync", 15))["reason"] == "gap"


async def test_the_next_event_shows_that_the_one_before_never_came(home):
    tenant, key = home.add_tenant("unluckier")
    async with Agent(home.port, key) as agent:
        await agent.call("subscribe", topics=["models"])
        publish(
            home,
            f"news._numbered([UUID('{tenant}')]); "
            f"news.publish([UUID('{tenant}')], 'models', 'model.available', {{'model': 'm'}})",
        )
        await agent.told("model.available")
        assert [each["method"] for each in agent.news] == ["resync", "model.available"]


async def test_what_happens_between_registering_and_subscribing_is_missed(home):
    tenant, key = home.add_tenant("slow-to-subscribe")
    async with Agent(home.port, key) as agent:
        await agent.register("slow")
        publish(home, f"news.publish([UUID('{tenant}')], 'models', 'model.available', {{'model': 'm'}})")
        await agent.call("subscribe", topics=["models"])
        assert (await agent.told("resync"))["reason"] == "gap"


async def test_binary_agents_hear_in_binary(home):
    tenant, key = home.add_tenant("binary-news")
    async with Agent(home.port, key) as agent:
        await agent.call_binary(REGISTER, {"agent_id": "binary"})
        await agent.call("subscribe", topics=["models"])
        publish(home, f"news.publish([UUID('{tenant}')], 'models', 'model.available', {{'model': 'm'}})")
        assert (await agent.told("model.available"))["model"] == "m"
        assert (await agent.call_binary(PING, {})).body == {"pong": True}


# What the house tells through its own signals, and what is told straight away; `ids` and `sent` stand before it.
TELLING = """
from uuid import uuid4
from alerts.signals import alert_raised
from catalog.loading import load_catalog
from embeddings.breaker import State
from embeddings.breaker_copies import Change
from embeddings.receivers import tell_of_breaker
from embeddings.routes import route_key
routes = {d.name: route_key(e, d.identifier) for d in load_catalog().deployments.values() for e in d.endpoints}
def tell_of_model(to, n):
    news.publish([UUID(ids[to])], 'models', 'model.available', {'n': n})
def tell_of_alert(to, n):
    about = {'kind': 'quota_warning', 'severity': 'warning', 'title': n, 'detail': {}, 'threshold': 80}
    alert_raised.send(None, tenant_id=UUID(ids[to]), alert_id=uuid4(), period_start=None, **about)
def tell_of_route(to, n):
    tell_of_breaker(Change(routes[f'isolated-{to}'], State.CLOSED, State.OPEN, n, True))
def tell_of_nobodys(to, n):
    tell_of_breaker(Change('fake||nobody-has-this|', State.CLOSED, State.OPEN, n, True))
acts = {'model': tell_of_model, 'alert': tell_of_alert, 'breaker': tell_of_route, 'nobody': tell_of_nobodys}
for n, (to, what) in enumerate(sent):
    acts[what](to, str(n))
"""
HEARD = {
    "model": ["model.available"],
    "alert": ["quota.warning", "alert.raised"],
    "breaker": ["breaker.opened"],
    "nobody": [],
}


async def test_of_a_thousand_events_none_reaches_another_tenant(home, vendor):
    tenants = [home.add_tenant(f"isolated-{number}") for number in range(5)]
    for number, (_, key) in enumerate(tenants):  # each with a route of its own
        home.add_provider(f"isolated-{number}", vendor.base_url, vendor.key)
        home.configure(key, home.add_model(f"isolated-{number}", f"isolated-{number}"))
    ids = [tenant for tenant, _ in tenants]
    agents = [Agent(home.port, tenants[number % 5][1]) for number in range(50)]
    async with asyncio.timeout(240):
        await asyncio.gather(*(agent.__aenter__() for agent in agents))
        for number, agent in enumerate(agents):
            await agent.register(f"agent-{number}")
            await agent.call("subscribe", topics=TOPICS)
        chance = random.Random(50)
        sent = [(chance.randrange(5), chance.choice(list(HEARD))) for _ in range(1000)]
        await asyncio.to_thread(publish, home, f"ids = {ids!r}; sent = {sent!r}\n{TELLING}")
        expected = [
            [(name, str(n)) for n, (to, what) in enumerate(sent) if to == number % 5 for name in HEARD[what]]
            for number in range(50)
        ]
        for number, agent in enumerate(agents):
            await agent.until(lambda agent=agent, number=number: len(agent.news) >= len(expected[number]), 60)
            assert await agent.call("ping")  # and nothing comes behind it
    for agent, theirs in zip(agents, expected, strict=True):
        assert [(each["method"], number_of(each["params"])) for each in agent.news] == theirs
    await asyncio.gather(*(agent.__aexit__() for agent in agents))


def number_of(params):
    """Where each kind of news says which of the thousand it is."""
    return params.get("n", params.get("title", params.get("reason")))


async def test_agents_whose_worker_was_killed_are_soon_gone_from_lists_redis_and_rows(home):
    tenant, key = home.add_tenant("killed")
    async with Agent(home.port, key) as doomed:
        await doomed.register("doomed")
        for pid in home.worker_pids:
            os.kill(pid, signal.SIGKILL)
        await doomed.close_code()
    eventually(home.is_ready, 60)
    sessions = redis.from_url(home.environment["REDIS_URL"], decode_responses=True)
    async with Agent(home.port, key) as watcher:
        await watcher.register("watcher")
        async with asyncio.timeout(10):
            while await connected(watcher) != {"doomed": False, "watcher": True}:
                await asyncio.sleep(0.1)
            while "doomed" in sessions.hkeys(f"quiver:sessions:{{{tenant}}}"):
                await asyncio.sleep(0.1)
        eventually(lambda: home.operate("GET", "/agents/doomed", key=key)["status"] == "offline")
        assert await connected(watcher) == {"doomed": False, "watcher": True}
    sessions.close()


async def connected(agent):
    """By agent, as the tenant's agents are listed."""
    return {each["agent_id"]: each["connected"] for each in (await agent.call("agent.list"))["agents"]}
