"""Models that end: who is told, when, with which figures; and who still needs them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerts.models import Alert
from billing import sunsets
from billing.models import UsageRow
from billing.notices import DAYS, due_notice
from billing.partitions import make_partitions
from catalog.lifecycle import Sunset, at_sunset
from catalog.models import EmbeddingModel
from catalog.services import find_model, move_model
from core.clock import utc_now
from core.errors import Conflict
from core.ids import uuid7_text
from tenants.services import configure_model
from tests.admin.people import Mailbox
from tests.alerts.conftest import mailbox, owner
from tests.conftest import Party

__all__ = ["mailbox", "owner"]

NOW = utc_now()
DAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("days", "notice"),
    [
        (200, None),
        (90.1, None),
        (90, 90),
        (45, 90),
        (30, 30),
        (29, 30),
        (7, 7),
        (2, 7),
        (1, 1),
        (0.5, 1),
        (0, 0),
        (-3, 0),
    ],
)
def test_the_nearest_notice_that_has_come_is_due(days: float, notice: int | None) -> None:
    assert due_notice(sunset_at=NOW + days * DAY, now=NOW) == notice


@given(hours=st.lists(st.integers(-48, 24 * 100), min_size=1, max_size=20))
def test_notices_come_in_order_and_none_twice_however_late_one_looks(hours: list[int]) -> None:
    looked = [due_notice(sunset_at=NOW, now=NOW - timedelta(hours=each)) for each in sorted(hours, reverse=True)]
    told = [each for each in looked if each is not None]
    assert told == sorted(told, reverse=True)
    assert set(told) <= set(DAYS)


@pytest.mark.parametrize(
    ("hours", "was_used", "outcome"),
    [
        (None, True, Sunset.WAIT),
        (3, True, Sunset.WAIT),
        (1, True, Sunset.POSTPONE),
        (1, False, Sunset.WAIT),
        (0, False, Sunset.REMOVE),
        (-50, False, Sunset.REMOVE),
        (-50, True, Sunset.POSTPONE),
    ],
)
def test_what_becomes_of_a_model_at_its_sunset(hours: int | None, was_used: bool, outcome: Sunset) -> None:
    sunset = None if hours is None else NOW + timedelta(hours=hours)
    assert at_sunset(sunset_at=sunset, now=NOW, was_used=was_used) is outcome


@pytest.fixture
def ending(add_model: Callable[..., Any]) -> Callable[..., Any]:
    """A model that ends in so many days, with a successor at $0.04."""

    def made(days: float, **facts: Any) -> Any:
        row, heir = add_model(**facts), add_model("heir", cost_per_million_tokens=Decimal("0.04"))
        move_model(model_id=row.id, to="deprecated", sunset_at=utc_now() + timedelta(days=200), successor=heir.id)
        EmbeddingModel.objects.filter(id=row.id).update(sunset_at=NOW + timedelta(days=days))
        return find_model(row.id)

    return made


def used(party: Party, row: Any, at: datetime, **facts: Any) -> None:
    make_partitions(today=at.date(), ahead=1)
    words = {"tokens": 500_000, "held_tokens": 500_000, "cost_usd": Decimal("0.01"), "key_id": party.key_id}
    UsageRow.objects.create(
        id=uuid7_text(int(at.timestamp() * 1000)),
        created_at=at.replace(microsecond=at.microsecond // 1000 * 1000),
        tenant_id=party.id,
        model_id=row.id,
        model=row.name,
        **words | facts,
    )


@pytest.mark.django_db
def test_each_tenant_is_told_its_own_figures_and_nobody_elses(
    acme: Party, globex: Party, mallory: Party, ending: Any
) -> None:
    row = ending(20)
    configure_model(tenant_id=globex.id, model_id=row.id)
    used(acme, row, NOW - DAY, agent_id="crawler")
    used(acme, row, NOW - 2 * DAY, agent_id="searcher", tokens=1_000_000, held_tokens=1_000_000)
    used(acme, row, NOW - 40 * DAY)
    used(acme, row, NOW - DAY, status="provider_error")
    assert sunsets.look(now=NOW) == 2
    told = {each.tenant_id: each for each in Alert.objects.all()}
    assert told.keys() == {acme.id, globex.id}
    assert told[acme.id].detail == {
        "tokens_in_30_days": 1_500_000,
        "requests_in_30_days": 2,
        "cost_usd_in_30_days": "0.02",
        "agents": "searcher, crawler",
        "keys": "all",
        "model": "small",
        "provider": "vendor",
        "successor": "heir",
        "successor_cost_usd_for_the_same_tokens": "0.06",
    }
    assert told[globex.id].detail["tokens_in_30_days"] == 0
    assert (told[acme.id].threshold, told[acme.id].severity) == (30, "warning")


@pytest.mark.django_db
def test_each_notice_is_given_once(acme: Party, ending: Any) -> None:
    row = ending(100)
    configure_model(tenant_id=acme.id, model_id=row.id)
    days = (0, 9, 11, 12, 60, 71, 92, 94, 98.5, 99.5, 99.9)
    assert [sunsets.look(now=NOW + each * DAY) for each in days] == [0, 0, 1, 0, 0, 1, 0, 1, 0, 1, 0]
    assert sunsets.look(now=NOW + 100 * DAY) == 1
    assert sorted(Alert.objects.values_list("threshold", flat=True)) == [0, 1, 7, 30, 90]
    assert find_model(row.id).state == "removed"


@pytest.mark.django_db
def test_an_end_without_a_date_is_told_once(acme: Party, add_model: Any) -> None:
    row = add_model(state="deprecated")
    configure_model(tenant_id=acme.id, model_id=row.id)
    assert [sunsets.look(now=NOW + each * DAY) for each in (0, 100)] == [1, 0]


@pytest.mark.django_db
def test_a_model_that_is_still_used_lives_on_and_operators_are_told(acme: Party, ending: Any, committed: Any) -> None:
    row = ending(0.01)
    used(acme, row, NOW - timedelta(hours=20))
    with committed():
        sunsets.look(now=NOW)
    kept = find_model(row.id)
    assert (kept.state, kept.sunset_at) == ("deprecated", row.sunset_at + timedelta(days=7))
    alert = Alert.objects.get(kind="sunset_moved")
    assert (alert.tenant_id, alert.detail["model"]) == (None, "vendor/small")
    later = kept.sunset_at + timedelta(minutes=1)
    sunsets.look(now=later)
    assert find_model(row.id).state == "removed"


@pytest.mark.django_db
def test_a_postponed_end_is_told_again(acme: Party, ending: Any) -> None:
    row = ending(0.01)
    used(acme, row, NOW - timedelta(hours=20))
    sunsets.look(now=NOW)
    sunsets.look(now=NOW)
    assert [each.threshold for each in Alert.objects.filter(tenant_id=acme.id).order_by("created_at")] == [1, 30]


@pytest.mark.django_db
def test_a_tenants_people_get_a_mail(acme: Party, ending: Any, mailbox: Mailbox, owner: Any) -> None:
    row = ending(20)
    used(acme, row, NOW - DAY, agent_id="crawler")
    with mailbox.committed():
        sunsets.look(now=NOW)
    [mail] = mailbox.smtp.mails
    text = mail.get_body(("plain",)).get_content()
    assert mail["To"] == "owner@acme.test"
    assert "small ends on" in str(mail["Subject"])
    for line in ("tokens in 30 days: 500000", "agents: crawler", "successor: heir", "same tokens: 0.02"):
        assert line in text


@pytest.mark.django_db
def test_by_hand_a_model_that_is_used_is_removed_only_when_that_is_meant(acme: Party, add_model: Any) -> None:
    row = add_model(state="deprecated")
    used(acme, row, NOW - timedelta(hours=20))
    with pytest.raises(Conflict, match="within the last day"):
        move_model(model_id=row.id, to="removed")
    assert find_model(row.id).state == "deprecated"
    assert move_model(model_id=row.id, to="removed", force=True).state == "removed"


@pytest.mark.django_db
def test_being_unavailable_first_is_no_way_around_that(acme: Party, add_model: Any) -> None:
    row = add_model(state="unavailable")
    used(acme, row, NOW - timedelta(hours=20))
    with pytest.raises(Conflict, match="force"):
        move_model(model_id=row.id, to="removed")


@pytest.mark.django_db
def test_what_was_used_two_days_ago_or_answered_nothing_is_removed_by_hand(acme: Party, add_model: Any) -> None:
    row = add_model(state="deprecated")
    used(acme, row, NOW - 2 * DAY)
    used(acme, row, NOW - timedelta(hours=20), status="provider_error")
    assert move_model(model_id=row.id, to="removed").state == "removed"
