"""What a request costs, through the whole gateway: whose price counts, what is free, what is refused."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import pytest

from catalog.deployments import PricePoint
from core.errors import ModelUnpriced
from tests.embeddings.building import NOW, TWO_CENTS, call, choice, deployment, request, snapshot
from tests.embeddings.fakes import right
from tests.embeddings.planes import Plane

EIGHT_TOKENS = "one two three four five six seven eight"
DATED = (PricePoint(NOW + timedelta(days=1), 9), PricePoint(NOW, TWO_CENTS), PricePoint(NOW - timedelta(days=9), 1))


@pytest.fixture
async def plane():
    made = Plane()
    made.providers.behaviours["openai"] = right(tokens=8)
    yield made
    await made.close()


@pytest.fixture
def gateway(plane):
    return plane.gateway


@pytest.mark.parametrize(
    ("catalogue", "own", "nano"),
    [
        ({"price": TWO_CENTS}, None, 160),
        ({"prices": DATED}, None, 160),
        ({"prices": DATED}, 130_000_000, 1040),
        ({"price": TWO_CENTS}, 0, 0),
        ({"price": 0}, None, 0),
        ({"price": 0}, TWO_CENTS, 160),
        ({"price": None}, TWO_CENTS, 160),
        ({"price": 1}, None, 1),
    ],
    ids=["priced", "dated", "own", "own free", "free", "own though free", "own though unpriced", "never 0"],
)
async def test_eight_tokens_cost_what_the_price_in_force_says(gateway, catalogue, own, nano):
    of = snapshot(choice(deployment(**catalogue), nano_per_million=own))
    row = (await gateway.embed(request(EIGHT_TOKENS), call(of))).usage
    assert (row.tokens, row.cost_nano, row.own_price) == (8, nano, own is not None)


async def test_an_unpriced_model_is_refused_before_anybody_is_called(plane, gateway):
    with pytest.raises(ModelUnpriced) as refused:
        await gateway.embed(request(EIGHT_TOKENS), call(snapshot(choice(deployment(price=None)))))
    assert (refused.value.status, plane.ledger.calls) == (402, {})


async def test_an_unpriced_model_costs_nothing_for_who_opted_in(gateway):
    of = snapshot(choice(deployment(price=None)), unpriced_allowed=True)
    row = (await gateway.embed(request(EIGHT_TOKENS), call(of))).usage
    assert (row.tokens, row.cost_nano, row.own_price) == (8, 0, False)


async def test_a_request_that_was_charged_before_is_at_the_platforms_cost(gateway):
    again = call(snapshot(choice(deployment())), claim_id=uuid4(), free=True)
    row = (await gateway.embed(request(EIGHT_TOKENS), again)).usage
    assert (row.source, row.tokens, row.cost_nano, row.provider_tokens) == ("replay", 0, 0, 8)
