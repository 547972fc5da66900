"""Which states of a catalogue row follow which. Pure.

Decides the edges; the row is moved by `catalog.services.move_model`, whose conditional UPDATE lets one of several
concurrent movers win.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

EDGES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "draft": ("testing",),
        "testing": ("available", "draft"),
        "available": ("unavailable", "deprecated"),
        "unavailable": ("available", "deprecated", "removed"),
        "deprecated": ("removed",),
        "removed": (),
    }
)
# Nothing was embedded for anybody in these, so what the row says may still change.
UNRELEASED = frozenset({"draft", "testing"})


def legal_moves(state: str) -> tuple[str, ...]:
    """Where a row in `state` may go."""
    return EDGES[state]


def refusal(state: str, to: str) -> str:
    """Why a row in `state` cannot go `to`, naming where it can."""
    legal = legal_moves(state)
    onward = f"from there it goes to {' or '.join(legal)}" if legal else "that is the end"
    return f"The model is {state} and cannot become {to}; {onward}."
