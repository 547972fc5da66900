"""The reference vectors of spaces: kept, found, and the only writer of them. What equality means is `equality`."""

from __future__ import annotations

import numpy as np

from catalog.equality import Measured
from catalog.models import EmbeddingModel, SpaceReference, State

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


def keep_reference(row: EmbeddingModel, measured: Measured) -> None:
    """Takes the place of what was kept for this width."""
    SpaceReference.objects.update_or_create(
        space_id=row.space_id,
        dimensions=measured.width,
        defaults={
            "probes": list(measured.names),
            "vectors": measured.vectors.astype("<f4").tobytes(),
            "model": row,
        },
    )
