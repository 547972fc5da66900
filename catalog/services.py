"""The only writer of the catalogue's models and prices; providers are `catalog.upstreams`.

Every function is one transaction and tells the data plane after its commit. What a row must be like is held here and
in the database, so that the API, the admin and tasks cannot differ about it. What calls a provider in between is
`catalog.validating`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import TypedDict, Unpack
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import ProtectedError

from audit.facts import facts as facts_of
from audit.services import covering, record
from catalog import events, lifecycle, signals
from catalog.corrections import CLOCK_SKEW
from catalog.models import Capability, EmbeddingModel, Price, Provider, State, VectorSpace
from catalog.moves import find_model, locked_model, move_model
from catalog.publishing import catalog_changed
from core.clock import utc_now
from core.errors import AlreadyExists, Conflict, InUse, InvalidRequest

__all__ = ["add_model", "add_price", "change_model", "find_model", "move_model", "remove_model"]

CONFIRM_ABOVE = Decimal(10)  # USD per million: no embedding model on the market costs as much


class Details(TypedDict, total=False):
    """What may be said about a model. `space` is a slug; without one the row gets a space of its own."""

    space: str
    allowed_dimensions: Sequence[int]
    max_tokens: int
    tokenizer: str
    model_type: str
    model_version: str
    capabilities: Sequence[str]
    quality_score: Decimal | None
    minimum_tier: str


class Facts(Details, total=False):
    """The same with what a new model cannot be without."""

    name: str
    identifier: str
    dimensions: int


# What callers, keys and stored vectors rely on: in a released row these never change, a new row takes their place.
_FROZEN = ("name", "identifier", "space", "dimensions")
# What a passed validation was about; what is changed of it is validated anew.
_VALIDATED = frozenset(
    {"identifier", "space", "dimensions", "allowed_dimensions", "capabilities", "max_tokens", "tokenizer"}
)


@transaction.atomic
def add_model(
    *,
    provider: str,
    name: str,
    identifier: str,
    dimensions: int,
    cost_per_million_tokens: Decimal | None = None,
    source: str = "operator",
    **details: Unpack[Details],
) -> EmbeddingModel:
    """A new draft of the provider with this slug, priced from now on if a price is given."""
    owner = Provider.objects.filter(slug=provider).first()
    if owner is None:
        raise InvalidRequest(f"There is no provider {provider!r}; add it first.", param="provider")
    # A space of its own unless told otherwise: the same name at two engines is not yet the same vectors.
    details.setdefault("space", f"{owner.slug}/{identifier}")
    details.setdefault("capabilities", [Capability.DIMENSIONS.value] if details.get("allowed_dimensions") else [])
    row = EmbeddingModel(provider=owner)
    _apply(row, {"name": name, "identifier": identifier, "dimensions": dimensions, **details})
    try:
        with transaction.atomic():
            row.save(force_insert=True)
    except IntegrityError as error:
        raise AlreadyExists(
            f"{owner.slug} has a model {row.name!r} already; change that one, or add this one under another name.",
            param="model_name",
        ) from error
    catalog_changed()
    if cost_per_million_tokens is not None:
        with covering():
            add_price(model_id=row.id, cost_per_million_tokens=cost_per_million_tokens, source=source)
    after = facts_of(row) | {"cost_per_million_tokens": cost_per_million_tokens}
    record("model.added", tenant_id=None, subject="model", subject_id=row.id, after=after)
    return row


@transaction.atomic
def change_model(*, model_id: UUID, **facts: Unpack[Facts]) -> EmbeddingModel:
    """Changes what is given. Of a row that was released, what vectors and callers rely on stays as it is."""
    row = locked_model(model_id)
    if row.state == State.REMOVED:
        raise Conflict("The model is removed; nothing of it changes any more.")
    if row.state not in lifecycle.UNRELEASED:
        for name in _FROZEN:
            was = row.space.slug if name == "space" else getattr(row, name)
            if name in facts and facts[name] != was:  # type: ignore[literal-required]
                raise Conflict(
                    f"The model is {row.state}: its {name} is relied on and cannot change; add a new row instead.",
                    param=_public(name),
                )
    was, before = facts_of(row), {name: getattr(row, name) for name in _VALIDATED}
    _apply(row, facts)
    changed = {name for name in _VALIDATED if getattr(row, name) != before[name]}
    if changed:
        row.validated_at = None
    if changed & {"identifier", "space", "dimensions", "capabilities"}:
        row.cuts = ""  # whether it may be cut was measured of something else
    try:
        with transaction.atomic():
            row.save()
    except IntegrityError as error:
        raise AlreadyExists(f"The provider has another model {row.name!r} already.", param="model_name") from error
    record("model.changed", tenant_id=None, subject="model", subject_id=row.id, before=was, after=facts_of(row))
    catalog_changed()
    return row


@transaction.atomic
def remove_model(*, model_id: UUID, actor: str = events.SYSTEM) -> None:
    """Erases a draft; moves a released row that no tenant configures along its edges to `removed`."""
    row = locked_model(model_id)
    record("model.removed", tenant_id=None, subject="model", subject_id=row.id, before=facts_of(row))
    try:
        with transaction.atomic():
            row.delete()
            if row.state not in lifecycle.UNRELEASED:
                raise _MustStay  # the ledger names it: it goes, but is not forgotten
    except ProtectedError as error:
        raise InUse("Tenants have this model configured; they must remove it first.") from error
    except _MustStay:
        with covering():
            _retire(model_id, row.state, actor)
    catalog_changed()


@transaction.atomic
def add_price(
    *,
    model_id: UUID,
    cost_per_million_tokens: Decimal,
    source: str,
    effective_from: datetime | None = None,
    confirm: bool = False,
    correction: bool = False,
    reason: str = "",
) -> Price:
    """A new price from a moment on (now, if none is given). Rows are never edited; the newest for a moment counts.

    One from the past on is a correction: what was charged since at the catalogue's price is adjusted after the commit.
    """
    row = locked_model(model_id)  # corrections build on each other: they come one after the other
    now = utc_now()
    if cost_per_million_tokens < 0:
        raise InvalidRequest("A price is 0 (free) or more.", param="cost_per_million_tokens")
    if cost_per_million_tokens > CONFIRM_ABOVE and not confirm:
        raise InvalidRequest(
            f"${cost_per_million_tokens:f} per million tokens is above ${CONFIRM_ABOVE}; if it is meant, "
            "POST it to the model's prices with `confirm: true`.",
            param="cost_per_million_tokens",
        )
    starts = effective_from or now
    is_past = starts < now - CLOCK_SKEW
    if is_past and not correction:
        raise InvalidRequest(
            "This moment is in the past, and what was charged since would be corrected; if that is meant, send "
            "`correction: true` with a `reason`.",
            param="effective_from",
        )
    if correction and not is_past:
        raise InvalidRequest(
            "A correction counts from a moment in the past; give that moment, or leave `correction` out.",
            param="effective_from" if effective_from else "correction",
        )
    if correction and not reason.strip():
        raise InvalidRequest("A correction needs a reason: tenants read it in their records.", param="reason")
    price = Price.objects.create(
        model=row,
        cost_per_million_tokens=cost_per_million_tokens,
        effective_from=starts if correction else max(starts, now),
        source=source,
        reason=reason,
    )
    record("price.added", tenant_id=None, subject="model", subject_id=model_id, after=facts_of(price))
    catalog_changed()
    if correction:
        transaction.on_commit(lambda: signals.price_corrected.send(Price, price_id=price.pk), robust=True)
    return price


def _retire(model_id: UUID, state: str, actor: str) -> None:
    if state == State.AVAILABLE:
        move_model(model_id=model_id, to=State.UNAVAILABLE, reason="being removed", actor=actor)
    if state != State.REMOVED:
        move_model(model_id=model_id, to=State.REMOVED, reason="removed by the operator", actor=actor, force=True)


class _MustStay(Exception):
    """Rolls back the erasing of a row that must stay."""


def _apply(row: EmbeddingModel, facts: Facts) -> None:
    for name, value in facts.items():
        if name == "space":
            row.space, _ = VectorSpace.objects.get_or_create(slug=value)
        else:
            setattr(row, name, list(value) if name in ("allowed_dimensions", "capabilities") else value)  # type: ignore[call-overload]
    _check_widths(row)
    row.full_clean(validate_unique=False, validate_constraints=False)


def _check_widths(row: EmbeddingModel) -> None:
    for capability in row.capabilities:
        if capability not in Capability.values:
            known = ", ".join(Capability.values)
            raise InvalidRequest(f"{capability!r} is no capability; there are {known}.", param="capabilities")
    takes, cuts = (each.value in row.capabilities for each in (Capability.DIMENSIONS, Capability.MATRYOSHKA))
    for width in row.allowed_dimensions:
        if isinstance(width, bool) or not isinstance(width, int) or not 1 <= width <= 65_536:
            raise InvalidRequest(f"{width!r} is no width; give whole numbers from 1.", param="allowed_dimensions")
        if width != row.dimensions and not takes and not (cuts and width < row.dimensions):
            raise InvalidRequest(
                f"{width} is not the model's own width: `capabilities` must say how it comes about, "
                "`dimensions` (the provider takes it) or `matryoshka` (Quiver may cut).",
                param="allowed_dimensions",
            )


def _public(name: str) -> str:
    return {"name": "model_name", "identifier": "model_identifier"}.get(name, name)
