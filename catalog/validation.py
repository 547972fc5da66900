"""What a model is asked before it is released, and whether its answers will do. Pure.

Decides the questions (`plan`) and the verdict (`judge`): count, width, finiteness, norm, other widths, token counts,
repeatability, and whether a declared Matryoshka model is one. Who asks is `catalog.probing`; whether the vectors are
those of a space is `catalog.equality`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from catalog.equality import LEAST_COSINE, FailedProbe, Vectors, cosines
from catalog.probes import SHORT, Probe

NATIVE, AGAIN = "native", "again"
MOST_WIDTHS = 6  # that are asked for; a model may allow every one
REPEATED = 4
LEAST_NORM, MOST_NORM = 1e-3, 1e3  # between: unit length or not, a length that float32 compares well
SAME = 0.9999  # texts as different as the probes never come so close, unless the vector is always the same


@dataclass(frozen=True, slots=True)
class Claims:
    """What the catalogue says about the model."""

    dimensions: int
    allowed_dimensions: tuple[int, ...]
    takes_dimensions: bool
    is_matryoshka: bool
    is_exact: bool  # tokens are counted in cl100k


@dataclass(frozen=True, slots=True)
class Question:
    """Texts to embed at one width; None is the native one."""

    purpose: str  # native, again, or the width in words
    probes: tuple[Probe, ...]
    dimensions: int | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """What came: vectors as the provider sent them, or the failure in words."""

    question: Question
    vectors: Vectors | None
    tokens: int | None = None  # None: the vendor counts none
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`cuts` is measured, refuted, or empty where nothing could be measured."""

    failed: tuple[FailedProbe, ...]
    cuts: str = ""


def plan(claims: Claims, probes: Sequence[Probe]) -> list[Question]:
    """All questions, the native one first."""
    short = tuple(each for each in probes if each.cl100k <= SHORT)
    found = [Question(NATIVE, tuple(probes)), Question(AGAIN, short[:REPEATED][::-1])]
    if claims.takes_dimensions:
        found += [Question(f"{width} dimensions", short, width) for width in _widths(claims)]
    return found


def judge(claims: Claims, readings: Sequence[Reading]) -> Verdict:
    """What failed; the readings are those of `plan`, in its order."""
    native = readings[0]
    failed = _unsound(native, claims.dimensions)
    if failed:
        return Verdict(tuple(failed))  # nothing else can be said about it
    failed += _same_for_all(native) + _miscounted(native, claims)
    is_cut = []
    for reading in readings[1:]:
        width = reading.question.dimensions or claims.dimensions
        unsound = _unsound(reading, width)
        failed += unsound
        if unsound:
            continue
        differing = _unlike(native, reading, width)
        if reading.question.purpose == AGAIN:
            failed += differing
        elif claims.is_matryoshka and width < claims.dimensions:
            is_cut.append(not differing)
            failed += differing
    cuts = ("measured" if all(is_cut) else "refuted") if is_cut else ""
    return Verdict(tuple(failed), cuts)


def _widths(claims: Claims) -> list[int]:
    wanted = {width for width in claims.allowed_dimensions if width != claims.dimensions}
    if claims.is_matryoshka:
        wanted |= {claims.dimensions // 2, claims.dimensions // 4} - {0}
    ordered = sorted(wanted)
    if len(ordered) <= MOST_WIDTHS:
        return ordered
    step = (len(ordered) - 1) / (MOST_WIDTHS - 1)
    return [ordered[round(index * step)] for index in range(MOST_WIDTHS)]


def _unsound(reading: Reading, width: int) -> list[FailedProbe]:
    """What is wrong with the vectors by themselves."""
    purpose, probes = reading.question.purpose, reading.question.probes
    expected = f"{len(probes)} finite vectors of {width} floats, not zero"
    vectors = reading.vectors
    if vectors is None:
        return [FailedProbe(purpose, expected, reading.failure)]
    if vectors.ndim != 2 or vectors.shape != (len(probes), width):
        asked = "dimensions" if reading.question.dimensions is None else "allowed_dimensions"
        field = asked if vectors.shape[-1] != width else ""
        return [FailedProbe(purpose, expected, f"{len(vectors)} vectors of {vectors.shape[-1]} floats", field)]
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
    return [
        FailedProbe(
            f"{purpose}: {probe.name}", f"a finite vector with a length of {LEAST_NORM} to {MOST_NORM:g}", f"{norm:g}"
        )
        for probe, norm in zip(probes, norms, strict=True)
        if not LEAST_NORM <= norm <= MOST_NORM  # also where it is not a number
    ]


def _same_for_all(native: Reading) -> list[FailedProbe]:
    vectors = native.vectors
    if vectors is None or len(vectors) < 2:
        return []
    like = cosines(np.repeat(vectors[:1], len(vectors) - 1, axis=0), vectors[1:])
    if float(like.min()) < SAME:
        return []
    return [FailedProbe("all", "different vectors for different texts", "the same vector for all of them")]


def _miscounted(native: Reading, claims: Claims) -> list[FailedProbe]:
    if native.tokens is None:
        return []
    exact = sum(each.cl100k for each in native.question.probes)
    most = sum(each.most_tokens for each in native.question.probes)
    if claims.is_exact and native.tokens != exact:
        return [FailedProbe("tokens", f"{exact} tokens, as cl100k_base counts them", f"{native.tokens}")]
    if not 0 < native.tokens <= most:
        return [FailedProbe("tokens", f"1 to {most} tokens, no more than the texts have bytes", f"{native.tokens}")]
    return []


def _unlike(native: Reading, reading: Reading, width: int) -> list[FailedProbe]:
    """The probes of `reading` that are not the native vector, cut to its width."""
    assert native.vectors is not None
    assert reading.vectors is not None
    at = {probe.name: index for index, probe in enumerate(native.question.probes)}
    rows = native.vectors[[at[probe.name] for probe in reading.question.probes], :width]
    told = "the first vector" if reading.question.purpose == AGAIN else "the native vector, cut"
    return [
        FailedProbe(f"{reading.question.purpose}: {probe.name}", f"a cosine of {LEAST_COSINE} to {told}", f"{like:.4f}")
        for probe, like in zip(reading.question.probes, cosines(rows, reading.vectors), strict=True)
        if like < LEAST_COSINE
    ]
