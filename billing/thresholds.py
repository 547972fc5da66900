"""At which parts of a limit somebody is told. Pure.

Decides that of several thresholds crossed at once the highest alone is told, that a threshold is told once per period
whatever happens to the limit meanwhile, and that what is told of ends when less than that is used again.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from alerts import kinds

ALL = 100


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be done about one limit in one period; thresholds in per cent."""

    tell: int | None  # newly crossed, the highest of them
    covered: tuple[int, ...] = ()  # newly crossed below it
    cleared: tuple[int, ...] = ()  # told of, and not crossed (any more)
    returned: tuple[int, ...] = ()  # cleared before, and crossed again


def thresholds_of(own: Sequence[int], tenants: Sequence[int], *, is_hard: bool) -> tuple[int, ...]:
    """The limit's own thresholds, else the tenant's. What refuses requests is always told of when it is used up."""
    return tuple(sorted({*(own or tenants), *((ALL,) if is_hard else ())}))


def is_crossed(threshold: int, *, amount: int, used: int) -> bool:
    """Nothing used crosses nothing, also of a limit of 0: that one is meant to be used up."""
    return used > 0 and used * 100 >= threshold * amount


def judge(
    *, amount: int, used: int, thresholds: Collection[int], told: Collection[int], resolved: Collection[int]
) -> Verdict:
    """`told` were told of in this period, `resolved` are those of them that are over."""
    crossed = {each for each in thresholds if is_crossed(each, amount=amount, used=used)}
    new = sorted(each for each in crossed if each > max(told, default=0))
    still = {each for each in told if is_crossed(each, amount=amount, used=used)}
    return Verdict(
        tell=new[-1] if new else None,
        covered=tuple(new[:-1]),
        cleared=tuple(sorted(set(told) - still - set(resolved))),
        returned=tuple(sorted(still & set(resolved))),
    )


def kind_of(measure: str, threshold: int) -> str:
    """The kind of alert that a threshold of a limit is."""
    if measure == "usd":
        return kinds.BUDGET_EXCEEDED if threshold >= ALL else kinds.BUDGET_WARNING
    return kinds.QUOTA_EXCEEDED if threshold >= ALL else kinds.QUOTA_WARNING
