"""Reads of the catalogue that have a name."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from uuid import UUID

from django.db.models import OuterRef, Q, QuerySet, Subquery

from catalog.models import EmbeddingModel, Price, State
from core.clock import utc_now
from core.errors import NotFound

SHOWN_TO_TENANTS = (State.AVAILABLE, State.UNAVAILABLE, State.DEPRECATED)


def list_models(
    *,
    provider: str | None = None,
    model_type: str | None = None,
    state: str | None = None,
    available_only: bool = True,
    q: str = "",
    is_operators: bool = True,
) -> QuerySet[EmbeddingModel]:
    """Catalogue rows with all that is shown of them, by name; a state asked for goes before `available_only`. One
    query, the price in force included. Who is no operator sees what was released and is not removed."""
    begun = Price.objects.filter(model=OuterRef("pk"), effective_from__lte=utc_now())
    found = EmbeddingModel.objects.select_related("provider", "space")
    found = found.annotate(price_in_force=Subquery(begun.values("cost_per_million_tokens")[:1]))
    if not is_operators:
        found = found.filter(state__in=SHOWN_TO_TENANTS)
    if provider is not None:
        found = found.filter(provider__slug=provider)
    if model_type is not None:
        found = found.filter(model_type=model_type)
    if state is not None:
        found = found.filter(state=state)
    elif available_only:
        found = found.filter(state=State.AVAILABLE)
    if q:
        found = found.filter(Q(name__icontains=q) | Q(identifier__icontains=q) | Q(space__slug__icontains=q))
    return found


def check_model(model_id: UUID) -> None:
    """Raises `NotFound` unless the catalogue has, or had, this model; reads what tenants may read."""
    if not EmbeddingModel.objects.filter(id=model_id).exists():
        raise NotFound(f"The catalogue has no model {model_id}.", param="model_id")


def deprecated_models() -> list[EmbeddingModel]:
    """All that are deprecated, with their successors and the prices of these."""
    found = EmbeddingModel.objects.filter(state=State.DEPRECATED).select_related("provider", "successor")
    return list(found.prefetch_related("successor__prices").order_by("sunset_at", "id"))


def price_now(row: EmbeddingModel, now: datetime) -> Decimal | None:
    """USD per million tokens in force, from what is loaded already; None: unpriced."""
    if hasattr(row, "price_in_force"):
        price: Decimal | None = row.price_in_force
        return price
    return next((p.cost_per_million_tokens for p in row.prices.all() if p.effective_from <= now), None)
