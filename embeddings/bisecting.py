"""A call was refused for a text: finds which. Pure.

Decides which part of a refused call is tried next, and when to give up: after so many calls that some bad texts are
found among the most that a call carries (each takes two calls for every halving), or when text after text is refused
alone and none is accepted, for then it is not a text that is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")

_BAD_TEXTS = 8  # as many are found in one call at least
_REFUSED_IN_A_ROW = 4


@dataclass(slots=True)
class Bisection(Generic[T]):
    """Give it all items, try `next_part()`, and say how that ended, until there is none."""

    items: Sequence[T]
    _parts: list[Sequence[T]] = field(init=False)
    _calls_left: int = field(init=False)
    _accepted: bool = field(init=False, default=False)
    _refused_alone: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._parts = [self.items]
        self._calls_left = most_calls(len(self.items))

    def next_part(self) -> Sequence[T] | None:
        """What to send now, in order."""
        return self._parts.pop() if self._parts else None

    def accepted(self) -> None:
        self._accepted = True
        self._calls_left -= 1

    def refused(self, part: Sequence[T]) -> bool:
        """Whether it is halved and tried again; else all of it has failed."""
        self._calls_left -= 1
        if len(part) == 1:
            self._refused_alone += 1
            return False
        if self._calls_left <= 0 or (not self._accepted and self._refused_alone >= _REFUSED_IN_A_ROW):
            return False
        middle = len(part) // 2
        self._parts += [part[middle:], part[:middle]]
        return True


def most_calls(items: int) -> int:
    """Calls made for one that is refused, itself included, before parts are given up unhalved. Those that are pending
    then are tried once each: one for every halving at most."""
    return 1 + 2 * _BAD_TEXTS * max(0, items - 1).bit_length()
