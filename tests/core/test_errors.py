"""The tree of public errors holds together: what it draws is what there is."""

from __future__ import annotations

import re

import pytest

from core import errors
from core.errors import QuiverError, public_errors

ALL = list(public_errors())


def drawn() -> set[tuple[str, int, str]]:
    """Class, status and code as the module's docstring draws them."""
    lines = re.findall(r"[├└]── (\w+)\s+(\d{3}) (\w+)", errors.__doc__ or "")
    return {(name, int(status), code) for name, status, code in lines}


def test_the_drawing_is_the_tree() -> None:
    assert drawn() == {(error.__name__, error.status, error.code) for error in ALL}


def test_codes_are_unique() -> None:
    assert len({error.code for error in ALL}) == len(ALL)


@pytest.mark.parametrize("error", ALL)
def test_each_error_explains_itself(error: type[QuiverError]) -> None:
    assert error.__doc__ is not None
    assert error.__doc__ != QuiverError.__doc__
    assert re.fullmatch(r"[a-z_]+", error.code)


@pytest.mark.parametrize("error", ALL)
def test_status_and_family_agree(error: type[QuiverError]) -> None:
    assert (error.status >= 500) == issubclass(error, errors.ServiceError)
    assert (error.status < 500) == issubclass(error, errors.RequestError)


def test_an_error_carries_what_the_doors_need() -> None:
    error = errors.RateLimitExceeded("slow down", param="input", retry_after=7, extra={"limit": 10})

    assert (error.message, error.param, error.retry_after, error.extra) == ("slow down", "input", 7, {"limit": 10})
    assert str(error) == "slow down"
    assert error.retryable
