"""The daily look at spaces that several models share: are they still the same?

Owns which rows are looked at and what a day may cost; how one is measured, and what follows, is `catalog.validating`.
Failure: one model's failure is a failed check in its own row and never stops the others. What the cap left out comes
first the next day.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from django.db.models import Count, Max, Q, Sum
from django.db.models.functions import Coalesce

from catalog.models import EmbeddingModel, ModelCheck, State
from catalog.validating import recheck_model

log = logging.getLogger(__name__)
TOKENS_A_DAY = 200_000  # some four hundred models; a cent at usual prices
_IN_USE = Q(state__in=(State.AVAILABLE, State.DEPRECATED)) | Q(state=State.UNAVAILABLE, unavailable_cause="drift")


def recheck_spaces(*, now: datetime) -> int:
    """Rechecks every row that shares its space with another one, those first that waited longest. Says how many."""
    shared = (
        EmbeddingModel.objects.filter(state__in=(State.AVAILABLE, State.UNAVAILABLE, State.DEPRECATED))
        .values("space")
        .annotate(rows=Count("id"))
        .filter(rows__gt=1)
        .values("space")
    )
    rows = (
        EmbeddingModel.objects.filter(_IN_USE, space__in=shared, provider__is_enabled=True)
        .annotate(looked=Max("checks__at"))
        .order_by(Coalesce("looked", datetime.min.replace(tzinfo=now.tzinfo)), "id")
    )
    done = 0
    for model_id in [row.id for row in rows]:
        if _spent(now) >= TOKENS_A_DAY:
            log.warning("the day's %s tokens for rechecks are spent; %s models wait", TOKENS_A_DAY, len(rows) - done)
            break
        recheck_model(model_id=model_id)
        done += 1
    return done


def _spent(now: datetime) -> int:
    day = ModelCheck.objects.filter(kind=ModelCheck.Kind.RECHECK, at__gt=now - timedelta(days=1))
    return int(day.aggregate(spent=Sum("tokens"))["spent"] or 0)
