"""The reference vectors of spaces: kept, found, and the only writer of them. What equality means is `equality`."""

from __future__ import annotations

import numpy as np
from django.db import transaction

from catalog.equality import Measured
from catalog.lifecycle import UNRELEASED
from catalog.models import EmbeddingModel, SpaceReference, State, VectorSpace

_RELEASED = (State.AVAILABLE, State.UNAVAILABLE, State.DEPRECATED)


def sharers(row: EmbeddingModel) -> list[EmbeddingModel]:
    """The other released rows of its space, the oldest first."""
    found = EmbeddingModel.objects.filter(space_id=row.space_id, state__in=_RELEASED).exclude(id=row.id)
    return list(found.select_related("provider", "space").prefetch_related("prices", "provider__credentials"))


def find_reference(row: EmbeddingModel) -> Measured | None:
    """That of its space at its width, else the narrowest wider one."""
    found = (
        SpaceReference.objects.filter(space_id=row.space_id, dimensions__gte=row.dimensions)
        .order_by("dimensions")
        .first()
    )
    if found is None:
        return None
    vectors = np.frombuffer(bytes(found.vectors), dtype="<f4").reshape(len(found.probes), found.dimensions)
    return Measured(tuple(found.probes), vectors)


def is_first(row: EmbeddingModel) -> bool:
    """Whether nothing binds its space yet but, perhaps, what an earlier look at this unreleased row itself left."""
    of_others = SpaceReference.objects.filter(space_id=row.space_id).exclude(model=row)
    return row.state in UNRELEASED and not sharers(row) and not of_others.exists()


@transaction.atomic
def keep_reference(row: EmbeddingModel, measured: Measured) -> bool:
    """Keeps the vectors of a row as its space's. False: another row was first, and its vectors bind the space."""
    VectorSpace.objects.select_for_update().get(id=row.space_id)
    at = {"space_id": row.space_id, "dimensions": measured.width}
    if SpaceReference.objects.filter(**at).exclude(model=row).exists():
        return False
    if row.state in UNRELEASED:  # what it left elsewhere was about something else
        SpaceReference.objects.filter(model=row).exclude(**at).delete()
    SpaceReference.objects.update_or_create(
        space_id=row.space_id,
        dimensions=measured.width,
        defaults={
            "probes": list(measured.names),
            "vectors": measured.vectors.astype("<f4").tobytes(),
            "model": row,
        },
    )
    return True
