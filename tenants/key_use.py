"""When API keys were last used: noted in this process' memory by all doors, written now and then by
`embeddings.runtime` through `tenants.minting`. A request never waits for a write. Pure.

Failure: a process that is killed forgets what it noted since it wrote last.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

_seen: dict[UUID, datetime] = {}


def note(key_id: UUID, now: datetime) -> None:
    """A request was let in with this key."""
    _seen[key_id] = now


def take() -> dict[UUID, datetime]:
    """What was noted since the last time, and forgets it."""
    taken = {}
    while _seen:  # one by one: other threads go on noting
        key_id, at = _seen.popitem()
        taken[key_id] = at
    return taken


def put_back(taken: Mapping[UUID, datetime]) -> None:
    """What could not be written; what was noted meanwhile is newer."""
    for key_id, at in taken.items():
        _seen.setdefault(key_id, at)
