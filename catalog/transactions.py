"""Which views run in their request's transaction. Apart from `catalog.rest`, which who authenticates cannot import: it
is imported by what that imports."""

from __future__ import annotations


def is_atomic(view: object) -> bool:
    """Whether a view runs in its request's transaction; some opted out of that."""
    return not hasattr(type(view).dispatch, "_non_atomic_requests")  # type: ignore[attr-defined]
