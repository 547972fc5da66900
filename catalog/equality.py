"""Whether vectors are those of a space: the cosine to the space's reference, on every probe. Pure.

Decides what *the same* means: 0.999 at least. The same name, the same width and the same artifact are no proof; two
engines have served one model with cosines below 0.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]

LEAST_COSINE = 0.999
LEAST_PROBES = 6  # fewer texts in common prove nothing


@dataclass(frozen=True, slots=True)
class FailedProbe:
    """What was expected, and what came instead."""

    probe: str
    expected: str
    got: str
    field: str = ""  # of the model's row, where one is wrong


@dataclass(frozen=True, slots=True)
class Measured:
    """Vectors of probes, row by row."""

    names: tuple[str, ...]
    vectors: Vectors

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or len(self.vectors) != len(self.names):
            raise ValueError(f"{len(self.names)} probes do not have vectors of shape {self.vectors.shape}")

    @property
    def width(self) -> int:
        return int(self.vectors.shape[1])

    def only(self, names: Sequence[str]) -> Measured:
        """These probes of it, in this order."""
        at = {name: index for index, name in enumerate(self.names)}
        return Measured(tuple(names), self.vectors[[at[name] for name in names]])

    def cut(self, width: int) -> Measured:
        """The first `width` floats; cosines need no unit length."""
        return Measured(self.names, self.vectors[:, :width])


def cosines(one: Vectors, other: Vectors) -> NDArray[np.float64]:
    """Row by row; a row that is zero or not finite is like nothing."""
    left, right = one.astype(np.float64), other.astype(np.float64)
    with np.errstate(all="ignore"):
        found = np.einsum("ij,ij->i", left, right) / (np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1))
    like: NDArray[np.float64] = np.where(np.isfinite(found), found, -1.0)
    return like


def differences(reference: Measured, measured: Measured, what: str) -> list[FailedProbe]:
    """The probes on which `measured` is not the reference; empty: it is the same on all of them. A wider reference is
    cut, which is what a narrower model of the same space has to be."""
    known = set(reference.names)
    common = [name for name in measured.names if name in known]
    if len(common) < LEAST_PROBES:
        return [FailedProbe("all", f"{LEAST_PROBES} probes to compare with {what}", f"{len(common)} in common")]
    if measured.width > reference.width:
        return [FailedProbe("all", f"vectors of at most {reference.width} floats, as {what}", f"{measured.width}")]
    like = cosines(reference.only(common).cut(measured.width).vectors, measured.only(common).vectors)
    return [
        FailedProbe(name, f"a cosine of at least {LEAST_COSINE} to {what}", f"{cosine:.4f}", "space")
        for name, cosine in zip(common, like, strict=True)
        if cosine < LEAST_COSINE
    ]
