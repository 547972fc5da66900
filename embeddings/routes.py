"""The name of a route: one model of one provider, with one credential, in one region. Pure.

The name is a key in Redis and what an operator's pattern is matched with (`openai|*|text-embedding-3-small|*`).
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from providers.base import OWN, Endpoint


class Route(NamedTuple):
    provider: str
    credential_id: str
    model: str  # the vendor's identifier
    region: str


def route_key(endpoint: Endpoint, identifier: str) -> str:
    """The name of the route that a call of this model through this endpoint takes."""
    return _named(endpoint.slug, endpoint.credential_id, identifier, endpoint.region)


@lru_cache(maxsize=4096)  # every call asks twice
def _named(*parts: str) -> str:
    return "|".join(map(_escaped, parts))


def pattern_of(provider: str, identifier: str | None) -> str:
    """Fits every route of a provider, or of one model of it, with whatever credential in whatever region."""
    model = "*" if identifier is None else _literal(identifier)
    return f"{_literal(provider)}|*|{model}|*"


def parts(key: str) -> Route:
    """The reverse of `route_key`."""
    found = [part.replace("%7C", "|").replace("%25", "%") for part in key.split("|")]
    return Route(*found) if len(found) == 4 else Route(key, "", "", "")


def is_own(credential_id: str) -> bool:
    """Whether the route is called with a tenant's own credential."""
    return credential_id.startswith(OWN)


def _literal(part: str) -> str:
    """Not read as a pattern."""
    return re.sub(r"([*?[])", r"[\1]", _escaped(part))


def _escaped(part: str) -> str:
    return part.replace("%", "%25").replace("|", "%7C")
