"""Which states of a tenant's model follow which. Pure.

Decides the edges. *Default* is a flag beside the state, held by models that serve. A row is moved by
`tenants.services`, whose conditional UPDATE lets one of several concurrent movers win. Whether a request may still
spend is decided by holds, not here: *quota exceeded* is what people see.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

# `removed` is no state of a row: the row is gone.
EDGES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "configured": ("enabled", "removed"),
        "enabled": ("disabled", "quota_exceeded", "removed"),
        "disabled": ("enabled", "removed"),
        "quota_exceeded": ("enabled", "disabled", "removed"),
        "removed": (),
    }
)
# A request may find these: switched on, whatever is left of their quota. Only they can be the default.
SERVING = frozenset({"enabled", "quota_exceeded"})


def legal_moves(state: str) -> tuple[str, ...]:
    """Where a model in `state` may go."""
    return EDGES[state]


def can_move(state: str, to: str) -> bool:
    """Whether there is such an edge."""
    return to in EDGES[state]


def switched(state: str, is_on: bool) -> str:
    """The state after somebody switched a model on or off; on or off already, it stays what it is."""
    if is_on:
        return state if state in SERVING else "enabled"
    return "disabled" if state in SERVING else state
