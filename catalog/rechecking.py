"""Whether models are still what was measured: looked at every day where several share a space, and at once where their
provider moved.

Owns which rows are looked at and what a day may cost; how one is measured, and what follows, is `catalog.validating`.
Failure: one model's failure is a failed check in its own row and never stops the others. What the cap left out comes
first the next day; so does what was measured once and could not be anew, because the broker or the provider was away.
A seeded row whose provider got its first secret while the broker was away waits for somebody to validate it.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from functools import partial

from django.db import transaction
from django.db.models import Count, Max, Q, Sum
from django.db.models.functions import Coalesce

from catalog import events
from catalog.lifecycle import UNRELEASED
from catalog.loading import endpoints_of
from catalog.models import EmbeddingModel, ModelCheck, Provider, State
from catalog.validating import recheck_model, validate_model
from core.clock import utc_now
from core.errors import Conflict, NotFound

log = logging.getLogger(__name__)
TOKENS_A_DAY = 200_000  # some four hundred models; a cent at usual prices
_IN_USE = Q(state__in=(State.AVAILABLE, State.DEPRECATED)) | Q(state=State.UNAVAILABLE, unavailable_cause="drift")
_RELEASED = Q(state__in=(State.AVAILABLE, State.UNAVAILABLE, State.DEPRECATED))  # out or not: it may come back
_WAS_MEASURED = Q(validated_at=None, checks__isnull=False)  # and has changed since, or did not pass
_BY_ITSELF = Q(kind=ModelCheck.Kind.RECHECK) | Q(actor=events.SYSTEM)  # what no person asked for


def measure_anew(provider: Provider, *, is_elsewhere: bool) -> None:
    """Has a worker validate, after the commit, the released models that nobody has measured where they are. To be
    called in the transaction of a change: `is_elsewhere`, of the address, after which nothing of them is known any
    more, and those that are out stay out; else of a secret, which seeded rows in use have waited for. Until it is
    done, in seconds, what is in use serves as before."""
    from catalog import tasks  # it imports this module

    rows = EmbeddingModel.objects.filter(provider=provider)
    if is_elsewhere:  # a measuring that is under way was of the old address: `updated_at` tells
        rows.filter(state__in=UNRELEASED).update(cuts="")
        rows.exclude(state=State.REMOVED).update(validated_at=None, updated_at=utc_now())
    if not provider.is_enabled or not endpoints_of(provider):
        return
    for model_id in rows.filter(_RELEASED if is_elsewhere else _IN_USE, validated_at=None).values_list("id", flat=True):
        ask = partial(tasks.validate_model.delay, str(model_id), events.SYSTEM)
        transaction.on_commit(ask, robust=True)


def recheck_spaces(*, now: datetime) -> int:
    """Rechecks every row in use that shares its space with another one, and validates what has changed since it was
    measured, those first that waited longest. Says how many."""
    shared = (
        EmbeddingModel.objects.filter(_RELEASED)
        .values("space")
        .annotate(rows=Count("id"))
        .filter(rows__gt=1)
        .values("space")
    )
    rows = (
        EmbeddingModel.objects.filter(
            _IN_USE & Q(space__in=shared) | _RELEASED & _WAS_MEASURED, provider__is_enabled=True
        )
        .annotate(looked=Max("checks__at"))
        .order_by(Coalesce("looked", datetime.min.replace(tzinfo=now.tzinfo)), "id")
    )
    done = 0
    for row in rows:
        if _spent(now) >= TOKENS_A_DAY:
            log.warning("the day's %s tokens for rechecks are spent; %s models wait", TOKENS_A_DAY, len(rows) - done)
            break
        # A recheck says too little to say that the row is what was released.
        look = validate_model if row.validated_at is None else recheck_model
        try:
            look(model_id=row.id)
        except (Conflict, NotFound) as error:  # somebody else moved, measured or erased it meanwhile
            log.warning("%s was not looked at: %s", row.name, error)
        done += 1
    return done


def _spent(now: datetime) -> int:
    day = ModelCheck.objects.filter(_BY_ITSELF, at__gt=now - timedelta(days=1))
    return int(day.aggregate(spent=Sum("tokens"))["spent"] or 0)
