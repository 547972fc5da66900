"""What a tenant may set for itself: names, types, defaults. Stored as JSON in `Tenant.settings`, read through here."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

Percent = Annotated[int, msgspec.Meta(ge=1, le=100)]


class TenantSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    unpriced_allowed: bool = False  # models without a price may be used, at no charge
    # Percentages of a limit at which somebody is told, where the limit itself names none.
    thresholds: Annotated[tuple[Percent, ...], msgspec.Meta(max_length=20)] = (80, 90, 95, 100)


def parse(raw: dict[str, Any]) -> TenantSettings:
    """Raises `msgspec.ValidationError`, whose text names the field."""
    return msgspec.convert(raw, TenantSettings)


def dump(settings: TenantSettings) -> dict[str, Any]:
    built: dict[str, Any] = msgspec.to_builtins(settings)
    return built
