"""Money: integer nano-dollars (1e-9 USD) in flight, `Decimal` at the edges, never float.

Owns the one rounding rule of the house: a cost is rounded **up** to the next nano-dollar, once per request. So a
priced call is never free, and a hold (an upper bound of tokens) is never below what is settled from it.
"""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal
from functools import lru_cache

NANO = 1_000_000_000


def nano_from_usd(amount: Decimal) -> int:
    """USD to nano-dollars; an amount finer than a nano-dollar is rounded up."""
    return int((amount * NANO).to_integral_value(rounding=ROUND_CEILING))


def usd_from_nano(nano: int) -> Decimal:
    """Nano-dollars to USD, exact."""
    return Decimal(nano).scaleb(-9)


@lru_cache(maxsize=1024)  # an answer says it twice
def usd_text(nano: int) -> str:
    """Nano-dollars as a plain decimal string with nine places, e.g. `0.000000160`."""
    sign = "-" if nano < 0 else ""
    whole, part = divmod(abs(nano), NANO)
    return f"{sign}{whole}.{part:09d}"


def cost_nano(tokens: int, nano_per_million: int) -> int:
    """Cost of `tokens` at a price in nano-dollars per million tokens, rounded up once."""
    return -(-tokens * nano_per_million // 1_000_000)
