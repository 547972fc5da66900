"""The pipelined connection, on a real Valkey: order, scripts, silence, loss, return."""

from __future__ import annotations

import asyncio
import os
import signal

import hiredis
import pytest

from billing.redis_pipe import Prepared, RedisAway, RedisPipe, Script, packed, packed_set
from config.up.ports import free_port
from config.up.valkey import EmbeddedValkey

DOUBLE = Script("return redis.call('INCRBY', KEYS[1], ARGV[1] * 2)")


@pytest.fixture
def valkey(tmp_path):
    server = EmbeddedValkey(tmp_path / "valkey", free_port(), "secret", durable=False)
    process = server.start()
    server.wait_until_ready()
    yield server, process
    process.send_signal(signal.SIGCONT)
    server.stop()


@pytest.fixture
async def pipe(valkey):
    found = RedisPipe(valkey[0].url(0), patience_s=0.2, scripts=(DOUBLE,))
    found.start()
    await up(found)
    yield found
    await found.close()


async def up(pipe: RedisPipe) -> None:
    async with asyncio.timeout(10):
        while not pipe.is_up:
            await asyncio.sleep(0.01)


async def test_answers_come_to_those_who_asked(pipe):
    answers = await asyncio.gather(*(pipe.call("ECHO", number) for number in range(500)))
    assert answers == [b"%d" % number for number in range(500)]


async def test_scripts_are_there_from_the_start(pipe):
    assert await pipe.run(DOUBLE, "k", 21) == 42


async def test_a_prepared_command_is_the_one_of_the_same_words(pipe):
    echo, keep = Prepared("ECHO"), Prepared("SET", "k", 1.5)
    assert echo.followed_by(b"a\r\nb") == packed("ECHO", b"a\r\nb")
    pipe.tell_packed(keep.followed_by(b"EX", b"100"))
    assert await asyncio.gather(pipe.call_packed(echo.followed_by("ü".encode())), pipe.call("GET", "k")) == [
        "ü".encode(),
        b"1.5",
    ]


async def test_a_refusal_reaches_its_caller_alone(pipe):
    wrong, right = pipe.call("NO-SUCH-COMMAND"), pipe.call("PING")
    with pytest.raises(hiredis.ReplyError):
        await wrong
    assert await right == b"PONG"


async def test_what_nobody_waits_for_leaves_with_the_next_call_in_its_order(pipe):
    pipe.tell("SET", "told", 1)
    assert await pipe.call("INCR", "told") == 2


async def test_what_nobody_waits_for_leaves_without_another_call(pipe):
    async with asyncio.timeout(10):
        assert (
            await pipe.tell_all([packed("SET", "alone", 1), packed("NO-SUCH-COMMAND"), packed("INCR", "alone")]) == 1
        )  # refused
    assert await pipe.call("GET", "alone") == b"2"


async def test_what_nobody_waits_for_has_left_when_the_pipe_is_closed(pipe, valkey):
    other = RedisPipe(valkey[0].url(0))
    other.start()
    await up(other)
    other.tell("SET", "last", 1)
    await other.close()
    async with asyncio.timeout(10):
        while await pipe.call("GET", "last") is None:
            await asyncio.sleep(0.01)


async def test_all_of_what_is_told_to_nobody_has_failed():
    assert await RedisPipe(f"redis://127.0.0.1:{free_port()}/0").tell_all([packed("PING"), packed("PING")]) == 2


async def test_what_was_told_to_a_server_that_dies_has_failed(pipe, valkey):
    os.kill(valkey[1].pid, signal.SIGSTOP)
    told = pipe.tell_all([packed("INCR", "x"), packed("INCR", "x")])
    await asyncio.sleep(0)
    pipe._wire.close()
    os.kill(valkey[1].pid, signal.SIGCONT)
    async with asyncio.timeout(10):
        assert await told == 2


async def test_a_silent_server_is_away_until_it_speaks_again(pipe, valkey):
    os.kill(valkey[1].pid, signal.SIGSTOP)
    with pytest.raises(RedisAway):
        await pipe.call("INCR", "n")
    assert not pipe.is_up
    with pytest.raises(RedisAway):
        await pipe.call("INCR", "n")  # at once: it does not even go out
    os.kill(valkey[1].pid, signal.SIGCONT)
    await up(pipe)
    assert await pipe.call("GET", "n") == b"1"  # the late one was carried out


async def test_one_that_never_connected_is_closed_at_any_moment():
    for turns in range(40):
        nobody = RedisPipe(f"redis://127.0.0.1:{free_port()}/0")
        nobody.start()
        for _ in range(turns):
            await asyncio.sleep(0)
        async with asyncio.timeout(5):
            await nobody.close()


async def test_another_server_has_another_run_id(pipe, valkey):
    before = pipe.run_id
    server, _ = valkey
    server.stop()
    with pytest.raises(RedisAway):
        await pipe.call("PING")
    server.start()
    server.wait_until_ready()
    await up(pipe)
    assert before
    assert pipe.run_id not in ("", before)
    assert await pipe.run(DOUBLE, "k", 1) == 2


async def test_a_wrong_password_is_no_connection(valkey):
    found = RedisPipe(valkey[0].url(0).replace("secret", "guess"))
    found.start()
    with pytest.raises(RedisAway):
        await found.call("PING")
    await found.close()


def test_a_value_that_is_kept_for_some_time_is_packed_as_every_command_is():
    assert packed_set(b"key", bytes(300), 3600) == packed("SET", "key", bytes(300), "EX", 3600)
