"""What a price that counts from the past changes: from when, until when, from which price to which.

Read from the price rows alone, and of them from those that were there before it: so the answer is the same whenever it
is asked for, and corrections of corrections add up.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from django.db.models import F, QuerySet

from catalog.models import Price
from core.money import nano_from_usd

# A caller's "now" may be this old. What counts from longer ago than it was written is a correction.
CLOCK_SKEW = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class Correction:
    """Between `starts` and `ends` a model costs `right` nano-dollars per million tokens, and not `wrong`.

    `wrong` is 0 where the model was unpriced: it served, if at all, at no charge.
    """

    price_id: int
    model_id: UUID
    model: str
    provider: str
    starts: datetime
    ends: datetime
    wrong: int
    right: int
    posted_at: datetime
    reason: str


def find_correction(price_id: int) -> Correction | None:
    """None for a price that is no correction."""
    price = _corrections().filter(id=price_id).first()
    if price is None:
        return None
    earlier = Price.objects.filter(model_id=price.model_id, id__lt=price.id)
    replaced = earlier.filter(effective_from__lte=price.effective_from).order_by("-effective_from", "-id").first()
    following = earlier.filter(effective_from__gt=price.effective_from).order_by("effective_from").first()
    return Correction(
        price_id=price.id,
        model_id=price.model_id,
        model=price.model.name,
        provider=price.model.provider.slug,
        starts=price.effective_from,
        # From its own writing on it was charged at once.
        ends=min(following.effective_from, price.created_at) if following else price.created_at,
        wrong=nano_from_usd(replaced.cost_per_million_tokens) if replaced else 0,
        right=nano_from_usd(price.cost_per_million_tokens),
        posted_at=price.created_at,
        reason=price.reason,
    )


def corrections_since(moment: datetime) -> list[int]:
    """Ids of the corrections that were written since."""
    return list(_corrections().filter(created_at__gte=moment).order_by("id").values_list("id", flat=True))


def _corrections() -> QuerySet[Price]:
    found = Price.objects.select_related("model__provider")
    return found.filter(effective_from__lt=F("created_at") - CLOCK_SKEW)
