"""What somebody may be told of, and how grave it is. Pure.

Owns the words: a kind that is not here cannot be raised. Who raises one decides how grave it is this time; the kind
says how grave it usually is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class Severity(StrEnum):
    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


_ORDER = tuple(Severity)


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of alert."""

    name: str
    severity: Severity
    means: str


QUOTA_WARNING = "quota_warning"
QUOTA_EXCEEDED = "quota_exceeded"
BUDGET_WARNING = "budget_warning"
BUDGET_EXCEEDED = "budget_exceeded"
WOULD_HAVE_REFUSED = "would_have_refused"
PROVIDER_EXCESS = "provider_excess"
MODEL_DEPRECATED = "model_deprecated"
MODEL_DRIFTED = "model_drifted"
MODEL_UNAVAILABLE = "model_unavailable"
SUNSET_MOVED = "sunset_moved"
DISCOVERY_FAILED = "discovery_failed"
DISCOVERY_WAITING = "discovery_waiting"
PRICES_UNSETTLED = "prices_unsettled"

KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        each.name: each
        for each in (
            Kind(QUOTA_WARNING, Severity.WARNING, "A limit of tokens or requests is used up to a threshold."),
            Kind(QUOTA_EXCEEDED, Severity.CRITICAL, "A limit of tokens or requests is used up."),
            Kind(BUDGET_WARNING, Severity.WARNING, "A budget is used up to a threshold."),
            Kind(BUDGET_EXCEEDED, Severity.CRITICAL, "A budget is used up."),
            Kind(WOULD_HAVE_REFUSED, Severity.INFO, "A shadow limit would have refused requests in this period."),
            Kind(PROVIDER_EXCESS, Severity.WARNING, "A provider counted more than was held; the platform pays."),
            Kind(MODEL_DEPRECATED, Severity.WARNING, "A model that you use ends."),
            Kind(MODEL_DRIFTED, Severity.CRITICAL, "A model's vectors are no longer those of its space."),
            Kind(MODEL_UNAVAILABLE, Severity.WARNING, "A provider's model was taken out until it answers again."),
            Kind(SUNSET_MOVED, Severity.WARNING, "A deprecated model is still used, so its end was postponed."),
            Kind(DISCOVERY_FAILED, Severity.WARNING, "A vendor's list of models could not be read."),
            Kind(DISCOVERY_WAITING, Severity.INFO, "What a vendor's list shows waits for approval."),
            Kind(PRICES_UNSETTLED, Severity.WARNING, "Sources of prices disagree, or a price changes by much."),
        )
    }
)


def choices() -> list[tuple[str, str]]:
    """For a column of kinds: as a function, so that a new kind is no change of the table."""
    return [(name, name.replace("_", " ")) for name in KINDS]


def reaches(severity: str, minimum: str) -> bool:
    """Whether something as grave as `severity` is told where only `minimum` and above is wanted."""
    return _ORDER.index(Severity(severity)) >= _ORDER.index(Severity(minimum))
