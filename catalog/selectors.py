"""Reads of the catalogue that have a name."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from django.db.models import Q, QuerySet

from catalog.models import EmbeddingModel, State


def list_models(
    *,
    provider: str | None = None,
    model_type: str | None = None,
    state: str | None = None,
    available_only: bool = True,
    q: str = "",
) -> QuerySet[EmbeddingModel]:
    """Catalogue rows with all that is shown of them, by name; a state asked for goes before `available_only`."""
    found = EmbeddingModel.objects.select_related("provider", "space").prefetch_related("prices")
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


def price_now(row: EmbeddingModel, now: datetime) -> Decimal | None:
    """USD per million tokens in force, from rows that are loaded already; None: unpriced."""
    return next((p.cost_per_million_tokens for p in row.prices.all() if p.effective_from <= now), None)
