"""Agents over WebSocket against the shipped server: who gets in, what is asked and answered, in text and binary."""

from __future__ import annotations

import asyncio
import base64

import numpy as np
import pytest

from tests.embeddings.agents import (
    BATCH,
    BATCHED,
    GENERATE,
    HEARTBEAT,
    PING,
    PONG,
    REGISTER,
    RESPONSE,
    Agent,
    Refused,
    vectors_of,
)
from tests.fakes.openai_model import expected_vector
from tests.up.processes import eventually

SMALL = "text-embedding-3-small"
pytestmark = pytest.mark.slow


async def refusal(waited):
    with pytest.raises(Refused) as caught:
        await waited
    return caught.value


# Who gets in


async def test_a_key_comes_in_a_header(platform, acme):
    async with Agent(platform.port, acme[1]) as agent:
        assert await agent.call("ping") == {"pong": True}


async def test_a_key_comes_as_a_subprotocol(platform, acme):
    async with Agent(platform.port, subprotocols=["quiver.v1", f"key.{acme[1]}"]) as agent:
        assert await agent.call("ping") == {"pong": True}
        assert agent.wire.subprotocol == "quiver.v1"


async def test_a_key_comes_in_the_first_message(platform, acme):
    async with Agent(platform.port) as agent:
        assert (await refusal(agent.call("ping"))).code == -32001
        found = await agent.call("session.authenticate", api_key=acme[1])
        assert found["tenant"] == "acme-of-the-door"
        assert await agent.call("ping") == {"pong": True}
        assert (await refusal(agent.call("session.authenticate", api_key=acme[1]))).code == -32009


@pytest.mark.parametrize(
    "options",
    [
        {"path": "/ws/v1/agents?api_key={key}"},
        {"path": "/ws/v1/agents?version=1", "additional_headers": {"X-API-Key": "{key}"}},
        {"subprotocols": ["key.{key}"]},
        {"additional_headers": {"X-API-Key": "qv_live_nonsense"}},
        {"subprotocols": ["quiver.v1", "key.{key}"], "additional_headers": {"X-API-Key": "{other}"}},
    ],
    ids=["in the address", "an address with anything", "no subprotocol of ours", "mistyped", "two that differ"],
)
async def test_other_ways_are_closed_with_4401(platform, acme, mallory, options):
    def filled(value):
        if isinstance(value, str):
            return value.format(key=acme[1], other=mallory)
        if isinstance(value, list):
            return [filled(each) for each in value]
        return {name: filled(each) for name, each in value.items()}

    async with Agent(platform.port, **{name: filled(value) for name, value in options.items()}) as agent:
        assert await agent.close_code() == 4401
    assert acme[1] not in platform.log.read_text()


async def test_a_wrong_key_in_the_first_message_is_answered_and_closed(platform):
    async with Agent(platform.port) as agent:
        error = await refusal(agent.call("session.authenticate", api_key="qv_live_nonsense"))
        assert (error.code, error.data["code"]) == (-32001, "invalid_api_key")
        assert await agent.close_code() == 4401


async def test_the_platforms_key_and_a_suspended_tenants_are_refused(platform):
    tenant, key = platform.add_tenant("suspended-on-sockets")
    async with Agent(platform.port, platform.operator_key) as agent:
        assert await agent.close_code() == 4401
    async with Agent(platform.port, key) as agent:
        assert await agent.call("ping")
        platform.operate("PATCH", f"/tenants/{tenant}", {"is_suspended": True})
        assert await agent.close_code() == 4401


async def test_a_revoked_key_closes_its_idle_sockets_within_five_seconds(platform, acme):
    key = platform.mint(acme[0], "embeddings")
    async with Agent(platform.port, key["key"]) as one, Agent(platform.port, acme[1]) as other:
        assert await one.call("ping")
        platform.operate("DELETE", f"/api-keys/{key['id']}")
        assert await one.close_code(5) == 4401
        assert await other.call("ping")


async def test_scopes_hold_for_each_method(platform, acme):
    reader = platform.mint(acme[0], "models:read")["key"]
    async with Agent(platform.port, reader) as agent:
        assert {each["id"] for each in (await agent.call("models.list"))["data"]} == {SMALL, "BAAI/bge-m3"}
        error = await refusal(agent.call("embedding.generate", input="a"))
        assert (error.code, error.data["code"]) == (-32003, "key_not_permitted")


# Agents


async def test_an_agent_registers_and_is_known_again(platform, acme):
    async with Agent(platform.port, acme[1]) as agent:
        first = await agent.register("walker", agent_type="crawler", capabilities=["search"], metadata={"a": 1})
        assert first["resumed"] is False
        assert first["limits"]["in_flight"] == 32
        again = await agent.register("walker", name="The walker")
        assert (again["resumed"], again["session_id"]) == (True, first["session_id"])
    async with Agent(platform.port, acme[1]) as agent:
        assert (await agent.register("walker"))["resumed"] is True
        row = platform.operate("GET", "/agents/walker", key=acme[1])
        assert (row["agent_type"], row["name"], row["metadata"]) == ("crawler", "The walker", {"a": 1})


async def test_a_newer_socket_of_the_same_agent_replaces_the_older(platform, acme):
    async with Agent(platform.port, acme[1]) as older, Agent(platform.port, acme[1]) as newer:
        await older.register("twice")
        session = await newer.register("twice")
        assert (await older.told("session.replaced"))["agent_id"] == "twice"
        assert await older.close_code() == 4409
        assert (await newer.register("twice"))["session_id"] == session["session_id"]


async def test_mallory_may_use_the_same_agent_id_and_touches_nothing_of_acmes(platform, acme, mallory):
    async with Agent(platform.port, acme[1]) as ours, Agent(platform.port, mallory) as hers:
        await ours.register("shared-name", name="ours")
        assert (await hers.register("shared-name", name="hers"))["resumed"] is False
        assert await ours.call("ping")
        found = (await hers.call("agent.list"))["agents"]
        assert [(each["agent_id"], each["name"]) for each in found] == [("shared-name", "hers")]
        error = await refusal(hers.call("embedding.generate", input="a", model=SMALL))
        assert (error.code, error.data["suggested_models"]) == (-32004, [])


async def test_presence_is_what_is_connected(platform, acme):
    def listed(found):
        return {each["agent_id"]: (each["connected"], each["status"]) for each in found["agents"]}

    async with Agent(platform.port, acme[1]) as watcher:
        await watcher.register("watcher")
        async with Agent(platform.port, acme[1]) as agent:
            await agent.register("present", agent_type="present")
            await agent.call("agent.heartbeat", status="busy")
            seen = listed(await watcher.call("agent.list", agent_type="present"))
            assert seen == {"present": (True, "busy")}
        async with asyncio.timeout(10):
            while listed(await watcher.call("agent.list", agent_type="present")) != {"present": (False, "offline")}:
                await asyncio.sleep(0.05)
    eventually(lambda: platform.operate("GET", "/agents/present", key=acme[1])["status"] == "offline")


async def test_pages_of_agents(platform, acme):
    async with Agent(platform.port, acme[1]) as agent:
        for number in range(3):
            platform.operate("POST", "/agents", {"agent_id": f"paged-{number}", "agent_type": "paged"}, acme[1])
        first = await agent.call("agent.list", agent_type="paged", limit=2)
        assert ([each["agent_id"] for each in first["agents"]], first["next"]) == (["paged-0", "paged-1"], "paged-1")
        rest = await agent.call("agent.list", agent_type="paged", limit=2, after=first["next"])
        assert ([each["agent_id"] for each in rest["agents"]], rest["next"]) == (["paged-2"], None)


async def test_a_key_that_is_bound_to_an_agent_is_no_other(platform, acme):
    key = platform.mint(acme[0], "embeddings", agent_id="bound")["key"]
    async with Agent(platform.port, key) as agent:
        assert (await refusal(agent.register("another"))).code == -32003
        await agent.register("bound")
        assert (await refusal(agent.register("another"))).code == -32003


async def test_one_socket_is_one_agent_and_some_methods_need_one(platform, acme):
    async with Agent(platform.port, acme[1]) as agent:
        assert (await refusal(agent.call("agent.heartbeat"))).code == -32009
        await agent.register("only")
        error = await refusal(agent.register("another"))
        assert (error.code, error.data["param"]) == (-32009, "agent_id")


# Embeddings


async def test_vectors_in_every_form_are_the_same(platform, acme):
    expected = expected_vector(SMALL, "a text", 8)
    async with Agent(platform.port, acme[1]) as agent:
        words = {"input": "a text", "model": SMALL, "dimensions": 8}
        floats = await agent.call("embedding.generate", **words)
        text = await agent.call("embedding.generate", **words, encoding="base64")
        packed = await agent.call("embedding.generate", **words, encoding="binary")
        binary = await agent.call_binary(GENERATE, words)
        deflated = await agent.call_binary(GENERATE, words, flags=1)
        listed = await agent.call_binary(GENERATE, words | {"encoding": "float"})
        encoded = await agent.call_binary(GENERATE, words | {"encoding": "base64"})
    found = [
        np.array(floats["data"][0]["embedding"], "f4"),
        np.frombuffer(base64.b64decode(text["data"][0]["embedding"]), "<f4"),
        packed.vectors[0],
        binary.vectors[0],
        deflated.vectors[0],
        np.array(listed.body["data"][0]["embedding"], "f4"),
        np.frombuffer(base64.b64decode(encoded.body["data"][0]["embedding"]), "<f4"),
    ]
    assert np.allclose(found[0], expected, atol=1e-6)
    assert all(np.array_equal(each, found[0]) for each in found)
    assert (binary.type, binary.method, binary.body["dimensions"], binary.body["count"]) == (RESPONSE, GENERATE, 8, 1)


async def test_an_answer_says_what_it_cost_and_why_this_model(platform, acme):
    async with Agent(platform.port, acme[1]) as agent:
        await agent.register("asker")
        found = await agent.call("embedding.generate", input=["one", "two"], dimensions=8)
    quiver = found["quiver"]
    assert (found["model"], found["count"], quiver["reason"]) == (SMALL, 2, "the tenant's default")
    row = platform.operate("GET", f"/usage/records/{quiver['request_id']}", key=acme[1])
    assert (row["agent_id"], row["tokens"], row["status"]) == ("asker", found["usage"]["total_tokens"], "ok")


async def test_registering_in_binary_frames(platform, acme):
    async with Agent(platform.port, acme[1]) as agent:
        found = await agent.call_binary(REGISTER, {"agent_id": "binary"})
        assert found.body["agent_id"] == "binary"
        assert (await agent.call_binary(HEARTBEAT, {})).body["status"] == "available"
        assert (await agent.call_binary(PING, {})).method == PONG


@pytest.mark.parametrize("kind", [0, BATCHED])
async def test_a_batch_is_told_how_far_it_is_and_fails_item_by_item(platform, acme, kind):
    items = [{"id": f"n{n}", "input": f"text {n} of batch {kind}", "dimensions": 8} for n in range(9)]
    items.append({"id": "bad", "input": "a", "model": "nobody-has-this"})
    async with Agent(platform.port, acme[1]) as agent:
        text = await agent.call("embedding.batch", items=items, encoding="base64")
        binary = (await agent.call_binary(BATCH, {"items": items}, type=kind, flags=4)).body
    assert (text["completed"], text["failed"], binary["completed"], binary["failed"]) == (9, 1, 9, 1)
    assert [each["id"] for each in binary["items"]] == [each["id"] for each in items]
    for one, other in zip(text["items"][:9], binary["items"][:9], strict=True):
        told = np.frombuffer(base64.b64decode(one["result"]["data"][0]["embedding"]), "<f4")
        assert np.array_equal(told, vectors_of(other["result"])[0])
    assert text["items"][9]["error"]["code"] == binary["items"][9]["error"]["code"] == -32004
    progress = [each["params"] for each in agent.news if each["method"] == "embedding.progress"]
    far = [each["completed"] + each["failed"] for each in progress]
    assert far.count(10) == 2  # the last word of each, whatever was dropped of the rest
    assert {each["total"] for each in progress} == {10}


async def test_a_batch_may_be_of_one_and_of_as_many_as_over_http(platform, acme):
    async with Agent(platform.port, acme[1]) as agent:
        one = await agent.call("embedding.batch", items=[{"id": "one", "input": "alone", "dimensions": 8}])
        assert [each["params"]["completed"] for each in agent.news] == [1]
        items = [{"id": number, "input": "alone", "dimensions": 8} for number in range(2048)]
        many = await agent.call("embedding.batch", items=items)
        error = await refusal(agent.call("embedding.batch", items=[*items, {"id": -1, "input": "alone"}]))
    assert (one["completed"], many["completed"], [each["id"] for each in many["items"]]) == (1, 2048, list(range(2048)))
    assert (agent.news[-1]["params"]["completed"], error.code, error.data["param"]) == (2048, -32602, "items")


async def test_an_answer_in_text_has_as_many_vectors_as_over_http(platform, acme):
    texts = [f"one of a thousand, {number}" for number in range(1000)]
    async with Agent(platform.port, acme[1]) as agent:
        found = await agent.call("embedding.generate", input=texts, model=SMALL)
        batch = await agent.call("embedding.batch", items=[{"id": "all", "input": texts, "model": SMALL}])
        assert [each["index"] for each in found["data"]] == list(range(1000))
        assert {len(each["embedding"]) for each in found["data"]} == {1536}
        assert batch["items"][0]["result"]["data"] == found["data"]
        error = await refusal(agent.call("embedding.generate", input=texts, model=SMALL, encoding="binary"))
        assert error.code == -32015


async def test_estimates_models_usage_and_limits_are_told(platform, acme):
    _, key = platform.add_tenant("reader")
    platform.configure(key, platform.model_id, daily_token_limit=10_000)
    async with Agent(platform.port, key) as agent:
        await agent.register("reader")
        estimate = await agent.call("embedding.estimate", input="hello world")
        assert (estimate["tokens"], estimate["candidates"][0]["model"]) == (2, SMALL)
        await agent.call("embedding.generate", input="hello world", dimensions=8)
        used = await agent.call("usage.get", period="hour")
        assert (used["agent_id"], used["total_tokens"], used["total_requests"]) == ("reader", 2, 1)
        limits = (await agent.call("quota.get"))["limits"]
        assert [(each["scope"], each["measure"], each["limit"]) for each in limits] == [("model", "tokens", 10_000)]
        assert [each["id"] for each in (await agent.call("models.list"))["data"]] == [SMALL]


async def test_without_an_agent_a_key_is_told_of_its_own_usage(platform, acme):
    key, other = (platform.mint(acme[0], "embeddings")["key"] for _ in range(2))
    async with Agent(platform.port, key) as plain, Agent(platform.port, other) as another:
        for agent in (plain, another):
            await agent.call("embedding.generate", input="hello counted world", dimensions=8)
        await plain.call("embedding.generate", input="hello once more", dimensions=8)
        used = await plain.call("usage.get", period="hour")
    assert (used["agent_id"], used["total_requests"]) == (None, 2)


async def test_what_a_limit_refuses_is_refused_here_too(platform):
    _, key = platform.add_tenant("limited-on-sockets")
    platform.configure(key, platform.model_id, daily_token_limit=3)
    async with Agent(platform.port, key) as agent:
        await agent.call("embedding.generate", input="hello world", dimensions=8)
        error = await refusal(agent.call("embedding.generate", input="hello other world", dimensions=8))
        assert (error.code, error.data["code"], error.data["quota_type"]) == (-32010, "quota_exceeded", "daily")


async def test_preferences_decide_and_the_answer_says_so(platform):
    _, key = platform.add_tenant("choosing-on-sockets")
    platform.configure(key, platform.model_id)
    large = platform.add_model(
        "fake", "text-embedding-3-large", model_identifier="text-embedding-3-large", dimensions=3072
    )
    platform.configure(key, large)
    preferences = {"primary": "text-embedding-3-large", "task_models": {"quick": SMALL}}
    async with Agent(platform.port, key) as one, Agent(platform.port, key) as other:
        await one.register("fond", preferences=preferences)
        await other.register("plain")
        answers = await asyncio.gather(
            one.call("embedding.generate", input="same text"),
            other.call("embedding.generate", input="same text"),
            one.call("embedding.generate", input="same text", task_type="quick"),
        )
        assert [each["model"] for each in answers] == ["text-embedding-3-large", SMALL, SMALL]
        assert [each["quiver"]["reason"] for each in answers] == [
            "the agent's primary",
            "the tenant's default",
            "the agent's model for task 'quick'",
        ]
        changed = await one.call("agent.update", preferences={"primary": SMALL}, status="busy")
        assert (changed["preferences"]["primary"], changed["status"]) == (SMALL, "busy")
        assert (await one.call("embedding.generate", input="same text"))["model"] == SMALL


async def test_answers_come_out_of_order_and_ids_may_be_words(platform, acme):
    async with Agent(platform.port, acme[1]) as agent:
        long = agent.ask(
            "embedding.generate", id="long", input=[f"text number {n} of many" for n in range(400)], dimensions=8
        )
        short = agent.ask("ping", id="short")
        done, _ = await asyncio.wait([long, short], return_when=asyncio.FIRST_COMPLETED, timeout=10)
        assert done == {short}
        assert (await long)["count"] == 400
