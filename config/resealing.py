"""Seals every secret anew under the first encryption key, while everything goes on.

Owns the list of the tables that hold sealed secrets, and how each row's secret is bound to it. A row is written only if
its secret is still the one that was read, so what somebody changes meanwhile stays, sealed by whoever changed it; and
the whole is looked at again until a look finds nothing that another key sealed. Nobody is told: what the rows say is
the same.

Failure: a secret that does not open is left as it is and named; it may be run again at any time, and goes on where it
was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.db import models

from alerts import signing
from alerts.models import AlertChannel
from catalog.loading import PLATFORM
from catalog.models import ProviderCredential
from core.sealing import SealBroken, Sealer
from tenants.loading import SEALED_AS
from tenants.models import TenantCredential

_ROWS_AT_A_TIME = 200


@dataclass(frozen=True, slots=True)
class Sealed:
    """A table with a column `sealed`; `tenant` names whose a row is, as its secret is bound to it."""

    model: type[models.Model]
    name: str
    tenant: Callable[[Any], str]


TABLES: Sequence[Sealed] = (
    Sealed(ProviderCredential, "provider_credential", lambda row: PLATFORM),
    Sealed(TenantCredential, SEALED_AS, lambda row: str(row.tenant_id)),
    Sealed(AlertChannel, signing.SEALED_AS, signing.owner_of),
)


@dataclass(slots=True)
class Resealed:
    """What became of the rows that another key had sealed."""

    done: int = 0
    broken: list[str] = field(default_factory=list)  # which, and why


def reseal(sealer: Sealer) -> Resealed:
    """Returns when every row that opens is sealed by the first key."""
    found = Resealed()
    for table in TABLES:
        broken: set[Any] = set()
        while rows := [row for row in _others(table, sealer) if row.pk not in broken]:
            for row in rows:
                try:
                    found.done += _reseal(table, row, sealer)
                except SealBroken as error:
                    broken.add(row.pk)
                    found.broken.append(f"{table.name} {row.pk}: {error}")
    return found


def waiting(sealer: Sealer) -> dict[str, int]:
    """How many secrets of each table another key sealed."""
    return {table.name: sum(1 for _ in _others(table, sealer)) for table in TABLES}


def _others(table: Sealed, sealer: Sealer) -> Iterator[Any]:
    rows = table.model._default_manager.exclude(sealed__startswith=f"{sealer.writer}:").exclude(sealed="")
    return rows.order_by("pk").iterator(chunk_size=_ROWS_AT_A_TIME)


def _reseal(table: Sealed, row: Any, sealer: Sealer) -> int:
    bound = {"tenant": table.tenant(row), "table": table.name, "row": str(row.pk)}
    sealed = sealer.seal(sealer.open(row.sealed, **bound), **bound)
    same = table.model._default_manager.filter(pk=row.pk, sealed=row.sealed)
    return same.update(sealed=sealed)
