"""A limit as the data plane sees it, and what a request asks of it. Frozen values; pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import msgspec

MEASURES = ("requests", "tokens", "usd")
# Lua counts in doubles: up to here every integer is itself. 9,000,000 USD are as many nano-dollars.
MOST = 9_000_000_000_000_000


@dataclass(frozen=True, slots=True)
class LimitTerms:
    """One limit row; `amount` in tokens, requests or nano-dollars."""

    limit_id: UUID
    scope: str  # tenant, model, agent, key
    scope_id: str  # of the tenant model, agent, key (in a snapshot: of its line); empty for the tenant
    measure: str  # tokens, requests, usd
    period: str  # minute, day, month
    mode: str  # hard, soft, shadow
    amount: int

    @property
    def is_hard(self) -> bool:
        return self.mode == "hard"

    @property
    def is_rate(self) -> bool:
        return self.period == "minute"


class HoldAsk(msgspec.Struct, frozen=True, gc=False):
    """What one request may use at most, on the limits that apply to it."""

    tenant_id: UUID
    request_id: str
    created_ms: int  # decides the period: a request belongs to the day in which it began
    model_id: UUID  # of the catalogue; kept with the hold, to find it by
    limits: tuple[LimitTerms, ...]  # the same tuple object for the same limits costs least
    tokens: int
    nano: int


@dataclass(frozen=True, slots=True)
class Standing:
    """How a limit stands at a moment."""

    terms: LimitTerms
    used: int
    held: int
    resets_at: datetime

    @property
    def remaining(self) -> int:
        return max(0, self.terms.amount - self.used - self.held)


class Refused(Exception):
    """A hard limit does not allow the request. `billing.refusals` makes the public error of it."""

    def __init__(self, terms: LimitTerms, *, used: int, resets_at: datetime, retry_after_s: float | None) -> None:
        super().__init__(f"{terms.scope} {terms.measure} per {terms.period}")
        self.terms = terms
        self.used = used  # with what is held
        self.resets_at = resets_at
        self.retry_after_s = retry_after_s  # None: waiting does not help (it never fits, or only when the period ends)


def applying(
    limits: Iterable[LimitTerms], *, tenant_model_id: UUID, agent_id: str, lines: Collection[UUID]
) -> tuple[LimitTerms, ...]:
    """Those of a tenant's limits that apply to a request of this model, this agent and a key of these lines."""
    named: dict[str, Collection[str]] = {
        "tenant": {""},
        "model": {str(tenant_model_id)},
        "agent": {agent_id},
        "key": {str(each) for each in lines},
    }
    return tuple(each for each in limits if each.scope_id in named[each.scope])
