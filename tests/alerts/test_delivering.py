"""Telling: after the commit, once, tried again while the mail server is away, given up at last, and always shown."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerts import delivering
from alerts.kinds import KINDS, Severity, reaches
from alerts.models import Alert, AlertChannel, Delivery
from alerts.retries import MOST_ATTEMPTS, next_try
from alerts.services import acknowledge, add_channel, change_channel, raise_alert, resolve, test_channel
from alerts.tasks import deliver_due
from core.clock import utc_now
from core.errors import IllegalTransition
from tests.admin.people import Mailbox, person
from tests.conftest import Party, make_party

try_channel = test_channel
del test_channel  # pytest would take it for a test
NOW = utc_now()


def tell(party: Party | None, **facts: Any) -> Alert | None:
    words = {"kind": "quota_warning", "subject": "s", "title": "80 % used", "detail": {"used": 80}}
    return raise_alert(tenant_id=party and party.id, **(words | facts))


def delivery() -> Delivery:
    return Delivery.objects.get()


def recipients(mailbox: Mailbox) -> list[str]:
    return sorted(address.strip() for mail in mailbox.smtp.mails for address in str(mail["To"]).split(","))


def test_nothing_leaves_before_the_commit_nor_twice(acme: Party, owner: Any, mailbox: Mailbox) -> None:
    with mailbox.committed():
        assert tell(acme) is not None
        assert tell(acme) is None
        assert mailbox.smtp.mails == []
    with mailbox.committed():
        deliver_due()
        assert not delivering.deliver(delivery().id, now=NOW + timedelta(days=1))
    assert len(mailbox.smtp.mails) == 1
    assert (delivery().state, delivery().attempts) == ("sent", 1)


@pytest.mark.parametrize(
    "other",
    [{"kind": "budget_warning"}, {"subject": "t"}, {"threshold": 90}, {"period_start": NOW}],
)
def test_another_kind_subject_threshold_or_period_is_another_alert(other: dict[str, Any], acme: Party) -> None:
    assert tell(acme) is not None
    assert tell(acme, **other) is not None
    assert tell(acme, **other) is None


def test_the_operators_alerts_are_unique_too_and_go_to_operators(acme: Party, owner: Any, mailbox: Mailbox) -> None:
    person("op@quiver.test", is_operator=True)
    with mailbox.committed():
        assert tell(None) is not None
        assert tell(None) is None
    assert recipients(mailbox) == ["op@quiver.test"]


def test_without_a_channel_those_who_look_after_a_tenant_are_told(acme: Party, globex: Party, mailbox: Mailbox) -> None:
    for role in ("owner", "admin", "billing", "viewer"):
        person(f"{role}@acme.test", **{str(acme.id): role})
    person("owner@globex.test", **{str(globex.id): "owner"})
    gone = person("gone@acme.test", **{str(acme.id): "owner"})
    type(gone).objects.filter(pk=gone.pk).update(is_active=False)
    with mailbox.committed():
        tell(acme)
        tell(acme, subject="for information", severity="info")
    assert recipients(mailbox) == ["admin@acme.test", "billing@acme.test", "owner@acme.test"]
    assert len(mailbox.smtp.mails) == 1


def test_channels_take_their_place_each_from_its_severity(acme: Party, owner: Any, mailbox: Mailbox) -> None:
    for severity in Severity:
        add_channel(tenant_id=acme.id, name=severity, targets=[f"{severity}@acme.test"], minimum_severity=severity)
    add_channel(tenant_id=acme.id, name="off", targets=["off@acme.test"], minimum_severity="info", is_enabled=False)
    with mailbox.committed():
        tell(acme)
    assert recipients(mailbox) == ["info@acme.test", "warning@acme.test"]


def test_a_title_cannot_write_headers(acme: Party, owner: Any, mailbox: Mailbox) -> None:
    with mailbox.committed():
        tell(acme, title="80 %\r\nBcc: everybody@example.com <b>", detail={"used": "<i>"})
    (mail,) = mailbox.smtp.mails
    assert mail["Bcc"] is None
    assert "&lt;i&gt;" in mail.get_body(("html",)).get_content()  # type: ignore[union-attr]
    assert "used: <i>" in mail.get_body(("plain",)).get_content()  # type: ignore[union-attr]


def test_a_mail_server_that_is_away_is_tried_again_until_it_is_back(acme: Party, owner: Any, mailbox: Mailbox) -> None:
    mailbox.smtp.refuse = True
    with mailbox.committed():
        tell(acme)
    row = delivery()
    assert (row.state, row.attempts) == ("pending", 1)
    assert "451" in row.last_error
    assert delivering.due(utc_now()) == []  # not yet
    assert not delivering.deliver(row.id, now=utc_now())
    mailbox.smtp.refuse = False
    later = row.due_at + timedelta(seconds=1)
    assert delivering.due(later) == [row.id]
    assert delivering.deliver(row.id, now=later)
    assert (delivery().state, delivery().attempts, delivery().last_error) == ("sent", 2, "")
    assert len(mailbox.smtp.mails) == 1


def test_it_is_given_up_at_last(acme: Party, owner: Any, mailbox: Mailbox) -> None:
    mailbox.smtp.refuse = True
    tell(acme)
    now = utc_now()
    for _ in range(MOST_ATTEMPTS):
        assert delivering.due(now) == [delivery().id]
        assert not delivering.deliver(delivery().id, now=now)
        now = delivery().due_at
    assert (delivery().state, delivery().attempts) == ("failed", MOST_ATTEMPTS)
    assert delivering.due(now + timedelta(days=9)) == []


def test_what_a_dead_worker_held_is_sent_by_another_one(acme: Party, owner: Any, mailbox: Mailbox) -> None:
    tell(acme)
    now = utc_now()
    Delivery.objects.update(state="sending", attempts=1, due_at=now + delivering.CLAIM)  # and then it died
    assert delivering.due(now) == []
    later = now + delivering.CLAIM
    assert delivering.due(later) == [delivery().id]
    assert delivering.deliver(delivery().id, now=later)
    assert len(mailbox.smtp.mails) == 1


def test_workers_that_die_each_time_do_not_go_on_for_ever(acme: Party, owner: Any, mailbox: Mailbox) -> None:
    tell(acme)
    Delivery.objects.update(state="sending", attempts=MOST_ATTEMPTS, due_at=NOW)
    assert delivering.due(utc_now()) == []
    assert delivery().state == "failed"
    assert mailbox.smtp.mails == []


def test_of_many_workers_at_once_one_sends(
    transactional_db: None, mailbox: Mailbox, at_once: Callable[..., list[Any]]
) -> None:
    acme = make_party("acme")
    person("owner@acme.test", **{str(acme.id): "owner"})
    mailbox.smtp.refuse = True
    tell(acme)
    mailbox.smtp.refuse = False
    Delivery.objects.update(state="pending", due_at=NOW)
    mailbox.smtp.mails.clear()
    row_id: UUID = delivery().id
    outcomes = at_once(*[lambda: delivering.deliver(row_id, now=utc_now())] * 6)
    assert sorted(outcomes) == [False] * 5 + [True]
    assert len(mailbox.smtp.mails) == 1


def test_without_mail_a_delivery_says_so(acme: Party, owner: Any) -> None:
    tell(acme)
    assert not delivering.deliver(delivery().id, now=utc_now())
    assert (delivery().state, delivery().last_error) == ("not_set_up", "Mail is not set up on this platform.")
    assert delivering.due(utc_now() + timedelta(days=1)) == []


def test_with_nobody_to_tell_a_delivery_says_so(acme: Party, mailbox: Mailbox) -> None:
    with mailbox.committed():
        tell(acme)
    assert (delivery().state, delivery().last_error) == ("failed", "There is nobody to tell; set up a channel.")


@pytest.mark.slow
def test_without_a_broker_the_alert_is_there_and_beat_finds_it(
    acme: Party, owner: Any, committed: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from config.celery import app

    for name in ("broker_url", "broker_write_url"):
        monkeypatch.setattr(app.conf, name, "redis://127.0.0.1:1/0")
    monkeypatch.setattr(app, "_pool", None)
    monkeypatch.setattr(app.amqp, "_producer_pool", None)
    with committed():
        tell(acme)
    assert "Connection refused" in caplog.text
    assert delivering.due(utc_now()) == [delivery().id]


def test_a_test_verifies_the_addresses_that_it_reached(acme: Party, mailbox: Mailbox) -> None:
    row = add_channel(tenant_id=acme.id, name="on call", targets=["OnCall@acme.test"])
    mailbox.smtp.refuse = True
    with mailbox.committed():
        try_channel(tenant_id=acme.id, channel_id=row.id)
    row.refresh_from_db()
    assert row.verified_at is None
    mailbox.smtp.refuse = False
    with mailbox.committed():
        try_channel(tenant_id=acme.id, channel_id=row.id)
    row.refresh_from_db()
    assert row.verified_at is not None
    assert recipients(mailbox) == ["oncall@acme.test"]
    assert change_channel(tenant_id=acme.id, channel_id=row.id, name="night").verified_at is not None
    assert change_channel(tenant_id=acme.id, channel_id=row.id, targets=["b@acme.test"]).verified_at is None


def test_acknowledging_keeps_the_first_and_ends_with_resolving(acme: Party) -> None:
    row = tell(acme)
    assert row is not None
    key = {"tenant_id": acme.id, "alert_id": row.id}
    assert [acknowledge(**key, by=each).acknowledged_by for each in ("ann", "bob")] == ["ann", "ann"]
    assert resolve(tenant_id=acme.id, kind="quota_warning", subject="s", by="ann") == 1
    assert resolve(tenant_id=acme.id, kind="quota_warning", subject="s", by="bob") == 0
    with pytest.raises(IllegalTransition):
        acknowledge(**key, by="carl")
    assert Alert.objects.get().resolved_by == "ann"
    assert AlertChannel.objects.count() == 0


def test_a_kind_that_nobody_wrote_down_cannot_be_raised(acme: Party) -> None:
    with pytest.raises(KeyError):
        tell(acme, kind="made_up")


@given(st.sampled_from(list(Severity)), st.sampled_from(list(Severity)))
def test_each_severity_is_told_where_it_is_wanted(severity: Severity, minimum: Severity) -> None:
    order = ["info", "warning", "critical"]
    assert reaches(severity, minimum) is (order.index(severity) >= order.index(minimum))
    assert all(kind.means and name == kind.name for name, kind in KINDS.items())


def test_tries_come_further_apart_and_end() -> None:
    waits = [next_try(attempts, NOW) for attempts in range(1, MOST_ATTEMPTS + 1)]
    minutes = [None if each is None else (each - NOW) / timedelta(minutes=1) for each in waits]
    assert minutes == [1, 2, 4, 8, 16, 32, 60, None]
