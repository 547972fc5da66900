"""What one request has of its vectors so far, all in one space at one width, and what is still missing. Pure.

Owns the order: a row for each item, duplicates computed once. Where vectors come from is the gateway's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from core.errors import QuiverError
from embeddings.selection import Candidate
from providers.base import Vectors

Vector = NDArray[np.float32]
Items = Sequence[str] | Sequence[list[int]]


def place_of(candidate: Candidate) -> tuple[str, int, int]:
    """Space, its epoch, width: vectors of one place are comparable, all others are not."""
    deployment = candidate.choice.deployment
    return deployment.space, deployment.epoch, candidate.dimensions


class Gathered(msgspec.Struct, gc=False):
    """`names[i]` is the cache's name of `items[i]`; equal names are one text."""

    place: tuple[str, int, int]
    items: Items  # as they are sent
    counts: Sequence[int]  # tokens of each
    names: Sequence[bytes]
    rows: list[Vector | None]
    failed: dict[int, QuiverError] = msgspec.field(default_factory=dict)
    cached: int = 0  # items answered without a computation for this request
    cached_tokens: int = 0
    whole: Vectors | None = None  # all rows, where they came as one

    @property
    def computed(self) -> int:
        """Items that were computed for this request."""
        return len(self.rows) - self.cached - len(self.failed)

    @property
    def missing(self) -> list[int]:
        """Items to be computed, the first of each text."""
        if self.whole is not None:
            return []
        if len(self.rows) == 1:
            return [0] if self.rows[0] is None and not self.failed else []
        seen: set[bytes] = set()
        found = []
        for index, row in enumerate(self.rows):
            name = self.names[index]
            if row is None and index not in self.failed and name not in seen:
                seen.add(name)
                found.append(index)
        return found

    def take(self, found: Sequence[Vector | None]) -> None:
        """What the cache had."""
        for index, vector in enumerate(found):
            if vector is not None and index not in self.failed:
                self._place(index, vector, is_shared=True)

    def fill(self, vectors: Mapping[bytes, Vector], *, is_shared: bool) -> None:
        """Vectors by name, for every item of that name. `is_shared`: another request computes them."""
        for index, row in enumerate(self.rows):
            if row is None and (vector := vectors.get(self.names[index])) is not None:
                self._place(index, vector, is_shared=is_shared)

    def fill_all(self, vectors: Vectors) -> None:
        """All rows at once, in order, computed for this request."""
        self.rows[:] = vectors
        self.whole = vectors

    def fail(self, errors: Mapping[bytes, QuiverError]) -> None:
        """These texts fail alone."""
        for index, row in enumerate(self.rows):
            if row is None and (error := errors.get(self.names[index])) is not None:
                self.failed[index] = error

    def pick(self, indexes: Sequence[int]) -> tuple[Items, Sequence[int]]:
        """The items at these places and their tokens."""
        if len(indexes) == len(self.items):
            return self.items, self.counts
        return [self.items[i] for i in indexes], [self.counts[i] for i in indexes]  # type: ignore[return-value]

    def tokens_of(self, indexes: Collection[int]) -> int:
        if len(indexes) == len(self.counts):
            return sum(self.counts)
        return sum(self.counts[index] for index in indexes)

    def vectors(self) -> Vectors:
        """All rows; zeros for items that failed."""
        if self.whole is not None:
            return self.whole
        rows = [np.zeros(self.place[2], np.float32) if row is None else row for row in self.rows]
        return (rows[0] if len(rows) == 1 else np.concatenate(rows)).reshape(len(rows), -1)

    def _place(self, index: int, vector: Vector, *, is_shared: bool) -> None:
        self.rows[index] = vector
        if is_shared:
            self.cached += 1
            self.cached_tokens += self.counts[index]
