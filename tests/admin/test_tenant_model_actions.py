"""A tenant's models and limits in the admin: through the services, refused by the field."""

from __future__ import annotations

from typing import Any

import pytest

from tests.admin.pages import fill, page, read
from tests.admin.world import version
from tests.conftest import Party


def configured(tenant_id: Any, name: str = "small") -> Any:
    from tenants.models import TenantModel

    return TenantModel.objects.get(tenant_id=tenant_id, model__name=name)


def test_configuring_a_model_with_limits(owner: Any, furnished: Party) -> None:
    from billing.models import Limit
    from catalog.models import EmbeddingModel

    before = version(furnished.id)
    wishes = {"model": str(EmbeddingModel.objects.get(name="large").id), "priority": "7", "daily_token_limit": "1000"}
    answer = fill(owner, page("tenants_tenantmodel_add"), **wishes)
    assert answer.status_code == 302, answer.content.decode()
    row = configured(furnished.id, "large")
    assert (row.priority, row.is_default) == (7, False)
    assert Limit.objects.get(scope_id=str(row.id)).amount == 1000
    assert version(furnished.id) > before
    fill(owner, page("tenants_tenantmodel_change", row.id), daily_token_limit="", monthly_budget_usd="12.5")
    assert {(each.measure, each.amount) for each in Limit.objects.filter(scope_id=str(row.id))} == {("usd", 12.5)}


def test_a_model_is_configured_once(owner: Any, furnished: Party) -> None:
    model = configured(furnished.id).model_id
    answer = fill(owner, page("tenants_tenantmodel_add"), model=str(model), priority="0")
    assert answer.status_code == 200
    assert "configured already" in answer.content.decode()


def test_switching_models(owner: Any, furnished: Party) -> None:
    from billing.services import configure_model
    from catalog.models import EmbeddingModel

    large = EmbeddingModel.objects.get(name="large")
    configure_model(tenant_id=furnished.id, model_id=large.id, limits={})
    small, other = configured(furnished.id), configured(furnished.id, "large")
    before = version(furnished.id)
    refused = owner.post(page("tenants_tenantmodel_disable", small.id))
    assert "make another model the default first" in refused.content.decode()
    assert owner.post(page("tenants_tenantmodel_set_default", other.id)).status_code == 302
    assert owner.post(page("tenants_tenantmodel_disable", small.id)).status_code == 302
    assert (configured(furnished.id).state, configured(furnished.id, "large").is_default) == ("disabled", True)
    assert owner.post(page("tenants_tenantmodel_enable", small.id)).status_code == 302
    assert configured(furnished.id).state == "enabled"
    assert version(furnished.id) >= before + 3
    refused = owner.post(page("tenants_tenantmodel_delete", other.id), {"post": "yes"}, follow=True)
    assert "make another model the default first" in refused.content.decode()
    assert configured(furnished.id, "large")


def test_asking_does_nothing_yet(owner: Any, furnished: Party) -> None:
    row, before = configured(furnished.id), version(furnished.id)
    assert "Disable small" in read(owner, page("tenants_tenantmodel_disable", row.id)).text
    assert version(furnished.id) == before


def test_limits_are_for_what_the_tenant_has(owner: Any, furnished: Party) -> None:
    from billing.models import Limit

    row = configured(furnished.id)
    wishes = {"measure": "tokens", "period": "day", "amount": "5000", "mode": "soft", "thresholds": "50, 80"}
    answer = fill(owner, page("billing_limit_add"), target=f"model:{row.id}", **wishes)
    assert answer.status_code == 302, answer.content.decode()
    limit = Limit.objects.get(measure="tokens", mode="soft")
    assert (limit.scope, limit.scope_id, limit.thresholds) == ("model", str(row.id), [50, 80])
    assert (
        "Select a valid choice"
        in fill(
            owner, page("billing_limit_add"), target="model:7c9e6679-7425-40de-944b-e07fc1f90ae7", **wishes
        ).content.decode()
    )
    fill(owner, page("billing_limit_change", limit.id), amount="6000", thresholds="")
    limit.refresh_from_db()
    assert (limit.amount, limit.thresholds) == (6000, [])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"amount": "1.5"}, "is a whole number"),
        ({"thresholds": "120"}, "percentages from 1 to 100"),
        ({"thresholds": "much"}, "Whole numbers"),
        ({"target": "agent:"}, "goes together"),
        ({"amount": "-1"}, "greater than or equal to 0"),
    ],
)
def test_a_limit_that_is_refused_says_why(owner: Any, furnished: Party, wrong: dict[str, str], said: str) -> None:
    wishes = {"target": "tenant:", "measure": "tokens", "period": "day", "amount": "5", "mode": "hard"}
    answer = fill(owner, page("billing_limit_add"), **(wishes | wrong))
    assert answer.status_code == 200
    assert said in answer.content.decode()
