"""What this app tells the apps above it, after commit unless said. Received in their `receivers.py`."""

from __future__ import annotations

from django.dispatch import Signal

# tenant_id: UUID, tenant_model_id: UUID, was: str, now: str (states)
tenant_model_moved = Signal()

# tenant_id: UUID | None, old: UUID, new: UUID. Inside the transaction: what is kept of a key goes over to its successor
# with it, or not at all.
key_rotated = Signal()
