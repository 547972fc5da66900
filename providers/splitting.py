"""Splits texts into calls within a provider's caps. Pure; order is kept."""

from __future__ import annotations

from collections.abc import Sequence


def split_by_caps(tokens: Sequence[int], *, max_items: int, max_tokens: int) -> list[slice]:
    """Consecutive slices of at most `max_items` texts and `max_tokens` tokens; a single text may exceed the
    latter (the provider refuses it by itself, nobody else's text with it)."""
    slices: list[slice] = []
    start, held = 0, 0
    for index, count in enumerate(tokens):
        if index > start and (index - start >= max_items or held + count > max_tokens):
            slices.append(slice(start, index))
            start, held = index, 0
        held += count
    if start < len(tokens):
        slices.append(slice(start, len(tokens)))
    return slices
