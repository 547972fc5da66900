"""What the catalogue tells the apps above it, after commit. Received in their `receivers.py`."""

from __future__ import annotations

from django.dispatch import Signal

# model_id: UUID, was: str, now: str (states), cause: str (of unavailable), reason: str, actor: str
model_moved = Signal()
# model_id: UUID, was: datetime | None, now: datetime | None, reason: str
sunset_moved = Signal()
