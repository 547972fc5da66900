"""Every page of the admin × nobody, a stranger (another tenant's owner), a viewer, the owner, an operator. Who opens
what is in `tests.isolation.policy_admin`. What a page shows and changes in detail is told in `tests.admin`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import pytest
from django.apps import apps
from django.template.backends.django import Template
from django.test import Client

from tests.admin.world import browser
from tests.architecture.test_routes import routes
from tests.conftest import Party, make_party
from tests.isolation.policy_admin import EVERYBODY, MEMBERS, NOBODY, OPERATORS, POWERFUL, ROWS, SITE
from tests.isolation.worlds import World, is_in, rows_in_database, rows_of

pytestmark = [pytest.mark.django_db, pytest.mark.slow]
OF_A_ROW = re.compile(r"admin/(?P<app>\w+)/(?P<model>\w+)/(?P<rest>.*)")
OPENS = {
    "viewer": {EVERYBODY, MEMBERS},
    "owner": {EVERYBODY, MEMBERS, POWERFUL},
    "operator": {EVERYBODY, MEMBERS, POWERFUL, OPERATORS},
}
SAYS_NO = {403, 404}


@dataclass(frozen=True)
class Page:
    """A page of a kind of row. Its name is the end of its route's; the bare address of a row, without one, leads on."""

    label: str
    name: str
    route: str

    @property
    def is_of_a_row(self) -> bool:
        return "object_id>" in self.route

    @property
    def who(self) -> str:
        return ROWS[self.label].pages[self.name]

    def url(self, row: str) -> str:
        return "/" + re.sub(r"<\w+:\w+_id>", "00000000-0000-4000-8000-000000000000", self._with(row))

    def _with(self, row: str) -> str:
        return re.sub(r"<\w+:object_id>", row, self.route)


def found() -> tuple[list[Page], list[str]]:
    """All there is below /admin/ and beside it: pages of kinds of rows, and routes of none."""
    pages, others = [], []
    for route, pattern in routes():
        of_a_row = OF_A_ROW.fullmatch(route)
        label = f"{of_a_row['app']}.{of_a_row['model']}" if of_a_row else ""
        if label in ROWS:
            prefix = label.replace(".", "_") + "_"
            pages.append(Page(label, (pattern.name or "").removeprefix(prefix), route))
        elif not route.startswith("api/"):
            others.append(re.sub(r"\^?\(\?P<(\w+)>.*\)(/?)\$", r"<\1>\2", route))
    return pages, others


PAGES, OTHERS = found()


def test_every_page_has_a_line() -> None:
    assert set(OTHERS) == SITE.keys()
    told = {(label, page) for label, rows in ROWS.items() for page in rows.pages}
    assert {(page.label, page.name) for page in PAGES if page.name} == told
    assert {page.label for page in PAGES if not page.name} == ROWS.keys()  # the bare address of a row


@pytest.fixture
def rows(world: World) -> dict[str, str]:
    """One of each kind: of globex's where they are tenants'."""
    from django_celery_beat.models import CrontabSchedule, IntervalSchedule, PeriodicTask

    from catalog.models import ModelCheck, PriceProposal
    from tenants.models import User

    model_id = world.rows["model"]
    ModelCheck.objects.create(model_id=model_id, kind="recheck", passed=True, probes=1, tokens=1, actor="quiver")
    PriceProposal.objects.create(model_id=model_id, cost_per_million_tokens=1, source="a table")
    hourly = IntervalSchedule.objects.create(every=1, period="hours")
    CrontabSchedule.objects.create()
    PeriodicTask.objects.create(name="a task", task="billing.tasks.forget_claims", interval=hourly)
    known = {"tenants.tenant": world.globex.id, "tenants.user": User.objects.get(email="viewer@globex.example").pk}
    return {label: str(known.get(label) or _first(label, world.globex)) for label in ROWS}


def _first(label: str, party: Party) -> Any:
    kept = apps.get_model(label)._default_manager
    return (kept.filter(tenant_id=party.id) if ROWS[label].is_tenants else kept).values_list("pk", flat=True)[0]


@pytest.fixture
def people(world: World, rows: dict[str, str], model: Any) -> dict[str, Client]:
    from tenants.models import User
    from tenants.services import add_user

    found = {role: browser(User.objects.get(email=f"{role}@globex.example")) for role in ("viewer", "owner")}
    return found | {
        "operator": browser(add_user(email="operator@quiver.example", is_operator=True)),
        "nobody": Client(),
    }


@pytest.fixture
def stranger(world: World, model: Any) -> Client:
    """Acme's owner, who has all powers there, and a row of each kind."""
    from tenants.models import User

    rows_of(make_party("acme"), model)
    return browser(User.objects.get(email="owner@acme.example"))


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages are decided on and not drawn, which takes most of the time: what is on them `tests.admin` looks at."""
    monkeypatch.setattr(Template, "render", lambda *_: "")


# Of no row.


def test_who_looks_at_what_is_of_no_row(people: dict[str, Client], undrawn: None) -> None:
    filled = {route: "/" + re.sub("<app_label>", "tenants", route) for route in SITE}
    urls = {route: re.sub("<[^>]+>", "1", url) for route, url in filled.items()}
    columns = [people[name] for name in ("nobody", "viewer", "owner", "operator")]
    answered = {route: tuple(each.get(url).status_code for each in columns) for route, url in urls.items()}
    assert answered == SITE


# Of rows.


def test_nobody_gets_no_further_than_the_sign_in(people: dict[str, Client], rows: dict[str, str]) -> None:
    nobody, wrong = people["nobody"], []
    for page in PAGES:
        url = page.url(rows[page.label])
        for answer in (nobody.get(url), nobody.post(url, {"post": "yes"})):
            is_refused = answer.status_code == 302 and answer["Location"].startswith("/admin/login/?next=")
            wrong += [] if is_refused and not answer.content else [url]
    assert wrong == []


@pytest.mark.parametrize("column", ["viewer", "owner", "operator"])
def test_who_opens_what(people: dict[str, Client], rows: dict[str, str], undrawn: None, column: str) -> None:
    wrong = []
    for page in [each for each in PAGES if each.name]:
        status = people[column].get(page.url(rows[page.label])).status_code
        if status not in ({200} if page.who in OPENS[column] else SAYS_NO):
            wrong.append((page.label, page.name, status))
    assert wrong == []


def test_a_viewer_sends_nothing_but_wishes_of_lists(
    people: dict[str, Client], rows: dict[str, str], undrawn: None
) -> None:
    sent = [each for each in PAGES if each.name not in ("", "changelist")]
    statuses = {
        (page.label, page.name): people["viewer"].post(page.url(rows[page.label]), {"post": "yes"}).status_code
        for page in sent
    }
    assert {where: status for where, status in statuses.items() if status not in SAYS_NO} == {}


def test_a_stranger_finds_no_row_of_another_tenant(
    world: World, rows: dict[str, str], stranger: Client, undrawn: None, walls: str
) -> None:
    before, wrong = rows_in_database(world.globex), []
    for page in [each for each in PAGES if ROWS[each.label].is_tenants and each.is_of_a_row and each.name]:
        url = page.url(rows[page.label])
        # What nobody of a tenant does is refused before a row is looked for.
        expected = SAYS_NO if page.who in (OPERATORS, NOBODY) else {404}
        for answer in (stranger.get(url), stranger.post(url, {"post": "yes"})):
            wrong += [(url, answer.status_code)] if answer.status_code not in expected else []
    assert wrong == []
    assert rows_in_database(world.globex) == before


def test_a_strangers_own_pages_tell_nothing_of_another_tenant(
    world: World, rows: dict[str, str], stranger: Client, walls: str
) -> None:
    lists = [each for each in PAGES if ROWS[each.label].is_tenants and not each.is_of_a_row]
    urls = ["/admin/", *(page.url("") for page in lists)]
    answers = {url: stranger.get(url).content.decode() for url in urls}
    assert {url: found for url, text in answers.items() if (found := leaks(world, rows, text))} == {}
    assert sum("acme" in text for text in answers.values()) > len(ROWS) / 3  # its own is there


def test_no_list_acts_on_many_rows() -> None:
    """Or else there were a way to rows that is no page's."""
    from django.contrib import admin

    assert {kind: shown.actions for kind, shown in admin.site._registry.items() if shown.actions} == {}


def leaks(world: World, rows: dict[str, str], text: str) -> list[str]:
    theirs = [rows[label] for label in ROWS if ROWS[label].is_tenants]
    return [*world.leaks_in(text), *(each for each in theirs if is_in(each, text))]


def test_the_bare_address_of_a_row_says_the_same_of_all_rows(rows: dict[str, str], stranger: Client) -> None:
    for page in [each for each in PAGES if not each.name]:
        answer = stranger.get(page.url(rows[page.label]))
        assert (answer.status_code, answer["Location"]) == (302, f"{page.url(rows[page.label])}change/")
