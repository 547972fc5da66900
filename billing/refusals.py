"""The public error of a limit that refuses: made here and nowhere else. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from math import ceil
from types import MappingProxyType
from typing import Any

from billing.limit_terms import LimitTerms, Refused
from core.errors import BudgetExceeded, QuiverError, QuotaExceeded, RateLimitExceeded
from core.money import usd_text

_TYPES: Mapping[str, str] = MappingProxyType({"minute": "per_minute", "day": "daily", "month": "monthly"})
_OWNERS: Mapping[str, str] = MappingProxyType(
    {"tenant": "the tenant", "model": "this model", "agent": "this agent", "key": "this key"}
)


def refusal(refused: Refused, *, suggested_models: Sequence[str] = ()) -> QuiverError:
    """429 for a minute, 402 for a day or month: `budget_exceeded` for money, `quota_exceeded` for the rest."""
    terms = refused.terms
    extra: dict[str, Any] = {
        "quota_type": quota_type(terms.period),
        "scope": terms.scope,
        "limit": amount(terms, terms.amount),
        "used": amount(terms, refused.used),
        "reset_time": _rfc3339(refused.resets_at),
    }
    owner = _OWNERS[terms.scope]
    shown = f"{amount(terms, terms.amount)} {'USD' if terms.measure == 'usd' else terms.measure} per {terms.period}"
    if terms.is_rate:
        return _rate(refused, owner, shown, extra)
    extra["suggested_models"] = list(suggested_models)
    if terms.measure == "usd":
        return BudgetExceeded(f"The budget of {owner}, {shown}, does not allow this request.", extra=extra)
    return QuotaExceeded(f"The quota of {owner}, {shown}, does not allow this request.", extra=extra)


def quota_type(period: str) -> str:
    """A limit's period in the words of errors and metrics."""
    return _TYPES[period]


def amount(terms: LimitTerms, value: int) -> int | str:
    """As it is shown outside: money as a decimal string."""
    return usd_text(value) if terms.measure == "usd" else value


def _rate(refused: Refused, owner: str, shown: str, extra: dict[str, Any]) -> QuiverError:
    if refused.retry_after_s is None:
        return QuotaExceeded(
            f"This request is larger than the rate of {owner}, {shown}; waiting does not help.",
            extra={**extra, "quota_type": "request", "suggested_models": []},
        )
    wait = max(1, ceil(refused.retry_after_s))
    return RateLimitExceeded(
        f"The rate of {owner}, {shown}, is used up; wait {wait} s.",
        retry_after=wait,
        extra={**extra, "retry_after": wait},
    )


def _rfc3339(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
