"""How full quotas and budgets are, as Prometheus sees it."""

from __future__ import annotations

from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from billing.services import add_limit, configure_model, remove_limit
from billing.tasks import check_budgets, check_limits
from core.clock import utc_now
from core.metrics import exposition
from tests.billing.counting import used
from tests.conftest import Party

pytestmark = pytest.mark.django_db


def limited(party: Party, amount: str, **terms: Any) -> UUID:
    words = {"scope": "tenant", "scope_id": "", "measure": "tokens", "period": "day", **terms}
    return add_limit(tenant_id=party.id, amount=Decimal(amount), **words).id


def shown(name: str) -> dict[str, float]:
    lines = [line.rpartition(" ") for line in exposition(None).decode().splitlines() if line.startswith(name)]
    return {labels.removeprefix(name): float(value) for labels, _, value in lines}


def test_the_fullest_limit_is_shown_and_one_that_is_gone_is_empty(acme: Party, globex: Party, add_model: Any) -> None:
    row = configure_model(tenant_id=acme.id, model_id=add_model("small").id, limits={})
    limits = [limited(acme, "100"), limited(acme, "1", period="month", mode="shadow")]
    limits.append(limited(acme, "16", scope="model", scope_id=str(row.id)))
    limited(acme, "50", measure="requests")
    limited(globex, "0", period="month")
    used(utc_now(), acme.id, tokens=8, model_id=row.model_id)
    check_limits()
    labels = [
        f'{{model="",quota_type="daily",tenant="{acme.slug}"}}',
        f'{{model="small",quota_type="daily",tenant="{acme.slug}"}}',
        f'{{model="",quota_type="monthly",tenant="{globex.slug}"}}',
    ]
    ratios = shown("embedding_quota_usage_ratio")
    assert [ratios[each] for each in labels] == [0.08, 0.5, 1.0]
    assert not ratios.get(f'{{model="",quota_type="monthly",tenant="{acme.slug}"}}')
    remove_limit(tenant_id=acme.id, limit_id=limits[2])
    check_limits()
    assert shown("embedding_quota_usage_ratio")[labels[1]] == 0.0


def test_a_budget_is_the_whole_tenants(acme: Party) -> None:
    limited(acme, "2", measure="usd", period="month")
    limited(acme, "1", measure="usd", scope="agent", scope_id="crawler")
    used(utc_now(), acme.id, usd="0.5", agent_id="crawler")
    check_budgets()
    assert shown("embedding_budget_usage_ratio")[f'{{tenant="{acme.slug}"}}'] == 0.25
