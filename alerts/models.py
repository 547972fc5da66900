"""Rows of what somebody must be told: alerts, the channels to tell them by, and each telling.

Without a tenant a row is the platform's: for its operators.
"""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from alerts import kinds
from core.ids import uuid7

SEVERITIES = [(each.value, each.value) for each in kinds.Severity]


class Alert(models.Model):
    """One thing that somebody was told, once per subject, period and threshold."""

    class State(models.TextChoices):
        OPEN = "open"
        ACKNOWLEDGED = "acknowledged"
        RESOLVED = "resolved"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    tenant = models.ForeignKey("tenants.Tenant", null=True, on_delete=models.CASCADE, related_name="alerts")
    kind = models.CharField(max_length=40, choices=kinds.choices)
    severity = models.CharField(max_length=10, choices=SEVERITIES)
    subject_key = models.CharField(max_length=300, help_text="What it is about, such as the id of a limit.")
    period_start = models.DateTimeField(null=True, help_text="Of the period that it is about, if of one.")
    threshold = models.PositiveSmallIntegerField(null=True, help_text="Per cent.")
    title = models.CharField(max_length=200)
    detail = models.JSONField(default=dict, help_text="The figures.")
    state = models.CharField(max_length=20, choices=State.choices, default=State.OPEN)
    created_at = models.DateTimeField()
    acknowledged_at = models.DateTimeField(null=True)
    acknowledged_by = models.CharField(max_length=300, blank=True, help_text="A person's address, or a key.")
    resolved_at = models.DateTimeField(null=True)
    resolved_by = models.CharField(max_length=300, blank=True, help_text="Empty: it went away by itself.")

    class Meta:
        ordering = ("-created_at", "-id")
        indexes = [
            models.Index(fields=["tenant", "-created_at", "-id"], name="alert_by_tenant"),
            models.Index(fields=["tenant", "kind"], condition=~Q(state="resolved"), name="alert_unresolved"),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["tenant", "kind", "subject_key", "period_start", "threshold"],
                nulls_distinct=False,
                name="alert_once",
            ),
            models.CheckConstraint(
                condition=Q(state__in=["open", "acknowledged", "resolved"]), name="alert_state_known"
            ),
            models.CheckConstraint(
                condition=Q(severity__in=["info", "warning", "critical"]), name="alert_severity_known"
            ),
        ]

    def __str__(self) -> str:
        return self.title


class AlertChannel(models.Model):
    """A way to tell somebody."""

    class Kind(models.TextChoices):
        EMAIL = "email"
        WEBHOOK = "webhook"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    tenant = models.ForeignKey("tenants.Tenant", null=True, on_delete=models.CASCADE, related_name="alert_channels")
    name = models.CharField(max_length=100)
    kind = models.CharField(max_length=20, choices=Kind.choices, default=Kind.EMAIL)
    targets = models.JSONField(default=list, help_text="Addresses; of a webhook, one that begins with https://.")
    sealed = models.TextField(blank=True, editable=False)  # what a webhook is signed with
    minimum_severity = models.CharField(
        max_length=10,
        choices=SEVERITIES,
        default=kinds.Severity.WARNING.value,
        help_text="What is less grave is not told here.",
    )
    is_enabled = models.BooleanField(default=True)
    verified_at = models.DateTimeField(null=True, editable=False, help_text="When a test arrived.")
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ("-created_at", "-id")
        indexes = [models.Index(fields=["tenant", "-created_at", "-id"], name="alert_channel_by_tenant")]
        constraints = [
            models.UniqueConstraint(fields=["tenant", "name"], nulls_distinct=False, name="alert_channel_once"),
            models.CheckConstraint(condition=Q(kind__in=["email", "webhook"]), name="alert_channel_kind_known"),
        ]

    def __str__(self) -> str:
        return self.name


class Delivery(models.Model):
    """One alert by one channel. Without an alert it is a test of the channel; without a channel it goes to the people
    who are told when nobody set one up."""

    class State(models.TextChoices):
        PENDING = "pending"
        SENDING = "sending"
        SENT = "sent"
        FAILED = "failed"
        NOT_SET_UP = "not_set_up"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    tenant = models.ForeignKey("tenants.Tenant", null=True, on_delete=models.CASCADE, related_name="+")
    alert = models.ForeignKey(Alert, null=True, on_delete=models.CASCADE, related_name="deliveries")
    channel = models.ForeignKey(AlertChannel, null=True, on_delete=models.CASCADE, related_name="deliveries")
    state = models.CharField(max_length=20, choices=State.choices, default=State.PENDING)
    attempts = models.PositiveSmallIntegerField(default=0)
    due_at = models.DateTimeField(help_text="When it is tried next; while it is being sent, when that is given up.")
    last_error = models.CharField(max_length=300, blank=True)
    created_at = models.DateTimeField()
    sent_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("-created_at", "-id")
        verbose_name_plural = "deliveries"
        indexes = [
            models.Index(fields=["due_at"], condition=Q(state__in=["pending", "sending"]), name="delivery_due"),
            models.Index(fields=["tenant", "-created_at"], name="delivery_by_tenant"),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["alert", "channel"],
                condition=Q(alert__isnull=False),
                nulls_distinct=False,
                name="delivery_once",
            ),
            models.CheckConstraint(
                condition=Q(alert__isnull=False) | Q(channel__isnull=False), name="delivery_of_something"
            ),
            models.CheckConstraint(
                condition=Q(state__in=["pending", "sending", "sent", "failed", "not_set_up"]),
                name="delivery_state_known",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.alert or 'test'} ({self.state})"
