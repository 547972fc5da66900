"""Pages of the catalogue's list, kept in Redis for a moment and dropped with every change.

Owns the keys. A change makes a new generation, so that nothing kept before it is found again; what a slow reader keeps
afterwards belongs to the old one. Prices begin by the clock, therefore a page is kept for seconds only.
Failure: Redis gone is a page read from PostgreSQL.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any
from uuid import uuid4

from django.core.cache import cache

KEPT_S = 30
_GENERATION = "catalog:generation"


def page(asked: Mapping[str, object], read: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The page that was asked for: the kept one, or what `read` gives."""
    generation = cache.get(_GENERATION)
    if generation is None:
        cache.add(_GENERATION, uuid4().hex, timeout=None)
        generation = cache.get(_GENERATION)  # another one may have been first
    if generation is None:
        return read()
    words = json.dumps(asked, sort_keys=True, default=str)
    key = f"catalog:page:{generation}:{hashlib.sha256(words.encode()).hexdigest()}"
    kept: dict[str, Any] | None = cache.get(key)
    if kept is None:
        kept = read()
        cache.set(key, kept, timeout=KEPT_S)
    return kept


def drop() -> None:
    """Forgets all pages; after the commit of what changed them."""
    cache.set(_GENERATION, uuid4().hex, timeout=None)
