"""What the catalogue tells the apps above it, after commit. Received in their `receivers.py`.

Failure: a receiver that fails is logged by Django; what was committed is done, and the others are told.
"""

from __future__ import annotations

from django.dispatch import Signal

# model_id: UUID, was: str, now: str (states), cause: str (of unavailable), reason: str, actor: str
model_moved = Signal()

# Asked in the transaction of a removal, not told: model_ids: Collection[UUID], since: datetime. Answered with the set
# of those that tenants sent texts since then; a receiver that fails stops the removal.
use_asked = Signal()

# price_id: int, of a price that counts from a moment in the past (`catalog.corrections.find_correction`)
price_corrected = Signal()
# model_id: UUID, was: datetime | None, now: datetime | None, reason: str
sunset_moved = Signal()
# run_id: UUID, provider: str (slug), outcome: str, changes: Mapping[str, int] (by kind), detail: str
discovery_ended = Signal()
# model_id: UUID, told: Mapping[str, Decimal] (source, USD per million), outcome: str (disagree, absurd, wait)
prices_unsettled = Signal()
