"""`/api/v1/alerts` and `/api/v1/alert-channels`: reading, acknowledging, setting up who is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from alerts.models import AlertChannel
from alerts.services import MOST_CHANNELS, TESTS_AN_HOUR, raise_alert, resolve
from tests.admin.people import Mailbox
from tests.conftest import Party

ALERTS, CHANNELS = "/api/v1/alerts", "/api/v1/alert-channels"
CHANNEL = {"name": "on call", "targets": ["oncall@acme.test"]}


def tell(party: Party | None, subject: str = "s", **facts: Any) -> str:
    words = {"kind": "quota_warning", "title": "80 % used", "detail": {"used": 80}, "threshold": 80}
    row = raise_alert(tenant_id=party and party.id, subject=subject, **(words | facts))
    assert row is not None
    return str(row.id)


def ids(answer: Any) -> list[str]:
    return [each["id"] for each in answer.json()["results"]]


def test_an_alert_is_read_and_acknowledged(acme: Party) -> None:
    url = f"{ALERTS}/{tell(acme)}"
    row = acme.api.get(url).json()
    assert (row["kind"], row["severity"], row["state"], row["threshold"]) == ("quota_warning", "warning", "open", 80)
    assert (row["detail"], row["acknowledged_at"]) == ({"used": 80}, None)
    assert [(each["channel"], each["state"]) for each in row["deliveries"]] == [(None, "pending")]
    seen = acme.api.post(f"{url}/acknowledge").json()
    assert (seen["state"], seen["acknowledged_by"]) == ("acknowledged", f"key {acme.key_id}")
    assert acme.api.post(f"{url}/acknowledge").json() == seen


def test_a_resolved_alert_is_not_acknowledged(acme: Party) -> None:
    alert_id = tell(acme)
    resolve(tenant_id=acme.id, kind="quota_warning", subject="s")
    answer = acme.api.post(f"{ALERTS}/{alert_id}/acknowledge")
    assert (answer.status_code, answer.json()["code"]) == (409, "illegal_transition")


def test_the_list_is_filtered_and_paged(acme: Party) -> None:
    first, second = tell(acme, "a"), tell(acme, "b", kind="budget_exceeded")
    acme.api.post(f"{ALERTS}/{first}/acknowledge")
    for query, expected in (
        ("", [second, first]),
        ("?state=open", [second]),
        ("?state=acknowledged", [first]),
        ("?kind=budget_exceeded", [second]),
        ("?severity=critical", [second]),
        ("?state=resolved", []),
    ):
        assert ids(acme.api.get(f"{ALERTS}{query}")) == expected, query
    page = acme.api.get(f"{ALERTS}?limit=1")
    assert (ids(page), ids(acme.api.get(page.json()["next"]))) == ([second], [first])
    assert acme.api.get(f"{ALERTS}?stat=open").json()["errors"].keys() == {"stat"}
    assert acme.api.get(f"{ALERTS}?state=lost").status_code == 400


def test_a_channel_is_added_changed_and_forgotten(acme: Party) -> None:
    row = acme.api.post(CHANNELS, CHANNEL).json()
    assert (row["kind"], row["minimum_severity"], row["is_enabled"], row["verified_at"]) == (
        "email",
        "warning",
        True,
        None,
    )
    url = f"{CHANNELS}/{row['id']}"
    changed = acme.api.patch(url, {"targets": ["B@acme.test", "a@acme.test"], "is_enabled": False}).json()
    assert (changed["targets"], changed["is_enabled"]) == (["a@acme.test", "b@acme.test"], False)
    assert acme.api.put(url, changed | {"minimum_severity": "critical"}).json()["minimum_severity"] == "critical"
    assert acme.api.get(url).json()["last_test"] is None
    assert ids(acme.api.get(CHANNELS)) == [row["id"]]
    assert acme.api.delete(url).status_code == 204
    assert acme.api.get(url).status_code == 404


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"targets": []}, "targets"),
        ({"targets": ["nobody"]}, "targets"),
        ({"targets": [f"a{n}@acme.test" for n in range(21)]}, "targets"),
        ({"targets": "a@acme.test"}, "targets"),
        ({"minimum_severity": "loud"}, "minimum_severity"),
        ({"kind": "pigeon"}, "kind"),
        ({"name": ""}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"verified_at": "2026-01-01T00:00:00Z"}, "verified_at"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_bad_input_is_named(change: dict[str, Any], field: str, acme: Party) -> None:
    answer = acme.api.post(CHANNELS, CHANNEL | change)
    assert answer.status_code == 400, answer.json()
    assert all(name.split(".")[0].split("[")[0] == field for name in answer.json()["errors"])
    assert AlertChannel.objects.count() == 0


def test_a_name_is_there_once_in_a_tenant(acme: Party, globex: Party) -> None:
    assert acme.api.post(CHANNELS, CHANNEL).status_code == 201
    answer = acme.api.post(CHANNELS, CHANNEL)
    assert (answer.status_code, answer.json()["code"], list(answer.json()["errors"])) == (
        409,
        "already_exists",
        ["name"],
    )
    assert globex.api.post(CHANNELS, CHANNEL).status_code == 201


def test_channels_are_filtered_and_ordered(acme: Party) -> None:
    one, two = (
        acme.api.post(CHANNELS, CHANNEL | words).json()["id"]
        for words in ({"name": "a", "minimum_severity": "critical"}, {"name": "b", "is_enabled": False})
    )
    queries = ("is_enabled=false", "minimum_severity=critical", "kind=webhook", "ordering=name")
    found = [ids(acme.api.get(f"{CHANNELS}?{query}")) for query in queries]
    assert found == [[two], [one], [], [one, two]]
    assert acme.api.get(f"{CHANNELS}?kind=pigeon").json()["errors"].keys() == {"kind"}


def test_there_is_a_most_of_channels(acme: Party) -> None:
    answers = [acme.api.post(CHANNELS, CHANNEL | {"name": f"c{n}"}).status_code for n in range(MOST_CHANNELS + 1)]
    assert answers == [201] * MOST_CHANNELS + [409]


def test_a_test_is_sent_and_verifies(acme: Party, mailbox: Mailbox) -> None:
    url = f"{CHANNELS}/{acme.api.post(CHANNELS, CHANNEL).json()['id']}"
    with mailbox.committed():
        answer = acme.api.post(f"{url}/test")
    assert (answer.status_code, answer.json()["state"]) == (202, "pending")
    (mail,) = mailbox.smtp.mails
    assert (mail["To"], mail["Subject"]) == ("oncall@acme.test", "[Quiver] Test of the alert channel on call")
    row = acme.api.get(url).json()
    assert row["verified_at"] is not None
    assert (row["last_test"]["state"], row["last_test"]["attempts"]) == ("sent", 1)


def test_tests_fill_nobodys_mailbox(acme: Party, mailbox: Mailbox) -> None:
    url = f"{CHANNELS}/{acme.api.post(CHANNELS, CHANNEL).json()['id']}"
    answers = [acme.api.post(f"{url}/test") for _ in range(TESTS_AN_HOUR + 1)]
    assert [each.status_code for each in answers] == [202] * TESTS_AN_HOUR + [429]
    assert answers[-1]["Retry-After"] == "3600"


def test_without_mail_a_test_is_refused_with_the_reason(acme: Party) -> None:
    url = f"{CHANNELS}/{acme.api.post(CHANNELS, CHANNEL).json()['id']}"
    answer = acme.api.post(f"{url}/test")
    assert answer.status_code == 409
    assert "Mail is not set up" in answer.json()["detail"]


def test_an_operators_key_sees_the_platforms_own(acme: Party, operator: Any) -> None:
    tell(acme)
    own = tell(None, kind="provider_excess")
    assert ids(operator.get(ALERTS)) == [own]
    assert operator.post(f"{ALERTS}/{own}/acknowledge").json()["state"] == "acknowledged"
    assert acme.api.get(f"{ALERTS}/{own}").status_code == 404
    row = operator.post(CHANNELS, CHANNEL).json()
    assert ids(operator.get(CHANNELS)) == [row["id"]]
    assert ids(acme.api.get(CHANNELS)) == []


def test_a_platform_key_without_the_operators_scope_sees_none(mint: Callable[..., str], as_key: Any) -> None:
    tell(None, kind="provider_excess")
    reader = as_key(mint(None, "usage:read"))
    assert [reader.get(ALERTS).status_code, reader.get(CHANNELS).status_code] == [403, 403]


def test_mallory_reaches_no_alert_and_no_channel_of_acmes(acme: Party, mallory: Party, mailbox: Mailbox) -> None:
    alert = f"{ALERTS}/{tell(acme)}"
    row = acme.api.post(CHANNELS, CHANNEL).json()
    channel = f"{CHANNELS}/{row['id']}"
    assert (ids(mallory.api.get(ALERTS)), ids(mallory.api.get(CHANNELS))) == ([], [])
    refused = [
        mallory.api.get(alert),
        mallory.api.post(f"{alert}/acknowledge"),
        mallory.api.get(channel),
        mallory.api.put(channel, CHANNEL),
        mallory.api.patch(channel, {"is_enabled": False}),
        mallory.api.post(f"{channel}/test"),
        mallory.api.delete(channel),
    ]
    assert {(each.status_code, each.json()["code"]) for each in refused} == {(404, "not_found")}
    assert acme.api.get(alert).json()["state"] == "open"
    assert acme.api.get(channel).json() == row | {"last_test": None}


def test_reading_and_writing_have_scopes_of_their_own(acme: Party, mint: Callable[..., str], as_key: Any) -> None:
    alert = f"{ALERTS}/{tell(acme)}"
    reader, writer = as_key(mint(acme.id, "usage:read")), as_key(mint(acme.id, "billing:write"))
    assert [reader.get(alert).status_code, reader.post(f"{alert}/acknowledge").status_code] == [200, 403]
    assert [writer.get(alert).status_code, writer.post(f"{alert}/acknowledge").status_code] == [403, 200]
    assert [reader.post(CHANNELS, CHANNEL).status_code, writer.post(CHANNELS, CHANNEL).status_code] == [403, 201]


def test_the_lists_cost_as_many_queries_for_twenty_as_for_one(acme: Party) -> None:
    def cost() -> int:
        with CaptureQueriesContext(connection) as queries:
            assert acme.api.get(ALERTS).status_code == acme.api.get(CHANNELS).status_code == 200
        return len(queries)

    def add(number: int) -> None:
        tell(acme, f"s{number}")
        acme.api.post(CHANNELS, CHANNEL | {"name": f"c{number}"})

    add(0)
    once = cost()
    for number in range(1, 20):
        add(number)
    assert cost() == once
