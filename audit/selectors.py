"""Reads of what was done."""

from __future__ import annotations

from uuid import UUID

from django.db.models import QuerySet

from audit.models import AuditEvent


def events_of(tenant_id: UUID | None) -> QuerySet[AuditEvent]:
    """What was done for a tenant, or (None) in matters of the platform's; the newest first."""
    return AuditEvent.objects.filter(tenant_id=tenant_id)


def all_events() -> QuerySet[AuditEvent]:
    """The same for everybody; for the platform's operator."""
    return AuditEvent.objects.all()
