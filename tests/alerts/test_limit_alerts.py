"""Limits that fill up are told of once for each threshold and period; time and usage are given, nobody waits."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from alerts.models import Alert
from billing import limit_checks
from billing.services import (
    add_limit,
    change_configuration,
    change_limit,
    configure_model,
    remove_limit,
)
from billing.tasks import check_budgets, check_limits
from core.clock import utc_now
from tenants.models import TenantModel
from tenants.services import change_tenant, disable_model
from tests.admin.people import Mailbox
from tests.billing.counting import used
from tests.conftest import Party, make_party

DAY = datetime(2026, 11, 30, tzinfo=UTC)  # the last of its month
LIMIT = {"scope": "tenant", "scope_id": "", "measure": "tokens", "period": "day", "amount": 1000}


def limited(party: Party, **terms: Any) -> UUID:
    words = LIMIT | terms
    return add_limit(tenant_id=party.id, **(words | {"amount": Decimal(words["amount"])})).id


def check(now: datetime) -> None:
    """What beat does each minute."""
    limit_checks.check(limit_checks.QUOTAS, now=now)
    limit_checks.check(limit_checks.BUDGETS, now=now)


def told(**which: Any) -> list[tuple[str, int | None, str]]:
    rows = Alert.objects.filter(**which).order_by("created_at", "id")
    return list(rows.values_list("kind", "threshold", "state"))


@pytest.mark.slow
def test_crossing_80_percent_a_hundred_times_is_one_alert_and_one_mail(
    acme: Party, owner: Any, mailbox: Mailbox
) -> None:
    limit_id = limited(acme)
    used(DAY, acme.id, tokens=799)
    with mailbox.committed():
        check(DAY + timedelta(hours=1))
    assert (told(), mailbox.smtp.mails) == ([], [])
    used(DAY, acme.id, tokens=1)
    for minute in range(100):
        with mailbox.committed():
            change_limit(tenant_id=acme.id, limit_id=limit_id, amount=Decimal((1000, 2000)[minute % 2]))
            check(DAY + timedelta(hours=2, minutes=minute))
    assert [(kind, threshold) for kind, threshold, _ in told()] == [("quota_warning", 80)]
    (mail,) = mailbox.smtp.mails
    assert (mail["To"], mail["Subject"]) == (
        "owner@acme.test",
        "[Quiver, warning] 80 % of 1,000 tokens per day used: the whole tenant",
    )
    text = mail.get_body(("plain",)).get_content()  # type: ignore[union-attr]
    assert f"https://quiver.example/admin/alerts/alert/{Alert.objects.get().id}/change/" in text
    assert "used: 800" in text.splitlines()

    following = DAY + timedelta(days=1)
    used(following, acme.id, tokens=800)
    for minute in range(3):
        with mailbox.committed():
            change_limit(tenant_id=acme.id, limit_id=limit_id, amount=Decimal(1000))
            check(following + timedelta(minutes=minute))
    assert len(mailbox.smtp.mails) == 2
    assert told() == [("quota_warning", 80, "resolved"), ("quota_warning", 80, "open")]


def test_many_workers_that_look_at_once_tell_once(transactional_db: None, at_once: Callable[..., list[Any]]) -> None:
    acme = make_party("acme")
    limited(acme)
    used(DAY, acme.id, tokens=900)
    outcomes = at_once(*[lambda: check(DAY)] * 8)
    assert outcomes == [None] * 8
    assert told() == [("quota_warning", 90, "open")]
    assert Alert.objects.get().deliveries.count() == 1


def test_of_several_thresholds_at_once_the_highest_is_told(acme: Party) -> None:
    limited(acme)
    used(DAY, acme.id, tokens=960)
    check(DAY)
    assert told() == [("quota_warning", 95, "open")]
    assert Alert.objects.get().detail["also_crossed"] == "80 %, 90 %"
    used(DAY, acme.id, tokens=40)
    check(DAY)
    assert told() == [("quota_warning", 95, "open"), ("quota_exceeded", 100, "open")]
    assert Alert.objects.latest("created_at").severity == "critical"


def test_what_is_cleared_is_resolved_and_what_comes_back_is_open_without_a_second_mail(
    acme: Party, owner: Any, mailbox: Mailbox
) -> None:
    limit_id = limited(acme)
    used(DAY, acme.id, tokens=850)
    for amount, state in ((1000, "open"), (2000, "resolved"), (1000, "open")):
        with mailbox.committed():
            change_limit(tenant_id=acme.id, limit_id=limit_id, amount=Decimal(amount))
            check(DAY)
        assert told() == [("quota_warning", 80, state)]
    assert len(mailbox.smtp.mails) == 1


def test_alerts_of_a_limit_that_is_gone_are_resolved(acme: Party) -> None:
    limit_id = limited(acme)
    used(DAY, acme.id, tokens=850)
    check(DAY)
    remove_limit(tenant_id=acme.id, limit_id=limit_id)
    check(DAY)
    assert told() == [("quota_warning", 80, "resolved")]


def test_money_has_kinds_of_its_own(acme: Party) -> None:
    limited(acme, measure="usd", period="month", amount="0.000000160")
    used(DAY - timedelta(days=29), acme.id, usd="0.000000150")
    limit_checks.check(limit_checks.QUOTAS, now=DAY)
    assert told() == []
    limit_checks.check(limit_checks.BUDGETS, now=DAY)
    assert told() == [("budget_warning", 90, "open")]
    row = Alert.objects.get()
    assert row.title == "90 % of 0.00000016 USD per month used: the whole tenant"
    assert (row.detail["used"], row.period_start) == ("0.00000015", DAY.replace(day=1))
    used(DAY, acme.id, usd="0.00000001")
    check(DAY)
    assert told()[-1] == ("budget_exceeded", 100, "open")


def test_the_month_goes_on_where_the_day_ends(acme: Party) -> None:
    limited(acme)
    limited(acme, period="month")
    used(DAY - timedelta(days=1), acme.id, tokens=800)
    check(DAY - timedelta(days=1))
    assert {state for *_, state in told()} == {"open"}
    check(DAY)
    assert {row.detail["period"]: row.state for row in Alert.objects.all()} == {"day": "resolved", "month": "open"}
    check(DAY + timedelta(days=1))
    assert {state for *_, state in told()} == {"resolved"}


@pytest.mark.parametrize(
    ("own", "mode", "tokens", "expected"),
    [
        ([], "hard", 500, [("quota_warning", 50)]),  # the tenant's choice
        ([], "hard", 1000, [("quota_exceeded", 100)]),  # always told of
        ([], "soft", 1000, [("quota_warning", 50)]),
        ([10], "soft", 499, [("quota_warning", 10)]),
    ],
)
def test_thresholds_are_the_limits_own_or_the_tenants_choice(
    own: list[int], mode: str, tokens: int, expected: list[tuple[str, int]], acme: Party
) -> None:
    change_tenant(tenant_id=acme.id, settings={"thresholds": [50]})
    limited(acme, mode=mode, thresholds=own)
    used(DAY, acme.id, tokens=tokens)
    check(DAY)
    assert [(kind, threshold) for kind, threshold, _ in told()] == expected


@pytest.mark.parametrize("thresholds", [[0], [101], ["80"], list(range(1, 30)), 80])
def test_thresholds_that_make_no_sense_are_refused(thresholds: Any, acme: Party, operator: Any) -> None:
    answer = operator.patch(f"/api/v1/tenants/{acme.id}", {"settings": {"thresholds": thresholds}})
    assert (answer.status_code, list(answer.json()["errors"])) == (400, ["settings"])


def test_a_shadow_limit_tells_once_what_it_would_have_refused(acme: Party, owner: Any, mailbox: Mailbox) -> None:
    limited(acme, mode="shadow")
    used(DAY, acme.id, tokens=1000)
    check(DAY)
    assert told() == []  # used up, and nothing came after it
    used(DAY, acme.id, tokens=1)
    for _ in range(3):
        with mailbox.committed():
            check(DAY)
    assert told() == [("would_have_refused", None, "open")]
    assert mailbox.smtp.mails == []  # nobody asked for what is only for information
    used(DAY + timedelta(days=1), acme.id, tokens=1001)
    check(DAY + timedelta(days=1))
    assert [state for *_, state in told()] == ["resolved", "open"]


def test_a_limit_that_becomes_a_shadow_ends_what_it_told_before(acme: Party) -> None:
    limit_id = limited(acme)
    used(DAY, acme.id, tokens=1001)
    check(DAY)
    change_limit(tenant_id=acme.id, limit_id=limit_id, mode="shadow")
    check(DAY)
    assert told() == [("quota_exceeded", 100, "resolved"), ("would_have_refused", None, "open")]


def test_a_limit_of_nothing_that_lets_nothing_through_tells_nothing(acme: Party) -> None:
    limited(acme, amount=0)
    check(DAY)
    assert told() == []


def test_limits_per_minute_are_not_told_of(acme: Party) -> None:
    limited(acme, period="minute")
    used(DAY, acme.id, tokens=5000)
    check(DAY)
    assert told() == []


def test_configuring_a_model_with_little_left_warns_at_once(
    acme: Party, owner: Any, mailbox: Mailbox, add_model: Callable[..., Any]
) -> None:
    model = add_model()
    used(utc_now(), acme.id, tokens=900, model_id=model.id)
    with mailbox.committed():
        row = configure_model(tenant_id=acme.id, model_id=model.id, limits={"daily_token_limit": 1000})
        assert told() == []
    assert told() == [("quota_warning", 90, "open")]
    assert [mail["To"] for mail in mailbox.smtp.mails] == ["owner@acme.test"]
    assert "model small" in str(mailbox.smtp.mails[0]["Subject"])
    with mailbox.committed():
        limits = {"daily_token_limit": 900}
        change_configuration(tenant_id=acme.id, tenant_model_id=row.id, limits=limits)
    assert told()[1:] == [("quota_exceeded", 100, "open")]
    assert TenantModel.objects.get(id=row.id).state == "quota_exceeded"


@pytest.mark.parametrize(
    ("limits", "usage"),
    [
        ({"daily_token_limit": 100}, {"tokens": 100}),
        ({"monthly_token_limit": 100}, {"tokens": 101}),
        ({"monthly_request_limit": 1}, {"tokens": 1}),
        ({"monthly_budget_usd": 5}, {"usd": "5"}),
    ],
)
def test_a_model_that_used_up_a_hard_limit_is_over_quota_until_it_resets(
    limits: dict[str, Any], usage: dict[str, Any], acme: Party, add_model: Callable[..., Any]
) -> None:
    row = configure_model(tenant_id=acme.id, model_id=add_model().id, limits=limits)
    other = configure_model(tenant_id=acme.id, model_id=add_model("other").id, limits=limits)
    used(DAY, acme.id, model_id=row.model_id, **usage)

    def states() -> list[str]:
        return [TenantModel.objects.get(id=each.id).state for each in (row, other)]

    check(DAY)
    assert states() == ["quota_exceeded", "enabled"]
    check(DAY + timedelta(hours=23, minutes=59))
    assert states() == ["quota_exceeded", "enabled"]
    check(DAY + timedelta(days=1))  # the next day, and the next month
    assert states() == ["enabled", "enabled"]


def test_a_model_comes_back_when_its_limit_is_raised(
    acme: Party, add_model: Callable[..., Any], committed: Any
) -> None:
    model = add_model()
    row = configure_model(tenant_id=acme.id, model_id=model.id, limits={"daily_token_limit": 10})
    used(utc_now(), acme.id, model_id=model.id, tokens=10)
    check_limits()
    url = f"/api/v1/tenant-models/{row.id}"
    shown = acme.api.get(url).json()
    assert (shown["state"], shown["is_enabled"]) == ("quota_exceeded", True)
    with committed():
        assert acme.api.patch(url, {"daily_token_limit": 11}).json()["state"] == "quota_exceeded"
    assert acme.api.get(url).json()["state"] == "enabled"


@pytest.mark.parametrize("mode", ["soft", "shadow"])
def test_only_a_hard_limit_takes_a_model_over_quota(mode: str, acme: Party, add_model: Callable[..., Any]) -> None:
    row = configure_model(tenant_id=acme.id, model_id=add_model().id, limits={})
    limited(acme, scope="model", scope_id=str(row.id), mode=mode)
    used(DAY, acme.id, model_id=row.model_id, tokens=5000)
    check(DAY)
    assert TenantModel.objects.get(id=row.id).state == "enabled"


def test_a_model_that_is_switched_off_stays_off(acme: Party, add_model: Callable[..., Any]) -> None:
    row = configure_model(tenant_id=acme.id, model_id=add_model().id, limits={"daily_token_limit": 10})
    used(DAY, acme.id, model_id=row.model_id, tokens=10)
    disable_model(tenant_id=acme.id, tenant_model_id=row.id)
    check(DAY)
    assert TenantModel.objects.get(id=row.id).state == "disabled"


def test_tenants_are_told_of_their_own(acme: Party, globex: Party) -> None:
    for party in (acme, globex):
        limited(party)
    used(DAY, globex.id, tokens=850)
    check(DAY)
    assert told(tenant_id=acme.id) == []
    assert told(tenant_id=globex.id) == [("quota_warning", 80, "open")]


def test_a_failure_to_look_does_not_fail_what_was_done(
    acme: Party, committed: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no figures")

    monkeypatch.setattr(limit_checks, "standings", broken)
    with committed():
        assert acme.api.post("/api/v1/limits", LIMIT).status_code == 201
    assert "no figures" in caplog.text


def test_a_look_costs_as_many_queries_for_forty_limits_as_for_two(acme: Party) -> None:
    def cost() -> int:
        with CaptureQueriesContext(connection) as queries:
            check_limits()
            check_budgets()
        return len(queries)

    limited(acme)
    limited(acme, period="month")
    once = cost()
    for index in range(40):
        limited(acme, scope="agent", scope_id=f"agent {index}", measure=("tokens", "usd")[index % 2])
    assert cost() == once
