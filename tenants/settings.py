"""What a tenant may set for itself: names, types, defaults. Stored as JSON in `Tenant.settings`, read through here."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Literal

import msgspec

from core.money import nano_from_usd

MOST_CACHE_TTL_S = 30 * 24 * 3600
MOST_HIT_COST = 1000
LEAST_RETENTION_DAYS = 62  # any month with the one before it
MOST_RETENTION_DAYS = 3650
Fallback = Literal["auto", "space", "none"]
Percent = Annotated[int, msgspec.Meta(ge=1, le=100)]


class TenantSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    unpriced_allowed: bool = False  # models without a price may be used, at no charge
    fallback: Fallback = "auto"  # of requests that say nothing of it
    cache_enabled: bool = True  # texts are answered from the cache, and kept there
    cache_ttl_s: Annotated[int, msgspec.Meta(ge=1, le=MOST_CACHE_TTL_S)] = 3600
    cache_hit_cost_per_million_tokens: Decimal = Decimal(0)  # USD for what is answered from the cache
    # Percentages of a limit at which somebody is told, where the limit itself names none.
    thresholds: Annotated[tuple[Percent, ...], msgspec.Meta(max_length=20)] = (80, 90, 95, 100)

    # How long single requests are kept; None: as long as the platform keeps them.
    retention_days: Annotated[int, msgspec.Meta(ge=LEAST_RETENTION_DAYS, le=MOST_RETENTION_DAYS)] | None = None

    def __post_init__(self) -> None:
        cost = self.cache_hit_cost_per_million_tokens
        if not cost.is_finite() or not 0 <= cost <= MOST_HIT_COST:
            raise ValueError(f"Expected USD from 0 to {MOST_HIT_COST} - at `$.cache_hit_cost_per_million_tokens`")

    @property
    def hit_nano_per_million(self) -> int:
        return nano_from_usd(self.cache_hit_cost_per_million_tokens)


def parse(raw: dict[str, Any]) -> TenantSettings:
    """Raises `msgspec.ValidationError`, whose text names the field."""
    return msgspec.convert(raw, TenantSettings)


def dump(settings: TenantSettings) -> dict[str, Any]:
    built: dict[str, Any] = msgspec.to_builtins(settings)
    return built
