"""Money is exact, and rounded up once."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.money import cost_nano, nano_from_usd, usd_from_nano, usd_text

nanos = st.integers(-(10**18), 10**18)
tokens = st.integers(0, 10**9)
prices = st.integers(0, 10**11)


@given(nanos)
def test_there_and_back_is_exact(nano: int) -> None:
    assert nano_from_usd(usd_from_nano(nano)) == nano


@given(nanos)
def test_the_text_reads_back_to_the_same_amount(nano: int) -> None:
    text = usd_text(nano)

    assert nano_from_usd(Decimal(text)) == nano
    assert len(text.split(".")[1]) == 9


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=0, max_value=10**6, places=15))
def test_an_amount_is_never_rounded_down(amount: Decimal) -> None:
    nano = nano_from_usd(amount)

    assert usd_from_nano(nano) >= amount > usd_from_nano(nano - 1)


@given(tokens, prices)
def test_a_cost_is_the_exact_price_rounded_up(count: int, price: int) -> None:
    cost = cost_nano(count, price)

    assert 0 <= cost * 1_000_000 - count * price < 1_000_000


@given(st.integers(1, 10**9), st.integers(1, 10**11))
def test_a_priced_call_is_never_free(count: int, price: int) -> None:
    assert cost_nano(count, price) >= 1


@given(tokens, tokens, prices)
def test_more_tokens_never_cost_less(one: int, other: int, price: int) -> None:
    fewer, more = sorted((one, other))

    assert cost_nano(fewer, price) <= cost_nano(more, price)


@pytest.mark.parametrize(
    ("count", "usd_per_million", "text"),
    [
        (8, "0.02", "0.000000160"),
        (1, "0.02", "0.000000020"),
        (1, "0.0001", "0.000000001"),
        (1_000_000, "0.13", "0.130000000"),
        (0, "0.13", "0.000000000"),
    ],
)
def test_costs_by_hand(count: int, usd_per_million: str, text: str) -> None:
    assert usd_text(cost_nano(count, nano_from_usd(Decimal(usd_per_million)))) == text


def test_negative_amounts_are_written_with_their_sign() -> None:
    assert usd_text(-1_500_000_000) == "-1.500000000"
