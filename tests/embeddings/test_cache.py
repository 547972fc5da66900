"""The cache: one suite over the fake and the real one, then what only the real one does, on a real Valkey."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest

from billing.redis_pipe import RedisPipe
from config.up.ports import free_port
from config.up.valkey import EmbeddedValkey
from core import metrics
from embeddings.cache import VectorCache, stacked
from providers.answers import check_vectors
from tests.embeddings.fakes import FakeCache, vectors_for

MB = 1024 * 1024
TEXTS = ["a", "b", "c"]
KEYS = [b"qc:a", b"qc:b", b"qc:c"]
FULL = [b"qc:full-a", b"qc:full-b", b"qc:full-c"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[EmbeddedValkey, Any]]:
    valkey = EmbeddedValkey(tmp_path_factory.mktemp("cache") / "valkey", free_port(), "secret", durable=False)
    process = valkey.start()
    valkey.wait_until_ready()
    yield valkey, process
    process.send_signal(signal.SIGCONT)
    valkey.stop()


@pytest.fixture
async def pipe(server) -> AsyncIterator[RedisPipe]:
    found = RedisPipe(server[0].url(0), patience_s=5.0)
    found.start()
    await up(found)
    await found.call("FLUSHALL")
    yield found
    await found.close()


@pytest.fixture
async def away() -> AsyncIterator[RedisPipe]:
    """A pipe with nobody at its other end."""
    found = RedisPipe(f"redis://127.0.0.1:{free_port()}/0")
    found.start()
    yield found
    await found.close()


async def up(pipe: RedisPipe) -> None:
    async with asyncio.timeout(10):
        while not pipe.is_up:
            await asyncio.sleep(0.01)


def real(pipe: RedisPipe, **words: Any) -> VectorCache:
    return VectorCache(pipe, **{"most_local_bytes": MB, "patience_s": 5.0, **words})


@pytest.fixture(params=["fake", "connected", "disconnected", "without memory"])
def cache(request: pytest.FixtureRequest, pipe: RedisPipe, away: RedisPipe) -> Any:
    made = {
        "fake": FakeCache,
        "connected": lambda: real(pipe),
        "disconnected": lambda: real(away),
        "without memory": lambda: real(pipe, most_local_bytes=0),
    }
    return made[request.param]()


# --- what every cache keeps to


async def test_what_was_put_is_found_bit_by_bit_and_the_rest_is_a_miss(cache):
    vectors = vectors_for(TEXTS[:2], 8)
    cache.put(KEYS[:2], vectors, 60)
    found = await cache.get([KEYS[1], KEYS[2], KEYS[0], KEYS[1]], 8)
    assert found[1] is None
    assert stacked([found[2], found[0], found[3]], 8).tobytes() == vectors[[0, 1, 1]].tobytes()
    assert found[0].dtype == np.float32


async def test_a_vector_of_another_width_is_a_miss(cache):
    cache.put(KEYS, vectors_for(TEXTS, 8), 60)
    assert await cache.get(KEYS, 4) == [None] * 3


async def test_nothing_is_found_where_nothing_was_put(cache):
    assert await cache.get(KEYS, 8) == [None] * 3
    assert await cache.get([], 8) == []


async def test_what_is_put_again_takes_the_old_ones_place(cache):
    cache.put(KEYS[:1], vectors_for(["old"], 8), 60)
    cache.put(KEYS[:1], vectors_for(["new"], 8), 60)
    assert np.array_equal((await cache.get(KEYS[:1], 8))[0], vectors_for(["new"], 8)[0])


async def test_a_full_vector_serves_its_cut(cache):
    full = vectors_for(TEXTS, 8)
    cache.put(FULL[:2], full[:2], 60)
    cache.put(KEYS[1:2], vectors_for(["its own"], 4), 60)
    found = await cache.get(KEYS, 4, full_keys=FULL, full_dimensions=8)
    assert found[0].tobytes() == check_vectors(full[:1], count=1, width=4, cut=True)[0].tobytes()
    assert np.array_equal(found[1], vectors_for(["its own"], 4)[0])
    assert found[2] is None


async def test_what_was_put_does_not_change_with_the_array_it_came_from(cache):
    vectors = vectors_for(TEXTS, 8)
    kept = vectors.copy()
    cache.put(KEYS, vectors, 60)
    vectors[:] = 0
    assert np.array_equal(stacked(await cache.get(KEYS, 8), 8), kept)


# --- Redis


async def test_other_processes_find_it_and_it_lives_as_long_as_it_was_told(pipe):
    one, other = real(pipe), real(pipe)
    vectors = vectors_for(TEXTS, 8)
    one.put(KEYS, vectors, 3600)
    assert np.array_equal(stacked(await other.get(KEYS, 8), 8), vectors)
    assert 3590 <= await pipe.call("TTL", KEYS[0]) <= 3600
    assert await pipe.call("GET", KEYS[0]) == vectors[0].astype("<f4").tobytes()


async def test_texts_in_memory_ask_nobody_and_the_others_are_asked_for_at_once(pipe):
    one, other = real(pipe), real(pipe)
    one.put(KEYS, vectors_for(TEXTS, 8), 60)
    await pipe.call("PING")
    before = pipe.statistics()["calls"]
    await one.get(KEYS, 8)
    assert pipe.statistics()["calls"] == before
    await other.get(KEYS, 8)
    await other.get(KEYS, 8)
    assert pipe.statistics()["calls"] == before + 1


async def test_much_is_asked_for_in_parts_and_comes_in_order(pipe):
    keys = [b"qc:%d" % number for number in range(700)]
    vectors = vectors_for(keys, 1536)
    writer = real(pipe, most_local_bytes=0, most_writing_bytes=8 * MB)
    writer.put(keys, vectors, 60)
    await pipe.call("PING")
    before = pipe.statistics()["calls"]
    assert np.array_equal(stacked(await writer.get(keys, 1536), 1536), vectors)
    assert pipe.statistics()["calls"] == before + 5  # of a megabyte at most


@pytest.mark.parametrize(
    "value", [b"", b"garbage", b"\0" * 32, np.full(8, np.nan, "<f4").tobytes(), np.full(8, np.inf, "<f4").tobytes()]
)
async def test_what_is_no_vector_is_a_miss(value, pipe):
    await pipe.call("SET", KEYS[0], value)
    assert await real(pipe).get(KEYS[:1], 8) == [None]


async def test_a_full_vector_of_nothing_where_it_is_cut_is_a_miss(pipe):
    await pipe.call("SET", FULL[0], np.array([0, 0, 0, 0, 1, 1, 1, 1], "<f4").tobytes())
    assert await real(pipe).get(KEYS[:1], 4, full_keys=FULL[:1], full_dimensions=8) == [None]


async def test_a_value_of_another_kind_is_a_miss(pipe):
    await pipe.call("LPUSH", KEYS[0], "a list")
    cache = real(pipe)
    cache.put(KEYS[1:2], vectors_for(["b"], 8), 60)
    assert [found is None for found in await cache.get(KEYS[:2], 8)] == [True, False]


async def test_a_redis_that_refuses_costs_misses_only(pipe):
    await pipe.call("CONFIG", "SET", "maxmemory", "1")
    try:
        cache = real(pipe, most_local_bytes=0)
        cache.put(KEYS, vectors_for(TEXTS, 8), 60)
        assert await cache.get(KEYS, 8) == [None] * 3
        assert (cache.statistics()["unwritten"], cache.statistics()["writing_bytes"]) == (3, 0)
    finally:
        await pipe.call("CONFIG", "SET", "maxmemory", "0")


async def test_a_redis_that_is_silent_is_waited_for_once_and_then_left_alone(pipe, server):
    now = 0.0
    cache = real(pipe, patience_s=0.05, clock=lambda: now, most_local_bytes=0)
    cache.put(KEYS, vectors_for(TEXTS, 8), 60)
    await pipe.call("PING")
    os.kill(server[1].pid, signal.SIGSTOP)
    try:
        assert await cache.get(KEYS, 8) == [None] * 3
        before = pipe.statistics()["calls"]
        assert await cache.get(KEYS, 8) == [None] * 3
        cache.put(KEYS, vectors_for(TEXTS, 8), 60)
        assert pipe.statistics()["calls"] == before
    finally:
        os.kill(server[1].pid, signal.SIGCONT)
    now = 2.0
    await up(pipe)
    assert all(each is not None for each in await cache.get(KEYS, 8))


async def test_no_more_than_so_much_is_on_its_way_to_redis(pipe):
    cache = real(pipe, most_writing_bytes=100)
    cache.put(KEYS * 2, vectors_for(TEXTS * 2, 8), 60)  # 32 bytes each
    assert (cache.statistics()["writing_bytes"], cache.statistics()["unwritten"]) == (96, 3)
    await pipe.call("PING")
    assert cache.statistics()["writing_bytes"] == 0


# --- this process's memory


async def test_memory_is_bounded_and_forgets_what_was_used_longest_ago(away):
    cache = real(away, most_local_bytes=8 * 2000)
    for number in range(100):
        cache.put([b"qc:%d" % number], vectors_for([number], 256), 60)
        await cache.get([b"qc:0"], 256)  # is asked for again and again
    found = await cache.get([b"qc:%d" % number for number in range(100)], 256)
    assert [number for number, vector in enumerate(found) if vector is not None] == [0, *range(89, 100)]
    assert cache.statistics()["local_bytes"] <= 8 * 2000


async def test_an_ingest_does_not_wash_out_what_is_asked_for_often(away):
    cache = real(away, most_local_bytes=80 * 1274)
    cache.put(KEYS, vectors_for(TEXTS, 256), 60)
    cache.put([b"qc:%d" % number for number in range(2048)], vectors_for(range(2048), 256), 60)
    assert all(each is not None for each in await cache.get(KEYS, 256))
    assert cache.statistics()["local"] == 13


@pytest.mark.parametrize(("ttl_s", "lives"), [(3600, 60.0), (5, 5.0)])
async def test_memory_holds_for_its_own_time_or_the_vectors_own(ttl_s, lives, away):
    now = 0.0
    cache = real(away, clock=lambda: now)
    cache.put(KEYS[:1], vectors_for(TEXTS[:1], 8), ttl_s)
    now = lives - 0.001
    assert (await cache.get(KEYS[:1], 8))[0] is not None
    now = lives
    assert await cache.get(KEYS[:1], 8) == [None]
    assert cache.statistics()["local_bytes"] == 0


async def test_hits_and_misses_are_counted_by_model(away):
    def counted() -> list[float]:
        return [each.labels("of-this-test")._value.get() for each in (metrics.cache_hits, metrics.cache_misses)]

    cache = real(away)
    cache.put(KEYS[:2], vectors_for(TEXTS[:2], 8), 60)
    before = counted()
    await cache.get(KEYS, 8, model="of-this-test")
    cache.count()
    assert [after - old for after, old in zip(counted(), before, strict=True)] == [2, 1]
    assert (cache.statistics()["hits"], cache.statistics()["misses"]) == (2, 1)
