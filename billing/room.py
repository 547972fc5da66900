"""How much is left of what a request would count against, as the counters say now. For looking ahead in the control
plane: it holds nothing.

Looks at the hard limits per day and month; rates per minute are over before anybody has read the answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from billing.counters import count
from billing.limit_terms import LimitTerms


@dataclass(frozen=True, slots=True)
class Room:
    """What is left of each measure (tokens, requests, nano-dollars), the least of all limits; None: no limit."""

    tokens: int | None
    requests: int | None
    usd: int | None

    def takes(self, *, tokens: int, nano: int) -> bool:
        """Whether one request of this size fits."""
        wanted = ((self.tokens, tokens), (self.requests, 1), (self.usd, nano))
        return all(left is None or left >= amount for left, amount in wanted)


def room_for(tenant_id: UUID, limits: Iterable[LimitTerms], *, now: datetime) -> Room:
    """Of the limits that apply to a request (`billing.limit_terms.applying`)."""
    hard = [each for each in limits if each.is_hard and not each.is_rate]
    counted = count(tenant_id, hard, now) if hard else {}
    left: dict[str, int] = {}
    for terms in hard:
        remaining = max(0, terms.amount - sum(counted[terms.limit_id]))
        left[terms.measure] = min(left.get(terms.measure, remaining), remaining)
    return Room(left.get("tokens"), left.get("requests"), left.get("usd"))
