"""One tenant asks for ten times its share of a provider; the other waits one call longer than alone, at most.

Eight slots, a tenth of a second a call, no batches. Waits are counted in calls that were let past, not in time.
"""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from tests.fakes.openai import FakeOpenAI

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]
SLOTS, UPSTREAM_S, ASKED = 8, 0.1, 100
SHARE = SLOTS // 2
NO_CACHE = {"cache-control": "no-cache, no-store"}


@pytest.fixture(scope="module")
def narrow():
    with FakeOpenAI() as fake:
        fake.switch(latency_s=UPSTREAM_S)
        yield fake


@pytest.fixture(scope="module")
def keys(platform, narrow):
    platform.add_provider("narrow", narrow.base_url, narrow.key, max_concurrency=SLOTS, max_items=1, batch_window_ms=0)
    model, found = platform.add_model("narrow", "narrow"), {}
    for slug in ("noisy", "quiet"):
        _, found[slug] = platform.add_tenant(slug)
        platform.configure(found[slug], model)
    return found


async def test_a_neighbour_that_asks_for_ten_times_its_share(platform, narrow, keys, capsys):
    url = f"http://127.0.0.1:{platform.port}/v1/embeddings"

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def ask(tenant: str, text: str) -> None:
            headers = {"x-api-key": keys[tenant], **NO_CACHE}
            body = {"input": text, "encoding_format": "base64", "dimensions": 8}
            async with session.post(url, json=body, headers=headers) as answer:
                assert answer.status == 200, await answer.text()

        async def ask_for_ever(number: int) -> None:
            while True:
                await ask("noisy", f"noise {number}")

        async def let_past(number: int) -> int:
            """How many calls began between a quiet request and its own call."""
            text, before = f"quiet {number}", len(narrow.calls)
            await ask("quiet", text)
            return next(n for n, call in enumerate(narrow.calls[before:]) if call.body["input"] == [text])

        alone = [await let_past(number) for number in range(3)]
        noise = [asyncio.create_task(ask_for_ever(number)) for number in range(10 * SHARE)]
        full = len(narrow.calls) + 2 * SLOTS
        async with asyncio.timeout(30):
            while len(narrow.calls) < full:
                await asyncio.sleep(0.01)
        waits = sorted([await let_past(number) for number in range(3, ASKED + 3)])
        for task in noise:
            task.cancel()
        await asyncio.gather(*noise, return_exceptions=True)

    p99 = waits[int(len(waits) * 0.99) - 1]
    with capsys.disabled():
        print(  # noqa: T201
            f"\nnoisy neighbour: calls let past at p50 {waits[len(waits) // 2]}, p99 {p99}, most {waits[-1]} "
            f"(one round of the slots is {SLOTS}; without turns it would be {10 * SHARE - SLOTS})"
        )
    assert alone == [0, 0, 0]
    assert p99 <= SLOTS
