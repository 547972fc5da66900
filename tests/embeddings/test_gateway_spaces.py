"""Vector spaces never mix silently, whatever fails: ten thousand random requests, alone and at the same time."""

from __future__ import annotations

import asyncio
from random import Random

import numpy as np
import pytest

from core.errors import InternalError, QuiverError
from embeddings.breaker import Force
from embeddings.gateway import Answer
from embeddings.requests import EmbeddingRequest
from embeddings.snapshot import TenantSnapshot
from embeddings.tokens import cut, text_of
from tests.embeddings import worlds
from tests.embeddings.building import call
from tests.embeddings.planes import Plane
from tests.embeddings.worlds import Space, allowed_places, right_vector

BLOCKS, WORLDS, ROUNDS, AT_ONCE = 10, 50, 5, 4


def items_of(asked: EmbeddingRequest, answer: Answer) -> list[object]:
    """The texts, as they were to be sent to who answered."""
    most = answer.deployment.max_tokens
    texts = asked.texts or asked.tokens
    if not asked.truncate:
        return list(texts)
    return [cut(each, "cl100k_base", most) if isinstance(each, str) else each[:most] for each in texts]


def check(
    asked: EmbeddingRequest, of: TenantSnapshot, spaces: dict[str, Space], outcome: Answer | BaseException
) -> str:
    """That an outcome is right: an answer from an allowed place with the right vectors, or a documented refusal."""
    if isinstance(outcome, asyncio.CancelledError):
        return "cancelled"
    if isinstance(outcome, BaseException):
        assert isinstance(outcome, QuiverError), repr(outcome)
        assert not isinstance(outcome, InternalError)
        tried = {(each["provider"], each["model"]) for each in outcome.extra.get("attempts", ())}
        assert asked.fallback != "none" or len(tried) <= 1
        return outcome.code
    deployment = outcome.deployment
    place = (deployment.space, deployment.epoch, outcome.dimensions)
    assert place in allowed_places(asked, of), (place, asked)
    assert (outcome.usage.space, outcome.usage.dimensions) == (place[0], place[2])
    kind = None if asked.input_type is None else asked.input_type.value
    is_matryoshka = spaces[deployment.space].is_matryoshka
    for index, item in enumerate(items_of(asked, outcome)):
        if index not in outcome.failed:
            expected = right_vector(item, place, kind, is_matryoshka=is_matryoshka)
            assert np.allclose(outcome.vectors[index], expected, rtol=1e-5, atol=1e-6), (index, asked)
    assert asked.is_partial or not outcome.failed
    assert asked.fallback != "none" or len({(each.provider, each.model) for each in outcome.attempts}) <= 1
    assert outcome.usage.tokens <= outcome.usage.held_tokens
    return "ok, cached" if outcome.usage.cached else "ok, computed"


async def world(seed: int) -> list[str]:
    """One tenant: rounds of requests at the same time, over what the rounds before left in its cache."""
    rng = Random(seed)
    of, spaces = worlds.random_tenant(rng)
    plane = Plane()
    outcomes: list[str] = []
    for slug in worlds.SLUGS:
        plane.providers.behaviours[slug] = worlds.vendor(rng, rng.choice([0.0, 0.0, 0.3, 1.0]))
    plane.providers.refused = set(rng.sample(worlds.SLUGS, rng.choice([0, 0, 0, 0, 0, 1])))
    plane.limits.refuses = {each.deployment.model_id for each in of.choices if rng.random() < 0.1}
    for _ in range(ROUNDS):
        await plane.board.force(f"{rng.choice(worlds.SLUGS)}|*", rng.choice([None, None, Force.OPEN, Force.CLOSED]))
        asked = [worlds.random_request(rng, of) for _ in range(AT_ONCE)]
        tasks = [asyncio.create_task(plane.gateway.embed(each, call(of))) for each in asked]
        for _ in range(rng.randint(0, 8)):
            await asyncio.sleep(0)
        for task in tasks:
            if rng.random() < 0.05:
                task.cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        outcomes += [check(each, of, spaces, outcome) for each, outcome in zip(asked, found, strict=True)]
    await plane.idle()
    charged = sum(row.tokens for row in plane.ledger.rows.values())
    assert sum(tokens for tokens, _, _ in plane.limits.settled) == charged
    assert plane.limits.counted(of.limits[0]) == (charged, 0)
    await plane.close()
    return outcomes


@pytest.mark.slow
@pytest.mark.parametrize("block", range(BLOCKS))
async def test_every_answer_is_from_an_allowed_place_and_right_or_there_is_none(block):
    outcomes: list[str] = []
    for number in range(WORLDS):
        seed = block * WORLDS + number
        try:
            outcomes += await world(seed)
        except BaseException as error:
            error.add_note(f"in the world of seed {seed}")
            raise
    assert len(outcomes) == WORLDS * ROUNDS * AT_ONCE
    # The stories are about something: many are answered, and many different things go wrong.
    assert outcomes.count("ok, computed") > len(outcomes) // 10
    assert outcomes.count("ok, cached") > len(outcomes) // 50
    assert len(set(outcomes)) > 5


def test_token_arrays_of_these_stories_are_text_as_well():
    assert all(text_of(each) for each in worlds.TOKENS)
