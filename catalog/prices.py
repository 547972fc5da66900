"""The catalogue's prices against what the sources say: compared, proposed, and taken where nothing speaks against it.

Owns which sources there are and whose figure counts first, and the proposals that wait for somebody. What follows from
figures is `catalog.pricing`; a price row is written by `catalog.services.add_price` alone.
Failure: a source that cannot be read is named and left out; nothing is taken from a table that is half there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from uuid import UUID

from django.conf import settings
from django.db import transaction

from audit.facts import facts as facts_of
from audit.services import covering, record
from catalog import signals
from catalog.discovery import Facts
from catalog.models import EmbeddingModel, PriceProposal, Provider, State
from catalog.price_sources import GenaiPrices, PriceSource, Quote, Table, read_all
from catalog.pricing import Finding, Outcome, decide, first_of_each
from catalog.selectors import price_now
from catalog.services import add_price
from core.clock import utc_now
from core.errors import Conflict, NotFound
from providers.base import Kind

REMEMBERED = timedelta(minutes=5)  # the tables, in one process: a run over all providers reads them once


@dataclass(frozen=True, slots=True)
class Checked:
    """One catalogue row and what the sources make of it."""

    row: EmbeddingModel
    finding: Finding


def sources() -> list[PriceSource]:
    """Those that the platform asks by itself, the most trusted first."""
    found: list[PriceSource] = [Table(), GenaiPrices()]
    if settings.QUIVER.price_table:
        found.insert(0, Table(settings.QUIVER.price_table, "operator's table"))
    return found


def check(asked: Sequence[PriceSource] | None = None) -> tuple[list[Checked], list[str]]:
    """All priced or sellable rows that a source knows, and what is wrong with sources that say nothing."""
    quotes, wrong = read_all(sources() if asked is None else asked)
    by_model = _by_model(quotes)
    rows = EmbeddingModel.objects.exclude(state=State.REMOVED).exclude(provider__kind=Kind.LOCAL)
    found = []
    for row in rows.select_related("provider").prefetch_related("prices").order_by("provider__slug", "name"):
        told = [
            (quote.source, quote.usd_per_million)
            for vendor in _vendors(row.provider)
            for quote in by_model.get((vendor, row.identifier), ())
            if quote.usd_per_million is not None
        ]
        finding = decide(price_now(row, utc_now()), first_of_each(told))
        if finding is not None:
            found.append(Checked(row, finding))
    return found, wrong


def update(asked: Sequence[PriceSource] | None = None) -> tuple[list[Checked], list[str]]:
    """Takes what may be taken, proposes what must wait, tells what is unsettled; says all that is not the same."""
    found, wrong = check(asked)
    unsettled = [each for each in found if each.finding.outcome is not Outcome.SAME]
    for each in unsettled:
        _settle(each)
    return unsettled, wrong


def facts_for(provider: Provider) -> dict[str, Facts]:
    """What the sources say of this vendor's models, by identifier; a price only where they agree."""
    vendors = _vendors(provider)
    found: dict[str, list[Quote]] = {}
    for quote in _remembered(utc_now().timestamp() // REMEMBERED.total_seconds()):
        if quote.vendor in vendors:
            found.setdefault(quote.identifier, []).append(quote)
    return {identifier: _facts(quotes) for identifier, quotes in found.items()}


def decide_proposal(*, proposal_id: UUID, is_approved: bool, actor: str) -> PriceProposal:
    """Takes a proposed price from now on, or refuses it."""
    with transaction.atomic():
        row = PriceProposal.objects.select_for_update().filter(id=proposal_id).first()
        if row is None:
            raise NotFound(f"There is no proposed price {proposal_id}.")
        if row.state != PriceProposal.State.PENDING:
            raise Conflict(f"This proposal was {row.state} already.")
        before = facts_of(row)
        row.state = PriceProposal.State.APPROVED if is_approved else PriceProposal.State.REFUSED
        row.actor, row.decided_at = actor[:200], utc_now()
        row.save()
        if is_approved:
            with covering():
                add_price(
                    model_id=row.model_id,
                    cost_per_million_tokens=row.cost_per_million_tokens,
                    source=row.source,
                    confirm=True,
                    reason=f"approved by {actor}"[:200],
                )
        after = facts_of(row)
        record("price.decided", tenant_id=None, subject="model", subject_id=row.model_id, before=before, after=after)
    return row


@transaction.atomic
def _settle(found: Checked) -> None:
    row, finding = found.row, found.finding
    if finding.outcome is Outcome.TAKE and finding.usd is not None:
        add_price(
            model_id=row.id, cost_per_million_tokens=finding.usd, source=finding.sources[:100], reason="price check"
        )
        return
    if finding.outcome is Outcome.WAIT and finding.usd is not None:
        waiting = {"model": row, "cost_per_million_tokens": finding.usd}
        # Asked once: neither while it waits, nor again after it was refused.
        if PriceProposal.objects.filter(**waiting).exclude(state=PriceProposal.State.APPROVED).exists():
            return
        superseded = PriceProposal.objects.filter(model=row, state=PriceProposal.State.PENDING)
        superseded.update(state=PriceProposal.State.REFUSED, actor="superseded", decided_at=utc_now())
        PriceProposal.objects.create(**waiting, was=finding.was, source=finding.sources[:100])
    transaction.on_commit(
        lambda: signals.prices_unsettled.send_robust(
            EmbeddingModel, model_id=row.id, told=dict(finding.told), outcome=finding.outcome.value
        )
    )


@lru_cache(maxsize=1)
def _remembered(period: float) -> tuple[Quote, ...]:
    return tuple(read_all(sources())[0])


def _by_model(quotes: Sequence[Quote]) -> dict[tuple[str, str], list[Quote]]:
    found: dict[tuple[str, str], list[Quote]] = {}
    for quote in quotes:
        found.setdefault((quote.vendor, quote.identifier), []).append(quote)
    return found


def _vendors(provider: Provider) -> tuple[str, ...]:
    """The names under which sources may know this provider: its slug first, then its kind, where that is a vendor."""
    kind = () if provider.kind in (Kind.OPENAI_COMPATIBLE, Kind.LOCAL) else (str(provider.kind),)
    return tuple(dict.fromkeys((provider.slug, *kind)))


def _facts(quotes: Sequence[Quote]) -> Facts:
    told = first_of_each([(q.source, q.usd_per_million) for q in quotes if q.usd_per_million is not None])
    finding = decide(None, told)
    is_settled = finding is not None and finding.outcome is Outcome.TAKE
    return Facts(
        dimensions=next((q.dimensions for q in quotes if q.dimensions), None),
        max_tokens=next((q.max_tokens for q in quotes if q.max_tokens), None),
        ends_on=next((q.ends_on for q in quotes if q.ends_on), None),
        usd_per_million=finding.usd if finding and is_settled else None,
        source=finding.sources if finding and is_settled else "",
    )
