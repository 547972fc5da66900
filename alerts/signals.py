"""What this app tells the apps above it, after commit. Received in their `receivers.py`."""

from __future__ import annotations

from django.dispatch import Signal

# tenant_id: UUID | None, alert_id: UUID, kind: str, severity: str, title: str, detail: Mapping[str, Any],
# threshold: int | None, period_start: datetime | None
alert_raised = Signal()
# tenant_id: UUID | None, alert_id: UUID, kind: str, detail: Mapping[str, Any]
alert_resolved = Signal()
