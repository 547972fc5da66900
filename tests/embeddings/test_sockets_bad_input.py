"""What nobody should send to an agents' socket: each is answered by its code, and few of it end the connection."""

from __future__ import annotations

import asyncio
import zlib
from contextlib import suppress

import pytest
from websockets.exceptions import ConnectionClosed

from embeddings import frames
from tests.embeddings.agents import GENERATE, HEADER, MAGIC, PONG, REGISTER, Agent, Refused, frame
from tests.embeddings.raw_sockets import RawSocket
from tests.scenarios.platform import Platform
from tests.up.processes import eventually

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def strict(tmp_path_factory):
    """A platform whose sockets are patient for half a second and take three messages at once."""
    patience = {
        "QUIVER_SOCKET_AUTHENTICATE_SECONDS": "0.5",
        "QUIVER_SOCKET_IDLE_SECONDS": "1.5",
        "QUIVER_SOCKET_BURST": "3",
        "QUIVER_SOCKET_MESSAGES_PER_MINUTE": "60",
    }
    with Platform(tmp_path_factory.mktemp("strict") / "home", settings=patience) as running:
        yield running


def header(**words):
    """The header of a request of four bytes, with these words in it."""
    names = {"magic": MAGIC, "version": 1, "type": 0, "flags": 0, "sequence": 5, "method": 64, "reserved": 0, "size": 4}
    return HEADER.pack(*(names | words).values())


@pytest.mark.parametrize(
    ("data", "sequence", "code"),
    [
        (b"", 0, -32600),
        (b"MCPW", 0, -32600),
        (header(magic=1) + b"\x80\0\0\0", 0, -32600),
        (header(version=9) + b"\x80\0\0\0", 5, -32600),
        (header(type=1) + b"\x80\0\0\0", 5, -32600),
        (header(size=1) + b"\x80\0\0\0", 5, -32600),
        (header(size=2**32 - 1) + b"\x80\0\0\0", 5, -32015),
        (header(method=999) + b"\x80\0\0\0", 5, -32601),
        (header(flags=1) + b"\x80\0\0\0", 5, -32600),
        (header() + b"\xc1\xc1\xc1\xc1", 5, -32602),
        (frame(GENERATE, ["a"], sequence=5), 5, -32602),
        (frame(GENERATE, {"input": b"\xff"}, sequence=5), 5, -32602),
        (frame(REGISTER, {"agent_id": "a", "metadata": {"x": b"\xff"}}, sequence=5), 5, -32602),
    ],
    ids=[
        "nothing",
        "four bytes",
        "magic",
        "version",
        "type",
        "size",
        "a size beyond all",
        "method",
        "no zlib",
        "no MessagePack",
        "no map",
        "bytes for a text",
        "bytes in metadata",
    ],
)
async def test_a_malformed_binary_frame_is_answered_and_the_socket_stays(platform, acme, data, sequence, code):
    async with Agent(platform.port, acme[1]) as agent:
        found = await agent.raw(data)
        assert (found.type, found.sequence, found.body["code"]) == (frames.Type.ERROR, sequence, code)
        assert await agent.call("ping")


@pytest.mark.parametrize("kind", [0, 1], ids=["request", "response"])
async def test_a_pong_is_taken_and_not_answered(platform, acme, kind):
    async with Agent(platform.port, acme[1]) as agent:
        await agent.wire.send(frame(PONG, {}, type=kind))
        assert await agent.call("ping")
        assert agent.stray == []


@pytest.mark.parametrize(
    ("text", "id", "code"),
    [
        ("no json", None, -32700),
        ("[]", None, -32600),
        ('{"jsonrpc":"2.0","id":"x","method":"no.such"}', "x", -32601),
        ('{"jsonrpc":"2.0","id":"x","method":"embedding.generate","params":[]}', "x", -32602),
        ('{"jsonrpc":"2.0","id":"x","method":"embedding.generate","params":{"input":""}}', "x", -32602),
        ('{"jsonrpc":"2.0","id":"x","method":"embedding.generate","params":{"input":"a","speed":1}}', "x", -32602),
        ('{"jsonrpc":"2.0","id":"x","method":"agent.register","params":{"agent_id":"a/b"}}', "x", -32602),
        (
            '{"jsonrpc":"2.0","id":"x","method":"agent.register","params":{"agent_id":"a","preferences":{"mood":1}}}',
            "x",
            -32602,
        ),
    ],
)
async def test_a_bad_text_frame_is_answered_and_the_socket_stays(platform, acme, text, id, code):
    async with Agent(platform.port, acme[1]) as agent:
        found = await agent.raw(text)
        assert (found["id"], found["error"]["code"]) == (id, code)
        assert await agent.call("ping")


async def test_a_preference_that_does_not_exist_is_named(platform, acme):
    async with Agent(platform.port, acme[1]) as agent:
        with pytest.raises(Refused) as caught:
            await agent.register("moody", preferences={"mood": "good"})
        assert (caught.value.data["code"], caught.value.data["param"]) == ("unknown_field", "preferences.mood")
        assert platform.ask("GET", "/api/v1/agents/moody", key=acme[1]).status == 404


async def test_bombs_do_not_grow(platform, acme):
    bomb = zlib.compress(bytes(512 * 2**20), 9)
    before = platform.memory_mb()
    async with Agent(platform.port, acme[1]) as agent:
        for _ in range(5):
            found = await agent.raw(header(flags=1, size=len(bomb)) + bomb)
            assert found.body["code"] == -32015
    assert platform.memory_mb() - before < 200


@pytest.mark.parametrize("data", [b"x" * 10 * 2**20, "x" * 10 * 2**20, "x" * (2**20 + 1), "é" * 2**19 + "x"])
async def test_what_is_too_big_is_closed_with_1009(platform, acme, data):
    async with Agent(platform.port, acme[1]) as agent:
        with suppress(ConnectionClosed):  # it may come while this is being sent
            await agent.wire.send(data)
        assert await agent.close_code(20) == 1009


async def test_an_answer_that_fits_into_no_frame_is_refused_before_it_is_paid_for(platform, acme):
    async with Agent(platform.port, acme[1]) as agent:
        params = {"input": [f"text {n}" for n in range(2000)], "model": "text-embedding-3-small"}
        with pytest.raises(Refused) as caught:
            await agent.call_binary(GENERATE, params)
        assert (caught.value.code, caught.value.data["code"]) == (-32015, "request_too_large")


async def test_who_says_nothing_of_itself_or_nothing_at_all_is_closed(strict):
    _, key = strict.add_tenant("silent")
    async with Agent(strict.port, key, ping_interval=0.2) as pinging:
        async with Agent(strict.port) as stranger, Agent(strict.port, key) as silent:
            assert await stranger.close_code() == 4401
            assert await silent.close_code() == 4408
        assert await pinging.call("ping")  # it is the oldest, and has sent frames if no message


async def test_who_is_too_fast_is_refused_and_who_goes_on_is_closed(strict):
    _, key = strict.add_tenant("flooding")
    async with Agent(strict.port, key) as agent:
        answers = await asyncio.gather(*(agent.ask("ping") for _ in range(20)), return_exceptions=True)
        assert answers[:3] == [{"pong": True}] * 3
        assert [(each.code, each.data["retry_after"]) for each in answers[3:6]] == [(-32011, 1)] * 3
        assert await agent.close_code() == 4429


@pytest.fixture
def dawdling(vendor):
    """The vendor takes its time for texts with this word."""
    vendor.switch(by_text={"dawdle": {"latency_s": 1.5}})
    yield vendor
    vendor.switch(by_text={})


async def test_no_more_than_32_are_in_flight(platform, acme, dawdling):
    async with Agent(platform.port, acme[1]) as agent:
        asked = [agent.ask("embedding.generate", input=f"dawdle {n}", dimensions=8) for n in range(34)]
        assert await agent.call("ping")
        answers = await asyncio.gather(*asked, return_exceptions=True)
    assert [each["count"] for each in answers[:32]] == [1] * 32
    assert [(each.code, each.data["retry_after"]) for each in answers[32:]] == [(-32011, 1)] * 2


async def test_an_id_that_is_in_flight_is_not_taken_twice(platform, acme, dawdling):
    async with Agent(platform.port, acme[1]) as agent:
        first = agent.ask("embedding.generate", id="same", input="dawdle once", dimensions=8)
        with pytest.raises(Refused) as caught:  # the client pairs an answer with the request of this id that came last
            await agent.call("embedding.generate", id="same", input="another", dimensions=8)
        assert caught.value.code == -32009
        assert not first.done()


async def test_what_is_given_up_is_answered_at_once_and_charged_once(platform, dawdling):
    tenant, key = platform.add_tenant("gives-up")
    platform.configure(key, platform.model_id)
    async with Agent(platform.port, key) as agent:
        asked = agent.ask("embedding.generate", id="x", input="dawdle and go", dimensions=8)
        assert await agent.call("ping")
        assert await agent.call("embedding.cancel", id_="x") == {"id": "x", "cancelled": True}
        with pytest.raises(Refused) as caught:
            await asyncio.wait_for(asked, 1)
        assert (caught.value.code, caught.value.data) == (-32014, {"code": "cancelled"})
        assert (await agent.call("embedding.cancel", id_="x"))["cancelled"] is False
        rows = f"SELECT status, tokens FROM billing_usagerow WHERE tenant_id = '{tenant}'"
        eventually(lambda: platform.rows(rows), 10)
        again = await agent.call("embedding.generate", input="dawdle and go", dimensions=8)
        assert (again["quiver"]["cached"], again["usage"]["total_tokens"]) == (1, 0)
        assert sorted(platform.rows(rows))[0][1] == 0
        assert len([each for each in platform.rows(rows) if each[1] > 0]) == 1


async def test_what_was_asked_in_a_binary_frame_is_given_up_by_its_sequence(platform, acme, dawdling):
    async with Agent(platform.port, acme[1]) as agent:
        asked = agent.ask_binary(GENERATE, {"input": "dawdle in bytes", "dimensions": 8}, sequence=77)
        assert await agent.call("ping")
        assert await agent.call("embedding.cancel", id_=77) == {"id": 77, "cancelled": True}
        with pytest.raises(Refused) as caught:
            await asyncio.wait_for(asked, 1)
        assert (caught.value.code, caught.value.data) == (-32014, {"code": "cancelled"})


async def test_an_unknown_path_is_no_socket(platform, acme):
    wire = RawSocket(platform.port, acme[1], path="/ws/v1/other")
    assert wire.status == 403
    assert platform.ask("GET", "/livez").status == 200
