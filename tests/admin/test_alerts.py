"""Alerts and channels in the admin: each sees their own, acknowledges, sets up who is told, tests it."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from alerts import delivering
from alerts.models import Alert, AlertChannel, Delivery
from alerts.services import add_channel, raise_alert
from core.clock import utc_now
from tenants.services import configure_model, mark_quota_exceeded
from tests.admin.people import Mailbox, person
from tests.conftest import Party

ALERTS, CHANNELS = "/admin/alerts/alert/", "/admin/alerts/alertchannel/"
YES = {"post": "yes"}
SHOWN = {"deliveries-TOTAL_FORMS": "0", "deliveries-INITIAL_FORMS": "0"}  # what stands below the form
TERMS = {
    "kind": "email",
    "name": "on call",
    "targets": "a@acme.test\nb@acme.test",
    "minimum_severity": "warning",
    "is_enabled": "on",
}


def signed_in(email: str, **roles: Any) -> Client:
    client = Client()
    client.force_login(person(email, **roles))
    return client


@pytest.fixture
def owner(acme: Party) -> Client:
    return signed_in("owner@acme.test", **{str(acme.id): "owner"})


@pytest.fixture
def viewer(acme: Party) -> Client:
    return signed_in("viewer@acme.test", **{str(acme.id): "viewer"})


@pytest.fixture
def operator_page(db: None) -> Client:
    return signed_in("op@quiver.test", is_operator=True)


def tell(party: Party | None, title: str = "80 % used") -> Alert:
    kind = "quota_warning"
    row = raise_alert(tenant_id=party and party.id, kind=kind, subject=title, title=title, detail={"used": 80})
    assert row is not None
    return row


def channel(party: Party) -> AlertChannel:
    return add_channel(tenant_id=party.id, name=f"channel of {party.slug}", targets=[f"x@{party.slug}.test"])


def text(answer: Any) -> str:
    assert answer.status_code == 200, answer
    found: str = answer.content.decode()
    return found


def test_everybody_sees_their_own_alerts_and_channels(
    acme: Party, globex: Party, viewer: Client, operator_page: Client
) -> None:
    for party in (acme, globex):
        tell(party, f"told to {party.slug}")
        channel(party)
    tell(None, "told to operators")
    assert ("told to acme" in text(viewer.get(ALERTS)), "channel of acme" in text(viewer.get(CHANNELS))) == (True, True)
    for secret in ("told to globex", "channel of globex", "told to operators"):
        assert secret not in text(viewer.get(ALERTS)) + text(viewer.get(CHANNELS))
        assert secret in text(operator_page.get(ALERTS)) + text(operator_page.get(CHANNELS))


def test_mallory_reaches_none_of_acmes(acme: Party, mallory: Party) -> None:
    mallorys = signed_in("mallory@mallory.test", **{str(mallory.id): "owner"})
    alert, way = tell(acme), channel(acme)
    urls = [
        f"{ALERTS}{alert.id}/change/",
        f"{ALERTS}{alert.id}/acknowledge/",
        f"{CHANNELS}{way.id}/change/",
        f"{CHANNELS}{way.id}/test/",
        f"{CHANNELS}{way.id}/delete/",
    ]
    assert {mallorys.get(url).status_code for url in urls} == {404}
    assert {mallorys.post(url, YES).status_code for url in urls} <= {403, 404}
    alert.refresh_from_db()
    assert (alert.state, AlertChannel.objects.count()) == ("open", 1)


def test_an_alert_shows_how_it_was_told_and_is_acknowledged(acme: Party, owner: Client) -> None:
    row = tell(acme)
    delivering.deliver(Delivery.objects.get().id, now=utc_now())
    url = f"{ALERTS}{row.id}/"
    shown = text(owner.get(f"{url}change/"))
    assert "not set up" in shown
    assert "Mail is not set up on this platform." in shown
    assert "Acknowledge" in shown
    assert "Others see" in text(owner.get(f"{url}acknowledge/"))
    assert owner.post(f"{url}acknowledge/", YES).status_code == 302
    row.refresh_from_db()
    assert (row.state, row.acknowledged_by) == ("acknowledged", "owner@acme.test")


def test_a_viewer_changes_nothing(acme: Party, viewer: Client) -> None:
    row, way = tell(acme), channel(acme)
    answers = [
        viewer.post(f"{ALERTS}{row.id}/acknowledge/"),
        viewer.post(f"{CHANNELS}add/", TERMS),
        viewer.post(f"{CHANNELS}{way.id}/change/", TERMS),
        viewer.post(f"{CHANNELS}{way.id}/test/"),
        viewer.post(f"{CHANNELS}{way.id}/delete/", YES),
    ]
    assert {each.status_code for each in answers} == {403}
    row.refresh_from_db()
    assert (row.state, AlertChannel.objects.get().name) == ("open", "channel of acme")


def test_nobody_writes_alerts_by_hand(acme: Party, operator_page: Client) -> None:
    row = tell(acme)
    assert operator_page.get(f"{ALERTS}add/").status_code == 403
    assert operator_page.post(f"{ALERTS}{row.id}/change/", {"title": "x"}).status_code == 403
    assert operator_page.post(f"{ALERTS}{row.id}/delete/", YES).status_code == 403


def test_a_channel_is_added_changed_tested_and_removed(acme: Party, owner: Client, mailbox: Mailbox) -> None:
    assert "one in a line" in text(owner.get(f"{CHANNELS}add/")).lower()
    assert owner.post(f"{CHANNELS}add/", TERMS).status_code == 302
    row = AlertChannel.objects.get()
    assert (row.tenant_id, row.targets) == (acme.id, ["a@acme.test", "b@acme.test"])
    url = f"{CHANNELS}{row.id}/"
    with mailbox.committed():
        assert owner.post(f"{url}test/", YES).status_code == 302
    assert [mail["To"] for mail in mailbox.smtp.mails] == ["a@acme.test, b@acme.test"]
    shown = text(owner.get(f"{url}change/"))
    assert "a test" in shown
    assert "sent" in shown
    assert "nobody" in text(owner.post(f"{url}change/", SHOWN | TERMS | {"targets": "nobody"}))
    assert owner.post(f"{url}change/", SHOWN | TERMS | {"targets": "c@acme.test"}).status_code == 302
    row.refresh_from_db()
    assert (row.targets, row.verified_at) == (["c@acme.test"], None)
    assert owner.post(f"{url}delete/", YES).status_code == 302
    assert AlertChannel.objects.count() == 0


def test_an_operator_adds_a_channel_for_the_platform(operator_page: Client) -> None:
    assert operator_page.post(f"{CHANNELS}add/?tenant=platform", TERMS).status_code == 302
    assert AlertChannel.objects.get().tenant_id is None


def test_without_mail_a_test_says_why_not(acme: Party, owner: Client) -> None:
    url = f"{CHANNELS}{channel(acme).id}/test/"
    assert "not set up" in text(owner.get(url))
    assert "QUIVER_SMTP_URL" in text(owner.post(url, YES))


def test_a_model_over_quota_is_shown_and_can_be_switched_off(acme: Party, owner: Client, add_model: Any) -> None:
    row = configure_model(tenant_id=acme.id, model_id=add_model().id, is_default=False)
    mark_quota_exceeded(tenant_id=acme.id, tenant_model_id=row.id)
    url = f"/admin/tenants/tenantmodel/{row.id}/change/"
    shown = text(owner.get(url))
    assert "quota exceeded" in shown
    assert "quota exceeded" in text(owner.get("/admin/tenants/tenantmodel/"))
    assert ("/disable/" in shown, "/set_default/" in shown, "/enable/" in shown) == (True, True, False)


def test_thresholds_of_a_tenant_are_set_on_its_page(acme: Party, owner: Client) -> None:
    url = f"/admin/tenants/tenant/{acme.id}/change/"
    assert "80, 90, 95, 100" in text(owner.get(url))
    form = {"name": "Acme", "cache_ttl_s": 3600, "cache_hit_cost_per_million_tokens": "0"}
    assert owner.post(url, form | {"thresholds": "50, 75"}).status_code == 302
    assert "50, 75" in text(owner.get(url))
    assert "settings" in text(owner.post(url, form | {"thresholds": "500"}))
