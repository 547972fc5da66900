"""Which states of a catalogue row follow which, on what proof, and what happens at a sunset. Pure.

Decides the edges; the row is moved by `catalog.services.move_model`, whose conditional UPDATE lets one of several
concurrent movers win.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType

# The published state diagram. Edits of a row's settings keep its state.
DIAGRAM = frozenset(
    {
        ("draft", "testing"),
        ("testing", "draft"),
        ("testing", "available"),
        ("available", "unavailable"),
        ("unavailable", "available"),
        ("available", "deprecated"),
        ("deprecated", "removed"),
    }
)
# What daily life needs beyond it, as docs/decisions/0020-edges-beyond-the-diagram.md argues.
BEYOND = frozenset({("unavailable", "deprecated"), ("unavailable", "removed")})
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

POSTPONED_BY = timedelta(days=7)  # how far a sunset moves while a tenant still sends texts
USED_WITHIN = timedelta(days=1)  # a model that got texts as lately as this is still needed
LOOKS_AHEAD = timedelta(hours=2)  # the task comes hourly: before callers are refused, not after


class Cause(StrEnum):
    """Why a row is unavailable."""

    PROVIDER = "provider"  # its breaker stayed open, or the vendor says so: trials on real traffic go on
    DRIFT = "drift"  # its vectors are no longer those of its space
    OPERATOR = "operator"


class Proof(StrEnum):
    """What a move to `available` rests on."""

    HAND = "hand"  # somebody's word
    VOUCHED = "vouched"  # shipped with Quiver, described from the vendor's documents
    TRIALS = "trials"  # calls of real traffic passed again
    EQUALITY = "equality"  # its vectors were compared with its space's


class Sunset(StrEnum):
    """What is to be done with a deprecated row now."""

    WAIT = "wait"
    POSTPONE = "postpone"
    REMOVE = "remove"


_RETURNS: Mapping[str, frozenset[Proof]] = MappingProxyType(
    {
        Cause.PROVIDER: frozenset({Proof.TRIALS, Proof.EQUALITY, Proof.HAND}),
        Cause.DRIFT: frozenset({Proof.EQUALITY}),
        Cause.OPERATOR: frozenset({Proof.HAND}),
    }
)


def legal_moves(state: str) -> tuple[str, ...]:
    """Where a row in `state` may go."""
    return EDGES[state]


def refusal(state: str, to: str) -> str:
    """Why a row in `state` cannot go `to`, naming where it can."""
    legal = legal_moves(state)
    if to in legal:  # since somebody else moved it, a moment ago
        return f"The model became {state} meanwhile; if it shall still become {to}, move it again."
    onward = f"from there it goes to {' or '.join(legal)}" if legal else "that is the end"
    return f"The model is {state} and cannot become {to}; {onward}."


def missing_proof(
    *, state: str, to: str, cause: str, proof: Proof, is_validated: bool, was_validated: bool = False
) -> str | None:
    """What a legal move to `available` still lacks; None: nothing, or another move.

    `cause` is that of an unavailable row, `is_validated` whether a row passed its probes since it last changed,
    `was_validated` whether it ever did: seeded rows need not.
    """
    if to != "available":
        return None
    if state == "testing":
        if is_validated or proof is Proof.VOUCHED:
            return None
        return "The model has not passed its validation yet; run its probes first (POST to its `validate`)."
    if proof in _RETURNS.get(cause, frozenset()):
        if is_validated or not was_validated or proof is Proof.EQUALITY:
            return None
        return "The model or its provider changed since it was measured; run its probes first (POST to its `validate`)."
    if cause == Cause.DRIFT:
        return "The model's vectors drifted; it comes back when a check finds them equal (POST to its `validate`)."
    return f"The model was taken out by its {cause}; {proof.value} does not bring it back."


def at_sunset(*, sunset_at: datetime | None, now: datetime, was_used: bool) -> Sunset:
    """What becomes of a deprecated row. `was_used`: a tenant sent it texts within the last day."""
    if sunset_at is None or sunset_at - now > LOOKS_AHEAD:
        return Sunset.WAIT
    if was_used:
        return Sunset.POSTPONE
    return Sunset.REMOVE if sunset_at <= now else Sunset.WAIT


def ends_in_a_circle(start: str, successors: Mapping[str, str | None]) -> bool:
    """Whether following successors from `start` comes back to it."""
    seen, here = set(), successors.get(start)
    while here is not None and here not in seen:
        if here == start:
            return True
        seen.add(here)
        here = successors.get(here)
    return False
