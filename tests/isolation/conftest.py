"""Globex, which has a row of each kind, mallory, who has nothing, and the walls between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.conftest import Party
from tests.isolation.walls import WAYS, without_row_security, without_the_codes_scoping
from tests.isolation.worlds import World, add_vendor, rows_of


@pytest.fixture
def model(add_model: Callable[..., Any]) -> Any:
    add_vendor()
    return add_model("small")


@pytest.fixture
def world(model: Any, globex: Party, mallory: Party) -> World:
    return World(globex, mallory, rows_of(globex, model))


@pytest.fixture(params=WAYS)
def walls(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "the code alone":
        without_row_security()
    if request.param == "row security alone":
        with without_the_codes_scoping():
            yield request.param
    else:
        yield request.param
