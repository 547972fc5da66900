"""Whether vectors are an answer: the last gate between what a provider said and what a caller gets.

Decides count, width, finiteness and length; cuts Matryoshka vectors. Leaves the wire to the adapters, and whether a
model may be cut to the catalogue.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from providers.base import Vectors
from providers.failures import FailureKind, ProviderFailure


def check_vectors(vectors: Vectors, *, count: int, width: int, cut: bool) -> Vectors:
    """`vectors` if they are `count` finite non-zero vectors of `width` floats, else `ProviderFailure` (BAD_ANSWER).

    With `cut` (only for models declared Matryoshka) wider vectors are cut to `width` and brought back to unit length,
    as OpenAI documents for its own `dimensions`. Takes and gives float32 of shape (count, width); the result is the
    argument itself unless something was cut.
    """
    if vectors.ndim != 2 or len(vectors) != count:
        raise _bad(f"{count} vectors expected, the answer has shape {vectors.shape}")
    wide = vectors.shape[1]
    if wide != width and not (cut and wide > width):
        raise _bad(f"vectors of {width} floats expected, the answer has {wide}")
    if wide > width:
        _squared_lengths(vectors)  # the part that is cut off must be sound as well
        vectors = vectors[:, :width]
        lengths = np.sqrt(_squared_lengths(vectors))
        return (vectors / lengths[:, None]).astype(np.float32)
    if count == 1:  # the common call, spared the array logic: the sum of squares sees NaN, infinity and zero at once
        vector = vectors[0]
        if 0.0 < float(np.vdot(vector, vector)) < math.inf:
            return vectors
    _squared_lengths(vectors)
    return vectors


def _squared_lengths(vectors: Vectors) -> NDArray[np.float64]:
    """Exact enough for every float32: neither overflows nor underflows. Raises on a vector not finite or zero."""
    squared = np.einsum("ij,ij->i", vectors, vectors)
    if bool(((squared > 1e-30) & (squared < 1e30)).all()):
        widened: NDArray[np.float64] = squared.astype(np.float64)
        return widened
    exact: NDArray[np.float64] = np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64)
    if not bool(np.isfinite(exact).all()):
        raise _bad(f"vector {int(np.flatnonzero(~np.isfinite(exact))[0])} holds NaN or infinity")
    if not bool(exact.all()):
        raise _bad(f"vector {int(np.flatnonzero(exact == 0)[0])} is zero")
    return exact


def _bad(detail: str) -> ProviderFailure:
    return ProviderFailure(FailureKind.BAD_ANSWER, detail)
