"""What this app tells the apps above it, after commit. Received in their `receivers.py`."""

from __future__ import annotations

from django.dispatch import Signal

# tenant_id: UUID, tenant_model_id: UUID, was: str, now: str (states)
tenant_model_moved = Signal()
