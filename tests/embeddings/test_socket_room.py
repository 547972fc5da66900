"""Large answers on a socket: which are refused before they are paid for, and what those hear that come too late."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from embeddings.socket_embeddings import EmbeddingMethods
from tests.embeddings.building import choice, deployment, grant, snapshot
from tests.embeddings.planes import Plane, until
from tests.embeddings.test_connection import Reader, asking, connected

NARROW, WIDE = deployment("narrow"), deployment("wide", dimensions=30_000)
AWAY = deployment("away", provider="away")


class Known:
    def known(self, digest: bytes) -> Any:
        return grant(), snapshot(choice(NARROW), choice(WIDE), choice(AWAY, fallback_model_id=WIDE.model_id))


class Asker:
    """A client that reads at once, on a socket of a tenant with a narrow model, a wide one, and one that is away."""

    def __init__(self, plane: Plane) -> None:
        self.reader = Reader()
        self.reader.is_open.set()
        sockets, self.connection = connected(self.reader)
        nothing: Any = None
        known: Any = Known()
        sockets.configuration, self.connection.digest = known, b"of its key"
        sockets.handlers = EmbeddingMethods(
            gateway=plane.gateway, estimates=nothing, turns=sockets.turns, deadline_s=10
        ).handlers
        self.sockets = sockets

    async def ask(self, method: str, **params: Any) -> Any:
        """What comes last: an answer."""
        await self.connection.take(asking(method, 1, params))
        await until(lambda: self.connection.under_way == self.sockets.statistics()["tasks"] == 0)
        return self.reader.taken[-1]


@pytest.fixture
async def plane():
    plane = Plane()
    yield plane
    await plane.close()


async def test_a_model_that_is_named_with_its_provider_has_its_own_width(plane):
    asker, texts = Asker(plane), [f"text {number}" for number in range(40)]
    narrow = await asker.ask("embedding.generate", input=texts, model="openai/narrow", encoding="binary")
    wide = await asker.ask("embedding.generate", input=texts, model="openai/wide", encoding="binary")
    assert "bytes" in narrow
    assert orjson.loads(wide["text"])["error"]["code"] == -32015
    assert [usage.model for usage in plane.ledger.rows.values()] == ["narrow"]


async def test_what_finds_no_room_once_it_is_paid_for_says_that_it_is_cached(plane):
    asker = Asker(plane)
    items = [{"id": each, "model": "wide", "input": [f"{each} {number}" for number in range(6)]} for each in "ab"]
    others = 62 * 2**20
    asker.connection.held += others  # large answers that nobody has read
    found = orjson.loads((await asker.ask("embedding.batch", items=items))["text"])["result"]
    refused = next(each for each in found["items"] if "error" in each)
    assert (found["completed"], found["failed"], refused["error"]["code"]) == (1, 1, -32011)
    assert "cached" in refused["error"]["message"]
    asker.connection.held -= others
    again = orjson.loads((await asker.ask("embedding.batch", items=items))["text"])["result"]
    assert [each["result"]["quiver"]["cached"] for each in again["items"]] == [6, 6]
    assert (asker.connection.held, asker.sockets.statistics()["held"]) == (0, 0)


async def test_a_wider_model_that_stood_in_takes_the_room_that_its_answer_needs(plane):
    asker, texts = Asker(plane), [f"text {number}" for number in range(12)]
    plane.providers.refused.add("away")
    others = 62 * 2**20
    asker.connection.held += others  # large answers that nobody has read
    refused = orjson.loads((await asker.ask("embedding.generate", input=texts, model="away"))["text"])["error"]
    assert (refused["code"], "cached" in refused["message"]) == (-32011, True)
    asker.connection.held -= others
    again = orjson.loads((await asker.ask("embedding.generate", input=texts, model="away"))["text"])["result"]
    assert (again["model"], again["quiver"]["cached"]) == ("wide", 12)
