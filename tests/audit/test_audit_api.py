"""`/api/v1/audit-events`: read by whoever answers for a tenant, filtered, paged, taken away as a file."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection
from django.http import StreamingHttpResponse
from django.test.utils import CaptureQueriesContext

from audit.actors import Actor, Kind, acting
from audit.models import AuditEvent
from audit.services import record
from tests.admin.pages import page, read
from tests.admin.people import person
from tests.admin.world import browser
from tests.conftest import Party, make_party, owners_cursor

EVENTS = "/api/v1/audit-events"
EXPORT = f"{EVENTS}/export"


def forget_everything() -> None:
    with owners_cursor() as cursor:
        cursor.execute("DELETE FROM audit_auditevent")


def did(tenant_id: Any, action: str = "thing.changed", subject: str = "t-1", by: str = "7", **sides: Any) -> str:
    """Its id."""
    with acting(lambda: Actor(Kind.PERSON, by, f"person-{by}@acme.example", "192.0.2.1", "r-1")):
        record(action, tenant_id=tenant_id, subject="thing", subject_id=subject, **sides)
    return str(AuditEvent.objects.latest("id").id)


def ids(answer: Any) -> list[str]:
    assert answer.status_code == 200, answer.content
    return [each["id"] for each in answer.json()["results"]]


@pytest.fixture
def quiet(acme: Party) -> Party:
    """Acme, of whom nothing is told yet."""
    forget_everything()
    return acme


def test_an_event_says_who_did_what_to_what_and_what_changed(quiet: Party) -> None:
    event = did(quiet.id, before={"name": "a", "size": 1}, after={"name": "b", "size": 1})

    row = quiet.api.get(f"{EVENTS}/{event}").json()

    assert row == {
        "id": event,
        "created_at": row["created_at"],
        "tenant": str(quiet.id),
        "actor": {"kind": "person", "id": "7", "name": "person-7@acme.example"},
        "action": "thing.changed",
        "subject": {"kind": "thing", "id": "t-1"},
        "before": {"name": "a"},
        "after": {"name": "b"},
        "address": "192.0.2.1",
        "request_id": "r-1",
    }
    assert quiet.api.get(EVENTS).json()["results"] == [row]


def test_the_list_is_filtered(quiet: Party) -> None:
    first = did(quiet.id, "key.minted", "k-1", by="7")
    second = did(quiet.id, "key.revoked", "k-1", by="8")
    third = did(quiet.id, "keyring.added", "k-2", by="7")
    between = quiet.api.get(f"{EVENTS}/{second}").json()["created_at"]
    found = {
        query: ids(quiet.api.get(f"{EVENTS}?{query}"))
        for query in ("action=key", "action=key.minted", "actor=7", "actor=person-8@acme.example", "subject=k-1")
    }
    assert found == {
        "action=key": [second, first],
        "action=key.minted": [first],
        "actor=7": [third, first],
        "actor=person-8@acme.example": [second],
        "subject=k-1": [second, first],
    }
    assert ids(quiet.api.get(f"{EVENTS}?from={between}&to={between}")) == []
    assert second in ids(quiet.api.get(f"{EVENTS}?from={between}"))
    assert second not in ids(quiet.api.get(f"{EVENTS}?to={between}"))


@pytest.mark.parametrize("query", ["colour=red", "from=yesterday", "limit=0", "cursor=nonsense", "tenant=x"])
def test_what_the_list_does_not_know_is_refused_by_name(quiet: Party, query: str) -> None:
    answer = quiet.api.get(f"{EVENTS}?{query}")
    assert (answer.status_code, list(answer.json()["errors"])) == (400, [query.partition("=")[0]])


def test_pages_hold_each_event_once_and_cost_the_same(quiet: Party) -> None:
    made = [did(quiet.id, subject=str(number)) for number in range(5)]
    with CaptureQueriesContext(
        connection,
    ) as few:
        first = quiet.api.get(f"{EVENTS}?limit=2")
    more = [did(quiet.id, subject=str(number)) for number in range(50)]
    with CaptureQueriesContext(connection) as many:
        quiet.api.get(f"{EVENTS}?limit=50")
    second = quiet.api.get(first.json()["next"])
    third = quiet.api.get(second.json()["next"])
    assert ids(first) + ids(second) + ids(third) == made[::-1]  # the newer ones come before the first page
    oldest = quiet.api.get(f"{EVENTS}?limit=3&ordering=created_at")
    assert (ids(oldest) + ids(quiet.api.get(oldest.json()["next"])))[:5] == made
    assert len(more) == 50
    assert len(few) == len(many) <= 15


def test_mallory_sees_nothing_of_it(quiet: Party) -> None:
    event = did(quiet.id)
    mallory = make_party("mallory")
    assert event not in ids(mallory.api.get(f"{EVENTS}?limit=200"))
    assert mallory.api.get(f"{EVENTS}/{event}").status_code == 404
    assert mallory.api.get(f"{EVENTS}?tenant={quiet.id}").status_code == 403
    assert mallory.api.get(f"{EXPORT}?tenant={quiet.id}").status_code == 403
    assert mallory.api.get(f"{EVENTS}?subject=t-1").json()["results"] == []


@pytest.mark.parametrize("scope", ["keys:write", "usage:read", "billing:write", "agents:write"])
def test_a_lesser_key_does_not_read_it(
    quiet: Party, mint: Callable[..., str], as_key: Callable[[str], Any], scope: str
) -> None:
    lesser = as_key(mint(quiet.id, scope))
    assert [lesser.get(url).status_code for url in (EVENTS, EXPORT, f"{EVENTS}/{uuid4()}")] == [403, 403, 403]


@pytest.mark.parametrize("method", ["post", "put", "patch", "delete"])
def test_nobody_writes_it_over_rest(quiet: Party, method: str) -> None:
    event = did(quiet.id)
    answers = [getattr(quiet.api, method)(url, {}) for url in (EVENTS, f"{EVENTS}/{event}", EXPORT)]
    assert {answer.status_code for answer in answers} == {405}


def test_an_operator_reads_all_or_one_tenants(quiet: Party, operator: Any) -> None:
    other = make_party("globex")
    forget_everything()
    own, others, platforms = did(quiet.id), did(other.id), did(None)
    assert ids(operator.get(EVENTS)) == [platforms, others, own]
    assert ids(operator.get(f"{EVENTS}?tenant={other.id}")) == [others]
    assert ids(quiet.api.get(EVENTS)) == [own]


class TestExport:
    pytestmark = pytest.mark.django_db(transaction=True)  # it is read on a connection of its own

    @staticmethod
    def lines(answer: Any) -> list[Any]:
        assert isinstance(answer, StreamingHttpResponse)

        async def collect() -> bytes:
            return b"".join([part async for part in answer])

        return [json.loads(line) for line in asyncio.run(collect()).splitlines()]

    @pytest.mark.parametrize("size", [2, 1000])
    def test_all_of_it_the_oldest_first_as_the_list_shows_it(
        self, quiet: Party, monkeypatch: pytest.MonkeyPatch, size: int
    ) -> None:
        monkeypatch.setattr("tenants.streaming.pages.__kwdefaults__", {"size": size})
        for number in range(5):
            did(quiet.id, subject=str(number), after={"name": "ä"})
        did(make_party("globex").id)
        shown = quiet.api.get(EVENTS).json()["results"]

        answer = quiet.api.get(EXPORT)

        assert answer["Content-Type"] == "application/x-ndjson"
        assert "audit-" in answer["Content-Disposition"]
        assert self.lines(answer) == shown[::-1]

    def test_a_filtered_part_of_it_and_that_it_was_taken_is_told(self, quiet: Party) -> None:
        did(quiet.id, "key.minted")
        did(quiet.id, "limit.added")
        found = self.lines(quiet.api.get(f"{EXPORT}?action=key"))
        assert [each["action"] for each in found] == ["key.minted"]
        taken = quiet.api.get(EVENTS).json()["results"][0]
        assert (taken["action"], taken["after"]) == ("audit_log.exported", {"filters": {"action": "key"}})
        assert taken["actor"]["id"] == str(quiet.key_id)

    def test_an_operator_takes_all(self, quiet: Party, operator: Any) -> None:
        forget_everything()
        did(quiet.id, "a.one")
        did(None, "b.two")
        assert [each["action"] for each in self.lines(operator.get(EXPORT))] == ["a.one", "b.two"]


@pytest.mark.slow
class TestAdmin:
    @pytest.mark.parametrize(("role", "status"), [("owner", 200), ("admin", 200), ("billing", 403), ("viewer", 403)])
    def test_owners_and_admins_read_it(self, quiet: Party, role: str, status: int) -> None:
        client = browser(person(f"{role}@acme.example", **{str(quiet.id): role}))
        urls = [page("audit_auditevent_changelist"), page("audit_auditevent_change", did(quiet.id))]
        assert [client.get(url).status_code for url in urls] == [status, status]
        assert (urls[0] in read(client, "/admin/").links) is (status == 200)

    def test_an_event_is_shown_searched_for_and_never_changed(self, quiet: Party) -> None:
        client = browser(person("owner@acme.example", **{str(quiet.id): "owner"}))
        event = did(quiet.id, "key.minted", "k-1", before={"name": "old"}, after={"name": "new", "list": [1]})
        did(quiet.id, "limit.added", "l-1", by="9")
        url = page("audit_auditevent_change", event)
        shown = read(client, url).text
        assert all(text in shown for text in ("key.minted", "old", "new", "[1]", "192.0.2.1", "person-7@acme.example"))
        found = read(client, f"{page('audit_auditevent_changelist')}?q=person-9").text
        assert ("l-1" in found, "k-1" in found) == (True, False)
        about = read(client, f"{page('audit_auditevent_changelist')}?about=limit").text
        assert ("l-1" in about, "k-1" in about) == (True, False)
        writes = [
            client.post(url, {"actor": "x"}),
            client.post(page("audit_auditevent_delete", event), {"post": "yes"}),
        ]
        assert [answer.status_code for answer in writes] == [403, 403]
        assert client.get(page("audit_auditevent_add")).status_code == 403

    def test_others_events_are_not_found(self, quiet: Party) -> None:
        client = browser(person("owner@acme.example", **{str(quiet.id): "owner"}))
        theirs, platforms = did(make_party("globex").id, subject="globex-1"), did(None, subject="platform-1")
        answers = [client.get(page("audit_auditevent_change", each)) for each in (theirs, platforms)]
        assert [answer.status_code for answer in answers] == [404, 404]
        shown = read(client, f"{page('audit_auditevent_changelist')}?q=-1").text
        assert "globex-1" not in shown
        assert "platform-1" not in shown

    def test_an_operator_reads_everybodys(self, quiet: Party) -> None:
        client = browser(person("op@quiver.example", is_operator=True))
        did(quiet.id, subject="acme-1")
        did(None, subject="platform-1")
        shown = read(client, page("audit_auditevent_changelist")).text
        assert all(text in shown for text in ("acme-1", "platform-1", "Acme", "the platform"))
        assert "platform-1" not in read(client, f"{page('audit_auditevent_changelist')}?tenant={quiet.id}").text
