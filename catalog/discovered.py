"""Writes what a list of models changed in the catalogue: in few queries, however many models there are.

Called inside the transaction of a run or of an approval by `catalog.discovery_runs`, its only caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.db.models import F

from catalog.discovery import Change, Diff, Kind
from catalog.lifecycle import Cause
from catalog.models import EmbeddingModel, ModelEvent, Price, Provider, State, VectorSpace
from catalog.moves import move_model
from catalog.publishing import catalog_changed
from catalog.services import change_model
from core.clock import utc_now
from core.errors import InvalidRequest

__all__ = ["Kind", "apply", "remember_listing"]

_EXACT = ("text-embedding-3-", "text-embedding-ada-")  # OpenAI's: counted in cl100k_base
_GRACE = timedelta(days=90)  # of a model that its vendor retires without a date
_BATCH = 2500


def remember_listing(diff: Diff) -> None:
    """Which rows were in the list, and how often in a row the others were not."""
    if diff.listed:
        EmbeddingModel.objects.filter(id__in=diff.listed).update(listed_at=utc_now(), missed_listings=0)
    if diff.missed:
        EmbeddingModel.objects.filter(id__in=diff.missed).update(missed_listings=F("missed_listings") + 1)


def apply(provider: Provider, changes: Sequence[Change], actor: str) -> None:
    """All of them; raises what a service refuses, so that the transaction is rolled back as a whole."""
    _register(provider, [each for each in changes if each.kind is Kind.NEW], actor)
    for each in changes:
        if each.kind is Kind.NEW or each.model_id is None:
            continue
        model_id = UUID(each.model_id)
        if each.kind is Kind.CHANGED:
            change_model(model_id=model_id, **each.now)  # type: ignore[arg-type]  # the fields that a list may tell
        elif each.kind is Kind.GONE:
            reason = f"its vendor does not list it any more ({each.now['missed']} times in a row)"
            move_model(model_id=model_id, to=State.UNAVAILABLE, reason=reason, actor=actor, cause=Cause.PROVIDER)
        else:
            reason = "its vendor retires it"
            move_model(model_id=model_id, to=State.DEPRECATED, reason=reason, actor=actor, sunset_at=_end_of(each))


def _register(provider: Provider, changes: Sequence[Change], actor: str) -> None:
    """Drafts, each in a space of its own, with the price that the sources agree on."""
    if not changes:
        return
    slugs = {each.identifier: f"{provider.slug}/{each.identifier}"[:200] for each in changes}
    VectorSpace.objects.bulk_create(
        [VectorSpace(slug=slug) for slug in slugs.values()], batch_size=_BATCH, ignore_conflicts=True
    )
    spaces = dict(VectorSpace.objects.filter(slug__in=slugs.values()).values_list("slug", "id"))
    taken = EmbeddingModel.objects.filter(provider=provider, name__in=[*slugs]).values_list("name", flat=True)
    if taken:
        raise InvalidRequest(f"{provider.slug} has a model {taken[0]!r} already.", param="accept")
    now = utc_now()
    rows = [_row(provider, each, spaces[slugs[each.identifier]], now) for each in changes]
    EmbeddingModel.objects.bulk_create(rows, batch_size=_BATCH)
    ModelEvent.objects.bulk_create(
        [ModelEvent(model=row, kind="discovered", now=State.DRAFT, actor=actor[:200]) for row in rows],
        batch_size=_BATCH,
    )
    Price.objects.bulk_create(
        [
            Price(model=row, cost_per_million_tokens=Decimal(usd), effective_from=now, source=source)
            for row, usd, source in (
                (row, str(each.now["usd_per_million"]), str(each.now["price_source"])[:100])
                for row, each in zip(rows, changes, strict=True)
                if each.now.get("usd_per_million") is not None
            )
        ],
        batch_size=_BATCH,
    )
    catalog_changed()


def _row(provider: Provider, change: Change, space_id: int, now: datetime) -> EmbeddingModel:
    width = change.now.get("dimensions")
    if not isinstance(width, int) or not 1 <= width <= 65_536:
        raise InvalidRequest(
            f"The width of {change.identifier} is not known; give it in `widths`.", param=f"widths.{change.key}"
        )
    facts: dict[str, Any] = {}
    if isinstance(change.now.get("max_tokens"), int):
        facts["max_tokens"] = change.now["max_tokens"]
    if change.identifier.startswith(_EXACT):
        facts["tokenizer"] = "cl100k_base"
    return EmbeddingModel(
        provider=provider,
        name=change.identifier,
        identifier=change.identifier,
        space_id=space_id,
        dimensions=width,
        listed_at=now,
        **facts,
    )


def _end_of(change: Change) -> datetime:
    told = change.now.get("ends_on")
    return datetime.fromisoformat(str(told)).replace(tzinfo=UTC) if told else utc_now() + _GRACE
