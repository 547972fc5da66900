"""What a tenant may set for itself: names, types, defaults. Stored as JSON in `Tenant.settings`, read through here."""

from __future__ import annotations

from typing import Any

import msgspec


class TenantSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    unpriced_allowed: bool = False  # models without a price may be used, at no charge


def parse(raw: dict[str, Any]) -> TenantSettings:
    """Raises `msgspec.ValidationError`, whose text names the field."""
    return msgspec.convert(raw, TenantSettings)


def dump(settings: TenantSettings) -> dict[str, Any]:
    built: dict[str, Any] = msgspec.to_builtins(settings)
    return built
