"""Sends what is to be told, and the only mover of deliveries.

Decides who sends: whoever claims a row by a conditional update. A claim ends by itself after longer than a task may
live, so what a dead worker held is sent by another one: at least once, and never again once it is marked as sent.
Failure: the mail server or a webhook gone means tries again over some hours (`alerts.retries`), then a failed delivery
that is shown; without a mail server at all a delivery is `not_set_up`.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.core.serializers.json import DjangoJSONEncoder
from django.db.models import F
from django.urls import reverse

from alerts import webhooks
from alerts.models import AlertChannel, Delivery
from alerts.retries import MOST_ATTEMPTS, next_try
from alerts.signing import allowed, secret_of
from core.clock import utc_now
from core.egress import EgressRefused
from core.sealing import SealBroken
from tenants import mail
from tenants.links import absolute
from tenants.selectors import addresses_to_tell

CLAIM = timedelta(minutes=11)  # a task of Celery's ends after ten (`CELERY_TASK_TIME_LIMIT`)
MOST_AT_ONCE = 200
_OPEN = (Delivery.State.PENDING, Delivery.State.SENDING)


def due(now: datetime) -> list[UUID]:
    """What is to be sent by now, the oldest first; what was tried often enough by workers that died is given up."""
    late = Delivery.objects.filter(state__in=_OPEN, due_at__lte=now)
    late.filter(attempts__gte=MOST_ATTEMPTS).update(
        state=Delivery.State.FAILED, last_error="Given up: each try ended without an answer."
    )
    return list(late.order_by("due_at").values_list("id", flat=True)[:MOST_AT_ONCE])


def deliver(delivery_id: UUID, *, now: datetime) -> bool:
    """Sends one, unless somebody else has or does. True: it was sent now."""
    claim = Delivery.objects.filter(id=delivery_id, state__in=_OPEN, due_at__lte=now, attempts__lt=MOST_ATTEMPTS)
    if not claim.update(state=Delivery.State.SENDING, attempts=F("attempts") + 1, due_at=now + CLAIM):
        return False
    row = Delivery.objects.select_related("tenant", "alert", "channel").get(id=delivery_id)
    if row.channel is not None and row.channel.kind == AlertChannel.Kind.WEBHOOK:
        return _deliver_webhook(row, row.channel, now)
    if not mail.is_set_up():
        _end(row, Delivery.State.NOT_SET_UP, "Mail is not set up on this platform.")
        return False
    targets = addresses_to_tell(row.tenant_id) if row.channel is None else row.channel.targets
    if not targets:
        _end(row, Delivery.State.FAILED, "There is nobody to tell; set up a channel.")
        return False
    try:
        _send(row, targets)
    except OSError as error:  # SMTP's errors are
        _fail(row, f"{type(error).__name__}: {error}", now)
        return False
    _end(row, Delivery.State.SENT, "")
    return True


def _deliver_webhook(row: Delivery, channel: AlertChannel, now: datetime) -> bool:
    body = json.dumps(_message(row, channel), cls=DjangoJSONEncoder).encode()
    try:
        headers = webhooks.signed(body, secret=secret_of(channel), message_id=str(row.id), at=int(now.timestamp()))
        webhooks.post(channel.targets[0], body, headers, allowed=allowed())
    except EgressRefused as refused:  # it is no better in an hour
        _end(row, Delivery.State.FAILED, f"Not sent: the address {refused}.")
        return False
    except SealBroken:
        _end(row, Delivery.State.FAILED, "Its secret cannot be opened; renew it.")
        return False
    except OSError as error:
        _fail(row, str(error) or type(error).__name__, now)
        return False
    _end(row, Delivery.State.SENT, "")
    return True


def _message(row: Delivery, channel: AlertChannel) -> dict[str, Any]:
    """What a webhook is told: `type` and `data`, as Standard Webhooks has it."""
    if row.alert is None:
        return {"type": "test", "timestamp": row.created_at, "data": {"channel": channel.name}}
    alert = row.alert
    told = {
        "id": alert.id,
        "kind": alert.kind,
        "severity": alert.severity,
        "title": alert.title,
        "subject": alert.subject_key,
        "period_start": alert.period_start,
        "threshold": alert.threshold,
        "detail": alert.detail,
    }
    if settings.QUIVER.public_url:  # mails need it, webhooks do without
        told["link"] = absolute(reverse("admin:alerts_alert_change", args=[alert.id]))
    return {"type": f"alert.{alert.kind}", "timestamp": alert.created_at, "data": told}


def _send(row: Delivery, targets: list[str]) -> None:
    whose = row.tenant.name if row.tenant else "the platform"
    if row.alert is None:
        assert row.channel is not None  # held by the database
        mail.send(targets, "alerts/mail_test.txt", channel=row.channel, whose=whose)
        return
    figures = [(name.replace("_", " "), value) for name, value in row.alert.detail.items() if value not in ("", None)]
    link = absolute(reverse("admin:alerts_alert_change", args=[row.alert.id]))
    words = {"alert": row.alert, "whose": whose, "figures": figures, "link": link}
    mail.send(targets, "alerts/mail_alert.txt", html="alerts/mail_alert.html", **words)


def _claimed(row: Delivery) -> dict[str, object]:
    # Of this claim: when it ended meanwhile, the row is another worker's.
    return {"id": row.id, "state": Delivery.State.SENDING, "attempts": row.attempts}


def _fail(row: Delivery, reason: str, now: datetime) -> None:
    again = next_try(row.attempts, now)
    state = Delivery.State.FAILED if again is None else Delivery.State.PENDING
    Delivery.objects.filter(**_claimed(row)).update(state=state, due_at=again or now, last_error=reason[:300])


def _end(row: Delivery, state: Delivery.State, reason: str) -> None:
    is_sent = state == Delivery.State.SENT
    done = Delivery.objects.filter(**_claimed(row)).update(
        state=state, last_error=reason, sent_at=utc_now() if is_sent else None
    )
    if done and is_sent and row.alert is None and row.channel is not None:
        # Of the addresses that were tested: others may have been written in meanwhile.
        type(row.channel).objects.filter(id=row.channel.id, targets=row.channel.targets).update(verified_at=utc_now())
