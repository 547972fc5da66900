"""The secrets that webhooks are signed with, sealed in their channels' rows, and what the operator lets them reach."""

from __future__ import annotations

from functools import cache

from django.conf import settings

from alerts.models import AlertChannel
from alerts.webhooks import new_secret
from catalog.loading import PLATFORM, sealer
from core.egress import Allowed

SEALED_AS = "alert_channel"  # the table in what a secret is bound to


def give_secret(row: AlertChannel) -> str:
    """A new one, sealed into the row, which is not saved; in clear to whoever asked for it."""
    secret = new_secret()
    row.sealed = sealer().seal({"secret": secret}, tenant=owner_of(row), table=SEALED_AS, row=str(row.id))
    return secret


def secret_of(row: AlertChannel) -> str:
    """In clear. Raises `core.sealing.SealBroken`."""
    return sealer().open(row.sealed, tenant=owner_of(row), table=SEALED_AS, row=str(row.id))["secret"]


def owner_of(row: AlertChannel) -> str:
    """Whose its secret is, in what that is bound to."""
    return str(row.tenant_id) if row.tenant_id else PLATFORM


def allowed() -> Allowed:
    """What tenants' addresses may lead to though it is not public."""
    return _parsed(tuple(settings.QUIVER.egress_allowed))


@cache
def _parsed(entries: tuple[str, ...]) -> Allowed:
    return Allowed.of(entries)
