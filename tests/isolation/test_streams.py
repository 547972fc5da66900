"""What is in a stream: it is read after its request, on connections and in transactions of its own, so that its tests
commit. Told in the three ways."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.conftest import Party, client
from tests.isolation.policy import LINES, OPERATOR, Line
from tests.isolation.walls import with_row_security
from tests.isolation.worlds import MARK, World, rows_of, streamed

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]
STREAMS = [line for line in LINES if line.is_streamed]


@pytest.fixture
def both(model: Any, globex: Party, mallory: Party) -> World:
    """Mallory has a row of each kind as well: an empty stream would prove nothing."""
    rows = rows_of(globex, model)
    return World(globex, mallory, rows | {"tenant": rows_of(mallory, model)["tenant"]})


@pytest.fixture
def walls(walls: str) -> Iterator[str]:
    yield walls
    with_row_security()


def read(world: World, api: Any, line: Line) -> str:
    answer = api.get(world.path(line))
    assert (answer.status_code, answer.streaming) == (200, True), line
    return streamed(answer)


def test_a_stream_holds_its_tenants_rows_and_nobody_elses(both: World, walls: str, mint: Callable[..., str]) -> None:
    operator = client(mint(None, "operator"))
    for line in STREAMS:
        # The operator's is of the tenant that the path names: mallory.
        found = read(both, operator if line.scope == OPERATOR else both.mallory.api, line)
        assert "mallory" in found
        assert MARK not in found.lower()
        assert str(both.globex.id) not in found


def test_and_they_are_there_for_whose_they_are(both: World) -> None:
    for line in STREAMS:
        assert line.scope == OPERATOR or MARK in read(both, both.globex.api, line)
