"""What happens to deprecated models when their time has come: removed, or kept while somebody still needs them.

Whether a tenant sent texts lately is not known here: whoever calls says so. What follows is decided in
`catalog.lifecycle`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from datetime import datetime
from uuid import UUID

from catalog import events
from catalog.lifecycle import LOOKS_AHEAD, POSTPONED_BY, Sunset, at_sunset
from catalog.models import EmbeddingModel, State
from catalog.moves import change_sunset, move_model
from core.errors import Conflict

log = logging.getLogger(__name__)
UsedLately = Callable[[Collection[UUID]], set[UUID]]


def look_at_sunsets(*, now: datetime, used_lately: UsedLately) -> dict[UUID, Sunset]:
    """Looks at all whose sunset is near or past. `used_lately` tells which of some models got texts within a day."""
    rows = list(EmbeddingModel.objects.filter(state=State.DEPRECATED, sunset_at__lte=now + LOOKS_AHEAD))
    used = used_lately([row.id for row in rows]) if rows else set()
    done = {}
    for row in rows:
        decided = at_sunset(sunset_at=row.sunset_at, now=now, was_used=row.id in used)
        try:
            _follow(row, decided, now)
        except Conflict as error:  # an operator was there first
            log.info("%s: %s", row, error)
            continue
        done[row.id] = decided
    return done


def _follow(row: EmbeddingModel, decided: Sunset, now: datetime) -> None:
    if decided is Sunset.REMOVE:
        move_model(model_id=row.id, to=State.REMOVED, reason="its sunset has come", actor=events.SYSTEM, now=now)
    elif decided is Sunset.POSTPONE and row.sunset_at is not None:
        reason = "tenants still sent texts within the last day"
        change_sunset(model_id=row.id, sunset_at=row.sunset_at + POSTPONED_BY, reason=reason)
