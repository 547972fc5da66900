"""What the catalogue tells the apps above it, after commit. Received in their `receivers.py`."""

from __future__ import annotations

from django.dispatch import Signal

# model_id: UUID, was: str, now: str (states)
model_moved = Signal()

# price_id: int, of a price that counts from a moment in the past (`catalog.corrections.find_correction`)
price_corrected = Signal()
