"""What happened to a model, as rows that are only ever added. Written inside the transaction of what happened."""

from __future__ import annotations

from uuid import UUID

from catalog.models import ModelEvent

SYSTEM = "quiver"  # the actor of what nobody asked for: beat, breakers


def note(
    model_id: UUID, kind: str, *, actor: str, reason: str = "", was: str = "", now: str = "", cause: str = ""
) -> None:
    """One event."""
    ModelEvent.objects.create(
        model_id=model_id, kind=kind, actor=actor[:200], reason=reason[:500], was=was, now=now, cause=cause
    )
