"""The one table of what was done, by whom."""

from __future__ import annotations

from django.core.serializers.json import DjangoJSONEncoder
from django.db import models

from audit.actors import Kind
from core.ids import uuid7


class AuditEvent(models.Model):
    """One privileged action that was done. Only ever added: a trigger refuses the rest to all but the table's owner.

    Names no row by a foreign key: what was removed stays told.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    created_at = models.DateTimeField(help_text="The moment in the id.")
    tenant_id = models.UUIDField(null=True, help_text="Whose matter it was; none: the platform's.")
    actor_kind = models.CharField(max_length=20, choices=[(each.value, each.value) for each in Kind])
    actor_id = models.CharField(max_length=200)
    actor = models.CharField(max_length=300, help_text="Who that was, in words of the time.")
    action = models.CharField(max_length=60, help_text="What was done to what: `api_key.revoked`.")
    subject_kind = models.CharField(max_length=40)
    subject_id = models.CharField(max_length=200, blank=True)
    before = models.JSONField(null=True, encoder=DjangoJSONEncoder, help_text="Of what changed; none: it is new.")
    after = models.JSONField(null=True, encoder=DjangoJSONEncoder, help_text="Of what changed; none: it is gone.")
    address = models.CharField(max_length=45, blank=True, help_text="From where on the network.")
    request_id = models.CharField(max_length=64, blank=True)

    class Meta:
        ordering = ("-id",)  # begins with the time
        verbose_name = "audit event"
        indexes = [
            models.Index(fields=["tenant_id", "-id"], name="audit_of_tenant"),
            models.Index(fields=["tenant_id", "subject_id", "-id"], name="audit_of_subject"),
            models.Index(fields=["tenant_id", "actor_id", "-id"], name="audit_of_actor"),
            models.Index(fields=["tenant_id", "action", "-id"], name="audit_of_action"),
        ]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(actor_kind__in=[each.value for each in Kind]), name="audit_actor_known"
            )
        ]

    def __str__(self) -> str:
        return f"{self.action} by {self.actor}"
