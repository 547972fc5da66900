"""`/api/v1/tenant-models/quotas`, and the one place where its figures come from."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from billing.services import add_limit, configure_model
from billing.standing import LimitStanding, standings
from core.clock import utc_now
from tests.billing.counting import used
from tests.conftest import Party

QUOTAS = "/api/v1/tenant-models/quotas"
NOW = datetime(2026, 11, 30, 12, 30, 30, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)


def limited(party: Party, scope: str = "tenant", scope_id: object = "", **terms: Any) -> UUID:
    words = {"measure": "tokens", "period": "day", "amount": 100} | terms
    words["amount"] = Decimal(words["amount"])
    return add_limit(tenant_id=party.id, scope=scope, scope_id=str(scope_id), **words).id


def standing(limit_id: UUID, now: datetime = NOW) -> LimitStanding:
    (found,) = [each for each in standings(None, now=now) if each.limit_id == limit_id]
    return found


def test_quotas_tell_what_is_left_of_the_tenant_and_of_each_model(acme: Party, add_model: Callable[..., Any]) -> None:
    model = add_model()
    row = configure_model(
        tenant_id=acme.id, model_id=model.id, limits={"daily_token_limit": 100, "monthly_budget_usd": Decimal("2.50")}
    )
    plain = configure_model(tenant_id=acme.id, model_id=add_model("plain").id, limits={})
    limited(acme, measure="requests", period="month", amount=1)
    used(utc_now(), acme.id, tokens=60, usd="0.000000160", model_id=model.id)
    used(utc_now(), acme.id, tokens=60, usd="1", model_id=model.id)
    body = acme.api.get(QUOTAS).json()
    (whole,) = body["tenant"]
    assert [whole[each] for each in ("measure", "limit", "used", "held", "remaining")] == ["requests", 1, 2, 0, 0]
    first, second = body["models"]
    assert (first["tenant_model_id"], first["model_name"], first["state"]) == (str(row.id), "small", "enabled")
    tokens, money = first["limits"]
    assert [tokens[each] for each in ("limit", "used", "held", "remaining")] == [100, 120, 0, 0]
    assert [money[each] for each in ("limit", "used", "held", "remaining")] == [
        "2.5",
        "1.00000016",
        "0",
        "1.49999984",
    ]
    midnight = utc_now().replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    assert tokens["resets_at"] == midnight.isoformat().replace("+00:00", "Z")
    assert (second["tenant_model_id"], second["limits"]) == (str(plain.id), [])


def test_mallory_sees_her_own_quotas_only(acme: Party, mallory: Party, add_model: Callable[..., Any]) -> None:
    model = add_model()
    configure_model(tenant_id=acme.id, model_id=model.id, limits={"daily_token_limit": 100})
    limited(acme)
    limited(mallory)
    used(utc_now(), acme.id, tokens=60, model_id=model.id)
    body = mallory.api.get(QUOTAS).json()
    assert (body["models"], [each["used"] for each in body["tenant"]]) == ([], [0])


def test_quotas_need_a_scope_a_tenant_and_no_parameters(
    acme: Party, operator: Any, mint: Callable[..., str], as_key: Any
) -> None:
    assert as_key(mint(acme.id, "usage:read")).get(QUOTAS).status_code == 200
    assert as_key(mint(acme.id, "models:read")).get(QUOTAS).status_code == 403
    assert operator.get(QUOTAS).status_code == 403
    assert acme.api.post(QUOTAS, {}).status_code == 405
    assert acme.api.get(f"{QUOTAS}?tenant={acme.id}").status_code == 400


def test_quotas_cost_as_many_queries_for_twenty_models_as_for_one(acme: Party, add_model: Callable[..., Any]) -> None:
    def cost() -> int:
        with CaptureQueriesContext(connection) as queries:
            assert acme.api.get(QUOTAS).status_code == 200
        return len(queries)

    limits = {"daily_token_limit": 1, "monthly_budget_usd": 1, "rate_limit_rpm": 1}
    configure_model(tenant_id=acme.id, model_id=add_model().id, limits=limits)
    once = cost()
    for index in range(19):
        configure_model(tenant_id=acme.id, model_id=add_model(f"m{index}").id, limits=limits)
    assert cost() == once <= 15


@pytest.mark.parametrize(
    ("period", "start", "end"),
    [
        ("day", datetime(2026, 11, 30, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC)),
        ("month", datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC)),
    ],
)
def test_a_period_begins_with_its_first_millisecond(period: str, start: datetime, end: datetime, acme: Party) -> None:
    limit_id = limited(acme, period=period)
    for at, tokens in ((start - MILLISECOND, 1), (start, 2), (end - MILLISECOND, 4), (end, 8)):
        used(at, acme.id, tokens=tokens)
    found = standing(limit_id)
    assert (found.used, found.remaining, found.period_start, found.resets_at) == (6, 94, start, end)


def test_each_scope_counts_what_is_its_own(acme: Party, globex: Party, add_model: Callable[..., Any]) -> None:
    model = add_model()
    row = configure_model(tenant_id=acme.id, model_id=model.id, limits={})
    limits = {
        "tenant": limited(acme),
        "model": limited(acme, "model", row.id),
        "agent": limited(acme, "agent", "crawler"),
        "key": limited(acme, "key", acme.key_id),
        "globex": limited(globex),
        "its agent": limited(globex, "agent", "crawler"),
    }
    used(NOW, acme.id, tokens=1)
    used(NOW, acme.id, tokens=2, model_id=model.id)
    used(NOW, acme.id, tokens=4, agent_id="crawler")
    used(NOW, acme.id, tokens=8, key_id=acme.key_id)
    used(NOW, acme.id, tokens=16, model_id=model.id, agent_id="crawler", key_id=acme.key_id)
    used(NOW, acme.id, tokens=32, model_id=uuid4(), agent_id="other", key_id=uuid4())
    used(NOW, globex.id, tokens=64, model_id=model.id)
    assert {name: standing(limit_id).used for name, limit_id in limits.items()} == {
        "tenant": 63,
        "model": 18,
        "agent": 20,
        "key": 24,
        "globex": 64,
        "its agent": 0,
    }


def test_requests_that_failed_used_nothing(acme: Party) -> None:
    limits = [limited(acme, measure=measure) for measure in ("tokens", "requests", "usd")]
    used(NOW, acme.id, tokens=8, usd="0.000000001")
    used(NOW, acme.id, tokens=8, usd="0.5", status="provider_error")
    assert [standing(each).used for each in limits] == [8, 1, 1]


def test_amounts_are_whole_numbers_and_nothing_is_left_below_zero(acme: Party) -> None:
    found = standing(limited(acme, measure="usd", amount="0.000000007"))
    assert (found.amount, found.used, found.remaining, found.is_used_up) == (7, 0, 7, False)
    used(NOW, acme.id, usd="1")
    (found,) = standings(acme.id, now=NOW)
    assert (found.used, found.remaining, found.is_used_up) == (1_000_000_000, 0, True)
    assert standings(uuid4(), now=NOW) == []
