"""The only writer of limits, and of a tenant's configured models together with theirs.

Decides which limit rows the fields of a configured model stand for. Storing is all: nothing here enforces.
Every function is one transaction, after whose commit somebody is told if little is left (`billing.limit_checks`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from types import MappingProxyType
from typing import Any, TypedDict, Unpack
from uuid import UUID

from django.db import IntegrityError, transaction

from billing.limit_checks import check_soon
from billing.models import Limit
from core.errors import AlreadyExists, InvalidRequest, NotFound
from tenants import services as tenants
from tenants.models import TenantModel
from tenants.selectors import find_key_row

# Field of a configured model → measure and period of its hard limit.
MODEL_LIMITS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "daily_token_limit": ("tokens", "day"),
        "monthly_token_limit": ("tokens", "month"),
        "monthly_request_limit": ("requests", "month"),
        "rate_limit_rpm": ("requests", "minute"),
        "rate_limit_tpm": ("tokens", "minute"),
        "monthly_budget_usd": ("usd", "month"),
    }
)
Amounts = Mapping[str, Decimal | int | None]  # by the names above; None: no such limit


class LimitTerms(TypedDict, total=False):
    """What may be changed of a limit."""

    amount: Decimal
    mode: str
    thresholds: Sequence[int]


@transaction.atomic
def configure_model(
    *, tenant_id: UUID, model_id: UUID, limits: Amounts, **wishes: Unpack[tenants.ModelWishes]
) -> TenantModel:
    """Takes a model into use, with its limits."""
    row = tenants.configure_model(tenant_id=tenant_id, model_id=model_id, **wishes)
    _set_model_limits(row, limits)
    check_soon(tenant_id)
    return row


@transaction.atomic
def change_configuration(
    *, tenant_id: UUID, tenant_model_id: UUID, limits: Amounts, **wishes: Unpack[tenants.ModelWishes]
) -> TenantModel:
    """Changes what is given of a configured model and of its limits."""
    row = tenants.change_configuration(tenant_id=tenant_id, tenant_model_id=tenant_model_id, **wishes)
    _set_model_limits(row, limits)
    check_soon(tenant_id)
    return row


@transaction.atomic
def remove_configuration(*, tenant_id: UUID, tenant_model_id: UUID) -> None:
    """Takes a model out of use; its limits go with it."""
    tenants.remove_configuration(tenant_id=tenant_id, tenant_model_id=tenant_model_id)
    Limit.objects.filter(tenant_id=tenant_id, scope=Limit.Scope.MODEL, scope_id=str(tenant_model_id)).delete()


@transaction.atomic
def add_limit(
    *, tenant_id: UUID, scope: str, scope_id: str, measure: str, period: str, **terms: Unpack[LimitTerms]
) -> Limit:
    """A new limit; there is one for each scope, measure, period and mode."""
    _check_scope(tenant_id, scope, scope_id)
    row = Limit(tenant_id=tenant_id, scope=scope, scope_id=scope_id, measure=measure, period=period, **terms)
    _save(row)
    check_soon(tenant_id)
    return row


@transaction.atomic
def change_limit(*, tenant_id: UUID, limit_id: UUID, **terms: Unpack[LimitTerms]) -> Limit:
    """Changes what is given."""
    row = find_limit(tenant_id, limit_id)
    for name, value in terms.items():
        setattr(row, name, value)
    _save(row)
    check_soon(tenant_id)
    return row


@transaction.atomic
def remove_limit(*, tenant_id: UUID, limit_id: UUID) -> None:
    """Forgets a limit."""
    find_limit(tenant_id, limit_id).delete()
    check_soon(tenant_id)


def find_limit(tenant_id: UUID, limit_id: UUID) -> Limit:
    """The tenant's own row, or `NotFound`."""
    row = Limit.objects.filter(tenant_id=tenant_id, id=limit_id).first()
    if row is None:
        raise NotFound(f"There is no limit {limit_id}.")
    return row


def _set_model_limits(row: TenantModel, amounts: Amounts) -> None:
    for name, amount in amounts.items():
        measure, period = MODEL_LIMITS[name]
        key: dict[str, Any] = {
            "tenant_id": row.tenant_id,
            "scope": Limit.Scope.MODEL,
            "scope_id": str(row.id),
            "measure": measure,
            "period": period,
            "mode": Limit.Mode.HARD,
        }
        if amount is None:
            Limit.objects.filter(**key).delete()
        else:
            Limit.objects.update_or_create(**key, defaults={"amount": amount})


def _check_scope(tenant_id: UUID, scope: str, scope_id: str) -> None:
    if (scope == Limit.Scope.TENANT) is bool(scope_id):
        raise InvalidRequest("`scope_id` names the model, agent or key; a tenant's has none.", param="scope_id")
    if scope == Limit.Scope.MODEL:
        tenants.find_configuration(tenant_id, _uuid(scope_id))
    if scope == Limit.Scope.KEY:
        find_key_row(tenant_id, _uuid(scope_id))


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        raise InvalidRequest("`scope_id` must be an id.", param="scope_id") from error


def _save(row: Limit) -> None:
    if row.measure != Limit.Measure.USD and row.amount != row.amount.to_integral_value():
        raise InvalidRequest(f"An amount of {row.measure} is a whole number.", param="amount")
    if not all(isinstance(each, int) and 1 <= each <= 100 for each in row.thresholds):
        raise InvalidRequest("Thresholds are percentages from 1 to 100.", param="thresholds")
    row.full_clean(validate_unique=False, validate_constraints=False)
    try:
        with transaction.atomic():
            row.save()
    except IntegrityError as error:
        raise AlreadyExists("There is such a limit already; PATCH that one.") from error
