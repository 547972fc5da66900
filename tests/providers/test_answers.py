"""The last gate: no wrong vector passes, every right one does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from providers.answers import check_vectors
from providers.base import Vectors
from providers.failures import FailureKind, ProviderFailure

WIDTH = 8
floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
matrices = arrays(np.float32, st.tuples(st.integers(1, 5), st.just(WIDTH)), elements=floats)


def failure_of(vectors: Vectors, *, count: int, width: int, cut: bool = False) -> ProviderFailure:
    with pytest.raises(ProviderFailure) as caught:
        check_vectors(vectors, count=count, width=width, cut=cut)
    assert caught.value.kind is FailureKind.BAD_ANSWER
    return caught.value


@given(matrices.filter(lambda matrix: bool(matrix.any(axis=1).all())))
def test_finite_vectors_that_are_not_zero_pass_untouched(vectors: Vectors) -> None:
    assert check_vectors(vectors, count=len(vectors), width=WIDTH, cut=False) is vectors


@given(matrices.filter(lambda matrix: bool(matrix[:, :3].any(axis=1).all())))
def test_a_cut_vector_has_unit_length_and_its_direction(vectors: Vectors) -> None:
    cut = check_vectors(vectors, count=len(vectors), width=3, cut=True)

    assert (cut.shape, cut.dtype) == ((len(vectors), 3), np.float32)
    np.testing.assert_allclose(np.linalg.norm(cut.astype(np.float64), axis=1), 1, rtol=1e-6)
    lengths = np.linalg.norm(vectors[:, :3].astype(np.float64), axis=1, keepdims=True)
    np.testing.assert_allclose(cut, vectors[:, :3] / lengths, rtol=1e-5, atol=1e-37)


@given(matrices, st.integers(0, WIDTH - 1), st.sampled_from([np.nan, np.inf, -np.inf]))
def test_one_bad_float_anywhere_is_found(vectors: Vectors, column: int, bad: float) -> None:
    vectors[-1] = 1
    vectors[:-1] = 1
    vectors[-1, column] = bad

    whole = failure_of(vectors, count=len(vectors), width=WIDTH)
    failure_of(vectors, count=len(vectors), width=3, cut=True)

    assert whole.detail == f"vector {len(vectors) - 1} holds NaN or infinity"


@given(matrices, st.data())
def test_a_zero_vector_anywhere_is_found(vectors: Vectors, data: st.DataObject) -> None:
    vectors[:] = 1
    row = data.draw(st.integers(0, len(vectors) - 1))
    vectors[row] = 0

    assert failure_of(vectors, count=len(vectors), width=WIDTH).detail == f"vector {row} is zero"


def test_a_vector_that_is_zero_once_cut_is_found() -> None:
    vectors = np.array([[0, 0, 1]], dtype=np.float32)

    assert failure_of(vectors, count=1, width=2, cut=True).detail == "vector 0 is zero"


@pytest.mark.parametrize(
    ("shape", "count", "width", "cut"),
    [
        ((2, 8), 3, 8, False),
        ((3, 8), 2, 8, False),
        ((0, 8), 1, 8, False),
        ((8,), 1, 8, False),
        ((1, 8), 1, 4, False),
        ((1, 8), 1, 16, False),
        ((1, 8), 1, 16, True),
    ],
)
def test_another_shape_than_asked_is_refused(shape: tuple[int, ...], count: int, width: int, cut: bool) -> None:
    failure_of(np.ones(shape, dtype=np.float32), count=count, width=width, cut=cut)
