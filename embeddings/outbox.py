"""What waits to be told to one socket: bounded, the oldest dropped first, and how many were dropped is known. Pure.

What is only worth anything in its newest form (the progress of a batch) takes the place of what waits under its name.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Outbox(Generic[T]):
    __slots__ = ("_count", "_most", "_waiting", "dropped")

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: dict[Hashable, T] = {}
        self._count = 0
        self.dropped = 0  # since it was last told

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, notice: T, *, name: Hashable = None) -> None:
        """With a name: in place of what waits under it."""
        if name is None:
            self._count += 1
            name = self._count
        if name not in self._waiting and len(self._waiting) >= self._most:
            del self._waiting[next(iter(self._waiting))]
            self.dropped += 1
        self._waiting[name] = notice

    def take(self) -> T | None:
        """The oldest."""
        if not self._waiting:
            return None
        return self._waiting.pop(next(iter(self._waiting)))

    def forget(self, name: Hashable) -> None:
        """What waits under this name is not worth telling any more."""
        self._waiting.pop(name, None)

    def take_dropped(self) -> int:
        dropped, self.dropped = self.dropped, 0
        return dropped
