"""What follows from what sources say about a model's price. Pure.

Decides: a new price is taken; a change of more than 20 % waits for somebody's approval; where sources disagree, or a
price is absurd, nothing changes and somebody is told.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

WAITS_ABOVE = Decimal("0.20")  # of the price in force
ROUNDING = Decimal("0.01")  # sources that round, or convert units, do not disagree
ABSURD_ABOVE = Decimal(10)  # USD per million: no embedding model on the market costs as much


class Outcome(StrEnum):
    SAME = "same"
    TAKE = "take"
    WAIT = "wait"
    DISAGREE = "disagree"
    ABSURD = "absurd"


@dataclass(frozen=True, slots=True)
class Finding:
    """What is to be done about one model; `usd` is the price that the sources agree on."""

    outcome: Outcome
    was: Decimal | None
    usd: Decimal | None
    told: tuple[tuple[str, Decimal], ...]  # source, its price

    @property
    def sources(self) -> str:
        return ", ".join(name for name, _ in self.told)


def decide(was: Decimal | None, told: Mapping[str, Decimal]) -> Finding | None:
    """What follows for a model that costs `was` (None: unpriced) from each source's price; None: nobody knows it."""
    if not told:
        return None
    # The first source's figure is taken: the caller puts those that it trusts first.
    pairs, usd = tuple(told.items()), next(iter(told.values()))

    def found(outcome: Outcome, price: Decimal | None = usd) -> Finding:
        return Finding(outcome, was, price, pairs)

    if not all(_agree(usd, other) for other in told.values()):
        return found(Outcome.DISAGREE, None)
    if usd > ABSURD_ABOVE:
        return found(Outcome.ABSURD)
    if was is None:
        return found(Outcome.TAKE)
    if any(_agree(was, other) for other in told.values()):
        return found(Outcome.SAME)
    # What was free and what becomes free changes by more than any part of itself.
    is_large = not was or not usd or abs(usd - was) > WAITS_ABOVE * was
    return found(Outcome.WAIT if is_large else Outcome.TAKE)


def disagreements(
    quotes: Iterable[tuple[str, str, str, Decimal]],
) -> list[tuple[str, str, tuple[tuple[str, Decimal], ...]]]:
    """Of (vendor, identifier, source, price), the models that several sources price differently, or absurdly."""
    by_model: dict[tuple[str, str], dict[str, Decimal]] = {}
    for vendor, identifier, source, usd in quotes:
        by_model.setdefault((vendor, identifier), {}).setdefault(source, usd)
    found = []
    for (vendor, identifier), told in sorted(by_model.items()):
        finding = decide(None, told)
        if finding is not None and finding.outcome in (Outcome.DISAGREE, Outcome.ABSURD):
            found.append((vendor, identifier, finding.told))
    return found


def first_of_each(quotes: Sequence[tuple[str, Decimal]]) -> dict[str, Decimal]:
    """One price per source; a source that says two things of one model is believed in its first."""
    told: dict[str, Decimal] = {}
    for source, usd in quotes:
        told.setdefault(source, usd)
    return told


def _agree(one: Decimal, other: Decimal) -> bool:
    return abs(one - other) <= ROUNDING * max(one, other)
