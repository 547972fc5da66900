"""The only writer of tenants, accounts and configured models; keys are `tenants.minting`, who belongs to a tenant is
`tenants.members`.

Every function is one transaction, raises the tenant's version in it and tells the data plane after its commit. Who
changes a tenant's models holds the tenant's row first, so that two who choose a default at once choose one after the
other. Limits on a configured model are billing's: what is removed here goes through `billing.services` where it may
have some.
"""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any, TypedDict, Unpack
from uuid import UUID

import msgspec
from django.db import IntegrityError, transaction
from django.db.models import F

from audit.facts import Facts
from audit.facts import facts as facts_of
from audit.services import covering, record
from catalog.models import EmbeddingModel, State
from catalog.publishing import announce
from core.changes import Change
from core.clock import utc_now
from core.errors import AlreadyExists, Conflict, InUse, InvalidRequest, NotFound
from tenants import model_states, signals
from tenants import settings as tenant_settings
from tenants.models import Tenant, TenantModel, User

MAX_SETTINGS_BYTES = 16 * 1024


class TenantChanges(TypedDict, total=False):
    """What an operator changes of a tenant. Of `settings`, what is given; the others stay."""

    name: str
    tier: str
    is_suspended: bool
    settings: dict[str, Any]


class ModelWishes(TypedDict, total=False):
    """How a tenant configures a model. `fallback_model_id` is a catalogue row that the tenant has configured too."""

    is_enabled: bool
    is_default: bool
    priority: int
    custom_cost_per_million_tokens: Decimal | None
    fallback_model_id: UUID | None
    settings: dict[str, Any]


def tenant_changed(tenant_id: UUID) -> None:
    """To be called first in the transaction that changes what `tenants.loading` reads: holds the tenant's row."""
    if not Tenant.objects.filter(id=tenant_id).update(version=F("version") + 1):
        raise NotFound(f"There is no tenant {tenant_id}.")
    announce(Change(tenant_id))


def hold_tenant(tenant_id: UUID) -> None:
    """Makes all who change something of a tenant wait until this transaction ends."""
    if not Tenant.objects.select_for_update(no_key=True).filter(id=tenant_id):
        raise NotFound(f"There is no tenant {tenant_id}.")


@transaction.atomic
def add_tenant(*, name: str, slug: str, tier: str = "standard") -> Tenant:
    """A new tenant, without people, keys or models."""
    row = Tenant(name=name, slug=slug, tier=tier)
    row.full_clean(validate_unique=False, validate_constraints=False)
    try:
        with transaction.atomic():
            row.save(force_insert=True)
    except IntegrityError as error:
        raise AlreadyExists(f"There is a tenant {slug!r} already.", param="slug") from error
    record("tenant.added", tenant_id=row.id, subject="tenant", subject_id=row.id, after=facts_of(row))
    return row


@transaction.atomic
def change_tenant(*, tenant_id: UUID, **changes: Unpack[TenantChanges]) -> Tenant:
    """Changes what is given; a suspended tenant's keys are refused from then on."""
    tenant_changed(tenant_id)
    row = Tenant.objects.get(id=tenant_id)
    before = facts_of(row)
    if "settings" in changes:
        changes["settings"] = _merged_settings(row.settings, changes["settings"])
    for name, value in changes.items():
        setattr(row, name, value)
    row.full_clean(validate_unique=False, validate_constraints=False)
    row.save(update_fields=[*changes, "updated_at"])
    record("tenant.changed", tenant_id=row.id, subject="tenant", subject_id=row.id, before=before, after=facts_of(row))
    return row


@transaction.atomic
def add_user(*, email: str, name: str = "", password: str | None = None, is_operator: bool = False) -> User:
    """A new person; without a password nobody signs in as them until one is set."""
    return User.objects.create_user(email, password, name=name, is_superuser=is_operator)


@transaction.atomic
def set_password(*, user: User, password: str) -> None:
    """Gives a person another password; their sessions end."""
    user.set_password(password)
    user.save(update_fields=["password"])
    record("person.password_set", tenant_id=only_tenant_of(user), subject="person", subject_id=user.pk)


@transaction.atomic
def configure_model(*, tenant_id: UUID, model_id: UUID, **wishes: Unpack[ModelWishes]) -> TenantModel:
    """Takes a model of the catalogue into use. A tenant's first one becomes its default unless it says otherwise."""
    tenant_changed(tenant_id)
    # Held, so that the operator cannot remove it between this look and our commit.
    model = EmbeddingModel.objects.select_for_update(no_key=True).filter(id=model_id).first()
    if model is None or model.state == State.REMOVED:
        raise NotFound(f"The catalogue has no model {model_id}.", param="model_id")
    if model.state in (State.DRAFT, State.TESTING):
        said = f"{model.name} is not usable yet (state {model.state}); take it into use once it is available."
        raise Conflict(said, param="model_id")
    others = TenantModel.objects.filter(tenant_id=tenant_id)
    if others.filter(model_id=model_id).exists():
        raise AlreadyExists("This model is configured already; PATCH that configuration.", param="model_id")
    wishes.setdefault("is_default", wishes.get("is_enabled", True) and not others.exists())
    row = TenantModel(tenant_id=tenant_id, model_id=model_id, state=TenantModel.State.CONFIGURED)
    row.save(force_insert=True)
    _apply(row, {"is_enabled": True, **wishes})
    _record("configured", row, after=facts_of(row))
    return row


@transaction.atomic
def change_configuration(*, tenant_id: UUID, tenant_model_id: UUID, **wishes: Unpack[ModelWishes]) -> TenantModel:
    """Changes what is given."""
    tenant_changed(tenant_id)
    row = find_configuration(tenant_id, tenant_model_id)
    before = facts_of(row)
    _apply(row, wishes)
    _record("changed", row, before=before, after=facts_of(row))
    return row


def make_default(*, tenant_id: UUID, tenant_model_id: UUID) -> TenantModel:
    """Makes an enabled model the default, in place of the one before."""
    return change_configuration(tenant_id=tenant_id, tenant_model_id=tenant_model_id, is_default=True)


def enable_model(*, tenant_id: UUID, tenant_model_id: UUID) -> TenantModel:
    """Lets a model answer again; the only one that a tenant has becomes its default."""
    with transaction.atomic():
        before = facts_of(find_configuration(tenant_id, tenant_model_id))
        with covering():
            row = change_configuration(tenant_id=tenant_id, tenant_model_id=tenant_model_id, is_enabled=True)
        if not _has_others(row):
            _apply(row, {"is_default": True})
        _record("changed", row, before=before, after=facts_of(row))
    return row


def disable_model(*, tenant_id: UUID, tenant_model_id: UUID) -> TenantModel:
    """Keeps a model from answering; a default only if it is the only model."""
    return change_configuration(tenant_id=tenant_id, tenant_model_id=tenant_model_id, is_enabled=False)


@transaction.atomic
def remove_configuration(*, tenant_id: UUID, tenant_model_id: UUID) -> None:
    """Takes a model out of use; a default only if it is the only model."""
    tenant_changed(tenant_id)
    row = find_configuration(tenant_id, tenant_model_id)
    if row.is_default and _has_others(row):
        raise Conflict("This is the tenant's default; make another model the default first.")
    user = TenantModel.objects.filter(tenant_id=tenant_id, fallback_model_id=row.model_id).first()
    if user is not None:
        raise InUse(f"This model is written down as the fallback of configuration {user.id}; change that first.")
    _record("removed", row, before=facts_of(row))
    row.delete()


@transaction.atomic
def mark_quota_exceeded(*, tenant_id: UUID, tenant_model_id: UUID) -> bool:
    """An enabled model has used up a hard limit of its own. False: it is not enabled (any more)."""
    return _move(tenant_id, tenant_model_id, TenantModel.State.ENABLED, TenantModel.State.QUOTA_EXCEEDED)


@transaction.atomic
def mark_quota_restored(*, tenant_id: UUID, tenant_model_id: UUID) -> bool:
    """Its limits leave something again. False: it was not over its quota (any more)."""
    return _move(tenant_id, tenant_model_id, TenantModel.State.QUOTA_EXCEEDED, TenantModel.State.ENABLED)


def find_configuration(tenant_id: UUID, tenant_model_id: UUID) -> TenantModel:
    """The tenant's own row, or `NotFound`."""
    found = TenantModel.objects.select_related("model__provider").filter(tenant_id=tenant_id, id=tenant_model_id)
    row = found.first()
    if row is None:
        raise NotFound(f"There is no tenant model {tenant_model_id}.")
    return row


def only_tenant_of(user: User) -> UUID | None:
    """Whose matter an account is: its tenant's, or, of who belongs to several or none, the platform's."""
    found = list(user.memberships.values_list("tenant_id", flat=True)[:2])
    return found[0] if len(found) == 1 else None


def _record(what: str, row: TenantModel, **sides: Facts) -> None:
    record(f"tenant_model.{what}", tenant_id=row.tenant_id, subject="tenant_model", subject_id=row.id, **sides)


def _apply(row: TenantModel, wishes: ModelWishes) -> None:
    for name in ("priority", "custom_cost_per_million_tokens"):
        if name in wishes:
            setattr(row, name, wishes[name])
    if "settings" in wishes:
        if len(json.dumps(wishes["settings"])) > MAX_SETTINGS_BYTES:
            raise InvalidRequest(f"At most {MAX_SETTINGS_BYTES} bytes of settings.", param="settings")
        row.settings = wishes["settings"]
    if "fallback_model_id" in wishes:
        row.fallback_model_id = _fallback(row, wishes["fallback_model_id"])
    if "is_enabled" in wishes:
        _switch(row, wishes["is_enabled"])
    if "is_default" in wishes:
        _set_default(row, wishes["is_default"])
    row.full_clean(validate_unique=False, validate_constraints=False)
    row.save()


def _fallback(row: TenantModel, model_id: UUID | None) -> UUID | None:
    if model_id is None:
        return None
    if model_id == row.model_id:
        raise InvalidRequest("A model is not its own fallback.", param="fallback_model_id")
    if not TenantModel.objects.filter(tenant_id=row.tenant_id, model_id=model_id).exists():
        raise InvalidRequest("The tenant has not configured this model; do that first.", param="fallback_model_id")
    return model_id


def _switch(row: TenantModel, is_enabled: bool) -> None:
    if not is_enabled and row.is_default:
        if _has_others(row):
            raise Conflict("This is the tenant's default; make another model the default first.")
        row.is_default = False
    was, row.state = row.state, model_states.switched(row.state, is_enabled)
    if was != row.state:
        _tell_moved(row.tenant_id, row.id, was, row.state)


def _move(tenant_id: UUID, tenant_model_id: UUID, was: str, now: str) -> bool:
    # Holds the tenant's row as all who change its models do; the data plane sees no difference, so no version rises.
    if not Tenant.objects.select_for_update(no_key=True).filter(id=tenant_id):
        return False
    moved = TenantModel.objects.filter(tenant_id=tenant_id, id=tenant_model_id, state=was)
    if not moved.update(state=now, updated_at=utc_now()):
        return False
    _tell_moved(tenant_id, tenant_model_id, was, now)
    return True


def _tell_moved(tenant_id: UUID, tenant_model_id: UUID, was: str, now: str) -> None:
    told = {"tenant_id": tenant_id, "tenant_model_id": tenant_model_id, "was": was, "now": now}
    transaction.on_commit(lambda: signals.tenant_model_moved.send(TenantModel, **told))


def _set_default(row: TenantModel, is_default: bool) -> None:
    if is_default and not row.is_enabled:
        raise Conflict("A disabled model cannot be the default; enable it first.")
    if is_default:
        # The constraint holds one default at any moment, so the old one goes first.
        TenantModel.objects.filter(tenant_id=row.tenant_id, is_default=True).exclude(id=row.id).update(is_default=False)
    row.is_default = is_default


def _has_others(row: TenantModel) -> bool:
    return TenantModel.objects.filter(tenant_id=row.tenant_id).exclude(id=row.id).exists()


def _merged_settings(now: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    try:
        return tenant_settings.dump(tenant_settings.parse(now | changes))
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"settings: {error}", param="settings") from error
