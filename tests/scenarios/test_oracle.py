"""Ten thousand random requests through cache, single flight and batches, beside an oracle that has none of them.

The data plane runs whole in this process, with its vectors in a real Valkey; providers, ledger and limits stand in.
"""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import AsyncIterator
from random import Random
from typing import Any
from uuid import UUID

import numpy as np
import orjson
import pytest

from billing.redis_pipe import RedisPipe
from embeddings import answers
from embeddings.cache import VectorCache
from embeddings.requests import EmbeddingRequest
from embeddings.snapshot import Choice, TenantSnapshot
from providers.answers import check_vectors
from providers.base import EmbedAnswer, EmbedCall, Endpoint, InputType, Vectors
from providers.failures import FailureKind, ProviderFailure
from tests.embeddings.boards import connected
from tests.embeddings.building import ACME, call, choice, deployment, endpoint, request, snapshot, token_request
from tests.embeddings.planes import Plane
from tests.embeddings.worlds import FULL, Space, answer_of

REQUESTS, AT_ONCE = 10_000, 40
GLOBEX = UUID(int=2)
TEXTS = [f"text {number}" for number in range(400)]
TOKENS = [[number + 64, 1917] for number in range(50)]
CUT, FIXED = Space("cut", 1, True), Space("fixed", 1, False)


class Vendor:
    """Takes its time, and now and then fails."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self.calls = 0
        self.items = 0

    async def embed(self, asked: EmbedCall, *, timeout_s: float) -> EmbedAnswer:
        self.calls += 1
        self.items += len(asked.inputs)
        await asyncio.sleep(self._rng.random() * 0.004)
        if self._rng.random() < 0.03:
            raise ProviderFailure(FailureKind.SERVER, "now and then")
        return EmbedAnswer(answer_of(asked), len(asked.inputs))


class Vendors:
    def __init__(self, vendor: Vendor) -> None:
        self._vendor = vendor

    def get(self, endpoint: Endpoint) -> Vendor:
        return self._vendor


def tenant(tenant_id: UUID) -> TenantSnapshot:
    """Two models at two providers each: one can be cut to any width, one has two widths that are not comparable."""

    def at(slug: str, space: Space, **words: Any) -> Choice:
        return choice(
            deployment(
                space.name,
                provider=slug,
                identifier=space.identifier(FULL),
                space=space.name,
                dimensions=FULL,
                max_items=16,
                batch_window_s=0.002,
                endpoints=(endpoint(slug, max_concurrency=3),),
                **words,
            )
        )

    fixed = {"takes_dimensions": True, "allowed_dimensions": frozenset({4})}
    return snapshot(
        *(at(slug, CUT, is_matryoshka=True) for slug in ("p", "q")),
        *(at(slug, FIXED, **fixed) for slug in ("p", "q")),
        tenant_id=tenant_id,
    )


def random_request(rng: Random) -> EmbeddingRequest:
    words = {
        "model": rng.choice(["cut", "fixed"]),
        "dimensions": rng.choice([None, None, FULL, 4]),
        "input_type": rng.choice([None, None, InputType.QUERY]),
        "base64": rng.random() < 0.5,
        "reads_cache": rng.random() < 0.95,
        "fills_cache": rng.random() < 0.95,
    }
    count = min(1 + int(rng.expovariate(0.4)), 40)
    if rng.random() < 0.1:
        return token_request(*rng.choices(TOKENS, k=count), **words)
    favourites = [TEXTS[int(min(rng.expovariate(0.01), len(TEXTS) - 1))] for _ in range(count)]
    return request(*favourites, **words)


def oracle(asked: EmbeddingRequest) -> Vectors:
    """One call for this request alone, and nothing remembered."""
    space, width = (CUT if asked.model == "cut" else FIXED), asked.dimensions or FULL
    whole = answer_of(
        EmbedCall(
            identifier=space.identifier(FULL),
            inputs=asked.texts or asked.tokens,
            width=width,
            dimensions=None if space is CUT or width == FULL else width,
            input_type=asked.input_type,
        )
    )
    return check_vectors(whole, count=asked.items, width=width, cut=space is CUT)


def read(body: bytes) -> Vectors:
    """The vectors of an answer as a client reads them."""
    data = orjson.loads(body)["data"]
    assert [each["index"] for each in data] == list(range(len(data)))
    return np.stack([_floats(each["embedding"]) for each in data])


def _floats(written: str | list[float]) -> Vectors:
    if isinstance(written, str):
        return np.frombuffer(base64.b64decode(written), "<f4")
    return np.array(written, np.float32)


@pytest.fixture
async def plane() -> AsyncIterator[Plane]:
    pipe = RedisPipe(os.environ["REDIS_URL"], patience_s=5.0)
    pipe.start()
    await connected(pipe)
    # A memory that is far too small: most hits come from Valkey.
    made = Plane(cache=VectorCache(pipe, most_local_bytes=20_000, patience_s=5.0), vendors=Vendors(Vendor(Random(2))))
    yield made
    await made.close()
    await pipe.close()


@pytest.mark.slow
async def test_ten_thousand_random_requests_get_what_they_would_get_alone(plane):
    rng, vendor = Random(1), plane.vendors.get(None)
    tenants = [tenant(ACME), tenant(GLOBEX)]
    asked = [random_request(rng) for _ in range(REQUESTS)]
    waiting = iter(asked)
    differences, failures, cached = [], [], 0

    async def client() -> None:
        nonlocal cached
        for each in waiting:
            try:
                answer = await plane.gateway.embed(each, call(rng.choice(tenants), seconds=30))
            except Exception as error:  # noqa: BLE001  counted below
                failures.append(error)
                continue
            cached += answer.usage.cached
            body = answers.write_answer(answer, answers.write_data(answer.vectors, base64=each.base64))
            if read(body).tobytes() != oracle(each).tobytes():
                differences.append(each)

    await asyncio.gather(*(client() for _ in range(AT_ONCE)))
    await plane.idle()
    items = sum(each.items for each in asked)
    assert differences == []
    assert len(failures) < REQUESTS // 50, failures[:3]
    assert cached > items // 4  # the story is about a cache, and about calls that are shared
    assert vendor.calls < REQUESTS // 2
    assert vendor.items < items // 2
