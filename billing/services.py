"""The only writer of limits, and of a tenant's configured models together with theirs; sweeps old idempotency claims.
Agents and what they set for themselves are `billing.agents`.

Decides which limit rows the fields of a configured model stand for. A change of limits raises the tenant's version, so
that the data plane follows; a new limit begins with what was used before. Every function is one transaction (the sweep:
one for each batch), after which somebody is told if little is left (`billing.limit_checks`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from decimal import Decimal
from types import MappingProxyType
from typing import Any, TypedDict, Unpack
from uuid import UUID

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from django.db.models.functions import Now

from audit.facts import facts as facts_of
from audit.services import covering, record
from billing import counters
from billing.limit_checks import check_soon
from billing.limit_terms import MOST
from billing.models import IdempotencyClaim, Limit
from core.clock import utc_now
from core.errors import AlreadyExists, Conflict, InvalidRequest, NotFound, QuiverError
from core.money import NANO
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


class LimitWishes(TypedDict, total=False):
    """What may be changed of a limit."""

    amount: Decimal
    mode: str
    thresholds: Sequence[int]


@transaction.atomic
def configure_model(
    *, tenant_id: UUID, model_id: UUID, limits: Amounts, **wishes: Unpack[tenants.ModelWishes]
) -> TenantModel:
    """Takes a model into use, with its limits."""
    with covering():
        row = tenants.configure_model(tenant_id=tenant_id, model_id=model_id, **wishes)
    _set_model_limits(row, limits)
    after = facts_of(row) | {name: amount for name, amount in limits.items() if amount is not None}
    record("tenant_model.configured", tenant_id=tenant_id, subject="tenant_model", subject_id=row.id, after=after)
    check_soon(tenant_id)
    return row


@transaction.atomic
def configure_models(*, tenant_id: UUID, rows: Sequence[Mapping[str, Any]]) -> list[TenantModel]:
    """Takes all of these into use, in their order, or none; an error names the row."""
    found = []
    for index, row in enumerate(rows):
        with _named(index):
            found.append(configure_model(tenant_id=tenant_id, **row))
    return found


@transaction.atomic
def change_configuration(
    *, tenant_id: UUID, tenant_model_id: UUID, limits: Amounts, **wishes: Unpack[tenants.ModelWishes]
) -> TenantModel:
    """Changes what is given of a configured model and of its limits."""
    before = _told(tenants.find_configuration(tenant_id, tenant_model_id), limits)
    with covering():
        row = tenants.change_configuration(tenant_id=tenant_id, tenant_model_id=tenant_model_id, **wishes)
    _set_model_limits(row, limits)
    record(
        "tenant_model.changed",
        tenant_id=tenant_id,
        subject="tenant_model",
        subject_id=row.id,
        before=before,
        after=_told(row, limits),
    )
    check_soon(tenant_id)
    return row


@transaction.atomic
def remove_configuration(*, tenant_id: UUID, tenant_model_id: UUID) -> None:
    """Takes a model out of use; its limits go with it."""
    tenants.remove_configuration(tenant_id=tenant_id, tenant_model_id=tenant_model_id)
    _remove(Limit.objects.filter(tenant_id=tenant_id, scope=Limit.Scope.MODEL, scope_id=str(tenant_model_id)))


@transaction.atomic
def add_limit(
    *, tenant_id: UUID, scope: str, scope_id: str, measure: str, period: str, **terms: Unpack[LimitWishes]
) -> Limit:
    """A new limit; there is one for each scope, measure, period and mode."""
    tenants.tenant_changed(tenant_id)
    scope_id = _checked_scope(tenant_id, scope, scope_id)
    row = Limit(tenant_id=tenant_id, scope=scope, scope_id=scope_id, measure=measure, period=period, **terms)
    _save(row)
    record("limit.added", tenant_id=tenant_id, subject="limit", subject_id=row.id, after=facts_of(row))
    _begin(row)
    check_soon(tenant_id)
    return row


@transaction.atomic
def add_limits(*, tenant_id: UUID, rows: Sequence[Mapping[str, Any]]) -> list[Limit]:
    """Adds all of these or none; an error names the row."""
    found = []
    for index, row in enumerate(rows):
        with _named(index):
            found.append(add_limit(tenant_id=tenant_id, **row))
    return found


@transaction.atomic
def change_limit(*, tenant_id: UUID, limit_id: UUID, **terms: Unpack[LimitWishes]) -> Limit:
    """Changes what is given."""
    tenants.tenant_changed(tenant_id)
    row = _of_the_tenants(find_limit(tenant_id, limit_id))
    before = facts_of(row)
    for name, value in terms.items():
        setattr(row, name, value)
    _save(row)
    after = facts_of(row)
    record("limit.changed", tenant_id=tenant_id, subject="limit", subject_id=row.id, before=before, after=after)
    check_soon(tenant_id)
    return row


@transaction.atomic
def remove_limit(*, tenant_id: UUID, limit_id: UUID) -> None:
    """Forgets a limit."""
    tenants.tenant_changed(tenant_id)
    row = _of_the_tenants(find_limit(tenant_id, limit_id))
    record("limit.removed", tenant_id=tenant_id, subject="limit", subject_id=row.id, before=facts_of(row))
    _remove(Limit.objects.filter(id=row.id))
    check_soon(tenant_id)


def hand_over_limits(*, tenant_id: UUID, old: UUID, new: UUID) -> None:
    """Limits of a key are those of its successor as well, and are found there. Within the rotation's transaction; it is
    that which is told in the audit log. What they count does not change: it is that of the whole line."""
    Limit.objects.filter(tenant_id=tenant_id, scope=Limit.Scope.KEY, scope_id=str(old)).update(scope_id=str(new))


def forget_expired_claims(*, batch: int = 1000) -> int:
    """Deletes the claims on idempotency keys whose day is over; returns how many they were."""
    deleted = 0
    while True:
        expired = IdempotencyClaim.objects.filter(expires_at__lte=Now(), lease_until__lte=Now()).values("id")[:batch]
        count, _ = IdempotencyClaim.objects.filter(id__in=expired).delete()
        deleted += count
        if count < batch:
            return deleted


def find_limit(tenant_id: UUID, limit_id: UUID) -> Limit:
    """The tenant's own row, or `NotFound`."""
    row = Limit.objects.filter(tenant_id=tenant_id, id=limit_id).first()
    if row is None:
        raise NotFound(f"There is no limit {limit_id}.")
    return row


def find_budget(tenant_id: UUID, limit_id: UUID) -> Limit:
    """The same for a limit of money."""
    row = find_limit(tenant_id, limit_id)
    if row.measure != Limit.Measure.USD:
        raise NotFound(f"There is no budget {limit_id}.")
    return row


@contextmanager
def _named(index: int) -> Iterator[None]:
    """Errors raised inside name this row of a list."""
    try:
        yield
    except QuiverError as error:
        error.param = ".".join(filter(None, (f"[{index}]", error.param)))
        raise
    except ValidationError as error:
        raise ValidationError({f"[{index}].{name}": texts for name, texts in error.message_dict.items()}) from error


def _of_the_tenants(row: Limit) -> Limit:
    if row.origin == Limit.Origin.AGENT:
        raise Conflict(
            f"The agent {row.scope_id!r} set this for itself: change its preferences, or add a limit of your own, "
            "which holds as well."
        )
    return row


def _told(row: TenantModel, limits: Amounts) -> dict[str, Any]:
    """A configured model with those of its limits that are being changed, as they are now."""
    own = Limit.objects.filter(tenant_id=row.tenant_id, scope=Limit.Scope.MODEL, scope_id=str(row.id), mode="hard")
    amounts = {(each.measure, each.period): each.amount for each in own} if limits else {}
    return facts_of(row) | {name: amounts.get(MODEL_LIMITS[name]) for name in limits}


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
        keep_limit(key, amount)


def keep_limit(key: Mapping[str, Any], amount: Decimal | int | None) -> None:
    """Makes the limit of this key what is wished; None: there is none. For who has raised the tenant's version."""
    if amount is None:
        _remove(Limit.objects.filter(**key))
        return
    limit, is_new = Limit.objects.update_or_create(**key, defaults={"amount": amount})
    if is_new:
        _begin(limit)


def _begin(row: Limit) -> None:
    """A day or month that has begun counts from its beginning, what is under way as soon as it is certain."""
    now = utc_now()
    counters.begin(row, now=now, recount_at=now + timedelta(seconds=settings.QUIVER.lease_s))


def _remove(rows: QuerySet[Limit]) -> None:
    ids = list(rows.values_list("id", flat=True))
    rows.delete()
    counters.forget(ids)


def _checked_scope(tenant_id: UUID, scope: str, scope_id: str) -> str:
    """`scope_id` as it is kept; ids may be written in several ways, and are compared as text."""
    if (scope == Limit.Scope.TENANT) is bool(scope_id):
        raise InvalidRequest("`scope_id` names the model, agent or key; a tenant's has none.", param="scope_id")
    if scope == Limit.Scope.MODEL:
        return str(tenants.find_configuration(tenant_id, _uuid(scope_id)).id)
    if scope == Limit.Scope.KEY:
        return str(find_key_row(tenant_id, _uuid(scope_id)).id)
    return scope_id


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        raise InvalidRequest("`scope_id` must be an id.", param="scope_id") from error


def _save(row: Limit) -> None:
    if row.measure != Limit.Measure.USD and row.amount != row.amount.to_integral_value():
        raise InvalidRequest(f"An amount of {row.measure} is a whole number.", param="amount")
    if row.amount * (NANO if row.measure == Limit.Measure.USD else 1) > MOST:
        most = f"{MOST // NANO:,} USD" if row.measure == Limit.Measure.USD else f"{MOST:,} {row.measure}"
        raise InvalidRequest(f"A limit is at most {most}.", param="amount")
    if not all(isinstance(each, int) and 1 <= each <= 100 for each in row.thresholds):
        raise InvalidRequest("Thresholds are percentages from 1 to 100.", param="thresholds")
    row.full_clean(validate_unique=False, validate_constraints=False)
    try:
        with transaction.atomic():
            row.save()
    except IntegrityError as error:
        raise AlreadyExists("There is such a limit already; PATCH that one.") from error
