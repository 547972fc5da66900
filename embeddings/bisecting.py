"""A call was refused for a text: finds which. Pure.

Decides which part of a refused call is tried next, and when to give up. Eight bad texts are always found, each with two
calls for every halving at most. Then what is still together stays so: it fails as a whole. The same when eight texts
were refused alone and none accepted, for then it is hardly the texts that are wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

T = TypeVar("T")

_BAD_TEXTS = 8


class Bisection(Generic[T]):
    """Begins with items that were refused together. Try `next_part()`, say how that ended, until there is none."""

    def __init__(self, items: Sequence[T]) -> None:
        self._parts: list[Sequence[T]] = []
        self._calls_left = most_calls(len(items))
        self._refused_alone = 0
        self.has_accepted = False  # anything: then it is some texts that are bad, and not all of the call
        self.refused(items)

    def next_part(self) -> Sequence[T] | None:
        """What to send now; the parts come in order."""
        return self._parts.pop() if self._parts else None

    def accepted(self) -> None:
        self.has_accepted = True
        self._calls_left -= 1

    def refused(self, part: Sequence[T]) -> bool:
        """Whether the part is to be tried again in halves. Else that is the end of it: all of it has failed."""
        self._calls_left -= 1
        if len(part) == 1:
            self._refused_alone += 1
            return False
        if self._calls_left <= 0 or (not self.has_accepted and self._refused_alone >= _BAD_TEXTS):
            return False
        middle = len(part) // 2
        self._parts += [part[middle:], part[:middle]]
        return True


def most_calls(items: int) -> int:
    """Calls made for one that is refused, itself included, before parts are given up unhalved. Those that are pending
    then are tried once each: one for every halving at most."""
    return 1 + 2 * _BAD_TEXTS * max(0, items - 1).bit_length()
