"""A webhook in the admin: its secret is on one page, and addresses that lead inside are refused."""

from __future__ import annotations

from typing import Any

from tests.admin.pages import fill, page, read
from tests.conftest import Party


def test_the_life_of_a_webhook(owner: Any, furnished: Party) -> None:
    from alerts.models import AlertChannel
    from alerts.signing import secret_of

    add = page("alerts_alertchannel_add")
    refused = fill(owner, add, name="hook", kind="webhook", targets="https://127.0.0.1/")
    assert "does not lead to a public address" in refused.content.decode()

    shown = fill(owner, add, name="hook", kind="webhook", targets="https://hooks.example.com/a,b")
    row = AlertChannel.objects.get(tenant_id=furnished.id)
    assert (row.kind, row.targets) == ("webhook", ["https://hooks.example.com/a,b"])
    first = secret_of(row)
    assert first in shown.content.decode()
    assert "no-store" in shown.headers["Cache-Control"]
    one = page("alerts_alertchannel_change", row.pk)
    assert first not in read(owner, one).text
    renewed = owner.post(page("alerts_alertchannel_renew_secret", row.pk)).content.decode()
    row.refresh_from_db()
    assert secret_of(row) != first
    assert secret_of(row) in renewed
    moved = fill(owner, one, targets="https://metadata.google.internal/")
    assert "metadata" in moved.content.decode()
