"""The only writer of alerts and channels; deliveries are moved on by `alerts.delivering`.

Decides who is told: the enabled channels that want something as grave, or, while nobody has set one up, those who look
after the tenant (of warnings and worse). The deliveries are rows of the alert's own transaction, so that an alert is
told if and only if it was committed. What deserves an alert is decided by who raises it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypedDict, Unpack
from uuid import UUID

from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import IntegrityError, transaction
from django.db.models import F

from alerts import signals, signing, tasks
from alerts.kinds import KINDS, Severity, reaches
from alerts.models import Alert, AlertChannel, Delivery
from alerts.selectors import alerts_of, channels_of, find_alert, find_channel, whose
from alerts.signing import allowed
from audit.facts import facts as facts_of
from audit.services import record
from core.clock import utc_now
from core.egress import EgressRefused, checked_target
from core.errors import AlreadyExists, Conflict, IllegalTransition, InvalidRequest, RateLimitExceeded
from tenants import mail

MOST_CHANNELS = 20
MOST_TARGETS = 20
TESTS_AN_HOUR = 10  # per tenant: a stranger's mailbox is filled with our mails otherwise
UNASKED = Severity.WARNING  # what people are told from when nobody has set up a channel


class ChannelTerms(TypedDict, total=False):
    """What may be said about a channel."""

    name: str
    kind: str
    targets: Sequence[str]
    minimum_severity: str
    is_enabled: bool


@transaction.atomic
def raise_alert(
    *,
    tenant_id: UUID | None,
    kind: str,
    subject: str,
    title: str,
    detail: Mapping[str, Any],
    period_start: datetime | None = None,
    threshold: int | None = None,
    severity: str | None = None,
) -> Alert | None:
    """Tells of something once: the second time nothing is sent, and None comes back. `tenant_id` None: the operators'.

    Without a severity it is as grave as its kind usually is.
    """
    usual = KINDS[kind].severity
    now = utc_now()
    row = Alert(
        tenant_id=tenant_id,
        kind=kind,
        severity=Severity(severity or usual),
        subject_key=subject,
        period_start=period_start,
        threshold=threshold,
        title=" ".join(title.split())[:200],  # it becomes the subject of a mail
        detail=dict(detail),
        created_at=now,
    )
    Alert.objects.bulk_create([row], ignore_conflicts=True)
    if not Alert.objects.filter(id=row.id).exists():
        return None
    for channel_id in _channels_for(row):
        delivery = Delivery.objects.create(
            tenant_id=tenant_id, alert=row, channel_id=channel_id, due_at=now, created_at=now
        )
        tasks.after_commit(delivery.id)
    told = {
        "tenant_id": tenant_id,
        "alert_id": row.id,
        "kind": kind,
        "severity": row.severity,
        "title": row.title,
        "detail": row.detail,
        "threshold": threshold,
        "period_start": period_start,
    }
    transaction.on_commit(partial(signals.alert_raised.send_robust, Alert, **told))
    return row


def _channels_for(row: Alert) -> list[UUID | None]:
    channels = list(channels_of(row.tenant_id))
    if not channels:
        return [None] if reaches(row.severity, UNASKED) else []
    return [each.id for each in channels if each.is_enabled and reaches(row.severity, each.minimum_severity)]


def resolve(*, tenant_id: UUID | None, kind: str, subject: str, by: str = "") -> int:
    """What was told of is over. Returns how many alerts ended."""
    found = alerts_of(tenant_id).filter(kind=kind, subject_key=subject)
    return _resolve(found.values_list("id", flat=True), by)


def resolve_all(*, alert_ids: Collection[UUID]) -> int:
    """The same for many, by those who found them with `alerts.selectors.told`."""
    return _resolve(alert_ids, "") if alert_ids else 0


def _resolve(alert_ids: Collection[UUID], by: str) -> int:
    found = Alert.objects.filter(id__in=alert_ids).exclude(state=Alert.State.RESOLVED)
    told = list(found.values("tenant_id", "kind", "detail", alert_id=F("id")))
    if not told:
        return 0
    count = found.update(state=Alert.State.RESOLVED, resolved_at=utc_now(), resolved_by=by)
    for each in told:
        transaction.on_commit(partial(signals.alert_resolved.send_robust, Alert, **each))
    return count


def reopen_all(*, alert_ids: Collection[UUID]) -> int:
    """What was over is so again, in the same period: it is shown, and told to nobody a second time."""
    if not alert_ids:
        return 0
    found = Alert.objects.filter(id__in=alert_ids, state=Alert.State.RESOLVED)
    return found.update(state=Alert.State.OPEN, resolved_at=None, acknowledged_at=None, acknowledged_by="")


def update_figures(
    *, tenant_id: UUID | None, kind: str, subject: str, period_start: datetime | None, detail: Mapping[str, Any]
) -> None:
    """Newer figures for an alert that is there."""
    found = alerts_of(tenant_id).filter(kind=kind, subject_key=subject, period_start=period_start)
    found.update(detail=dict(detail))


@transaction.atomic
def acknowledge(*, tenant_id: UUID | None, alert_id: UUID, by: str) -> Alert:
    """Somebody has seen it; the first one stays written down."""
    opened = alerts_of(tenant_id).filter(id=alert_id, state=Alert.State.OPEN)
    seen = opened.update(state=Alert.State.ACKNOWLEDGED, acknowledged_at=utc_now(), acknowledged_by=by)
    row = find_alert(tenant_id, alert_id)
    if row.state == Alert.State.RESOLVED:
        raise IllegalTransition("The alert is resolved already; there is nothing left to acknowledge.")
    if seen:
        after = {"title": row.title}
        record("alert.acknowledged", tenant_id=tenant_id, subject="alert", subject_id=row.id, after=after)
    return row


@transaction.atomic
def add_channel(*, tenant_id: UUID | None, **terms: Unpack[ChannelTerms]) -> AlertChannel:
    """A new way to tell somebody. From the first one on, nobody is told without being asked for."""
    if channels_of(tenant_id).count() >= MOST_CHANNELS:
        raise Conflict(f"There are {MOST_CHANNELS} channels already; remove one first.")
    row = AlertChannel(tenant_id=tenant_id)
    if terms.get("kind") == AlertChannel.Kind.WEBHOOK:
        signing.give_secret(row)
    _apply(row, terms)
    record("alert_channel.added", tenant_id=tenant_id, subject="alert_channel", subject_id=row.id, after=facts_of(row))
    return row


@transaction.atomic
def renew_secret(*, tenant_id: UUID | None, channel_id: UUID) -> str:
    """Another secret, from the next message on; the only time that it is told."""
    row = held_channel(tenant_id, channel_id)
    if row.kind != AlertChannel.Kind.WEBHOOK:
        raise Conflict("Only a webhook is signed.")
    secret = signing.give_secret(row)
    row.save(update_fields=["sealed", "updated_at"])
    record("alert_channel.secret_renewed", tenant_id=tenant_id, subject="alert_channel", subject_id=row.id)
    return secret


@transaction.atomic
def change_channel(*, tenant_id: UUID | None, channel_id: UUID, **terms: Unpack[ChannelTerms]) -> AlertChannel:
    """Changes what is given; with other addresses it has to be tested anew."""
    row = held_channel(tenant_id, channel_id)
    before = facts_of(row)
    _apply(row, terms)
    record(
        "alert_channel.changed",
        tenant_id=tenant_id,
        subject="alert_channel",
        subject_id=row.id,
        before=before,
        after=facts_of(row),
    )
    return row


def held_channel(tenant_id: UUID | None, channel_id: UUID) -> AlertChannel:
    """The row, or `NotFound`; whoever else would change it waits until this transaction ends."""
    channels_of(tenant_id).select_for_update(no_key=True).filter(id=channel_id).first()
    return find_channel(tenant_id, channel_id)


@transaction.atomic
def remove_channel(*, tenant_id: UUID | None, channel_id: UUID) -> None:
    """Forgets a channel; what waits to be sent by it is not sent."""
    row = find_channel(tenant_id, channel_id)
    record(
        "alert_channel.removed", tenant_id=tenant_id, subject="alert_channel", subject_id=row.id, before=facts_of(row)
    )
    row.delete()


@transaction.atomic
def test_channel(*, tenant_id: UUID | None, channel_id: UUID) -> Delivery:
    """Sends a test after the commit; the channel is verified when the mail server, or the webhook, took it."""
    row = find_channel(tenant_id, channel_id)
    if row.kind == AlertChannel.Kind.EMAIL and not mail.is_set_up():
        raise Conflict("Mail is not set up on this platform; its operator does that with QUIVER_SMTP_URL.")
    now = utc_now()
    tests = Delivery.objects.filter(whose(tenant_id), alert=None, created_at__gt=now - timedelta(hours=1))
    if tests.count() >= TESTS_AN_HOUR:
        raise RateLimitExceeded(f"At most {TESTS_AN_HOUR} tests an hour.", retry_after=3600)
    delivery = Delivery.objects.create(tenant_id=tenant_id, channel=row, due_at=now, created_at=now)
    record("alert_channel.tested", tenant_id=tenant_id, subject="alert_channel", subject_id=row.id)
    tasks.after_commit(delivery.id)
    return delivery


def _apply(row: AlertChannel, terms: ChannelTerms) -> None:
    if row.name and terms.get("kind", row.kind) != row.kind:
        raise InvalidRequest("A channel stays of its kind; add another one.", param="kind")
    row.kind = terms.get("kind", row.kind)
    is_webhook = row.kind == AlertChannel.Kind.WEBHOOK
    given = {each.strip() for each in terms.get("targets", row.targets)}
    targets = sorted(given if is_webhook else {each.lower() for each in given})
    if is_webhook and len(targets) != 1:
        raise InvalidRequest("A webhook has one address; add a channel for each.", param="targets")
    if not 1 <= len(targets) <= MOST_TARGETS:
        raise InvalidRequest(f"A channel has 1 to {MOST_TARGETS} addresses.", param="targets")
    if targets != row.targets:
        for each in targets:
            (_check_url if is_webhook else _check_address)(each)
        row.targets, row.verified_at = targets, None
    for name in ("name", "minimum_severity", "is_enabled"):
        if name in terms:
            setattr(row, name, terms[name])
    row.full_clean(exclude=["tenant"], validate_unique=False, validate_constraints=False)
    try:
        with transaction.atomic():
            row.save()
    except IntegrityError as error:
        raise AlreadyExists(f"There is a channel {row.name!r} already.", param="name") from error


def _check_url(text: str) -> None:
    """As far as it can be judged without the network; the rest is judged whenever it is called."""
    try:
        checked_target(text, allowed())
    except EgressRefused as refused:
        raise InvalidRequest(f"This address {refused}.", param="targets") from refused


def _check_address(text: str) -> None:
    try:
        validate_email(text)
    except ValidationError as error:
        raise InvalidRequest(f"{text!r} is no e-mail address.", param="targets") from error
