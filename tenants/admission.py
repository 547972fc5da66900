"""Whether a credential lets somebody in at all: what both planes check before scopes. Pure.

Owns which header holds the key, and the refusals for a key that is missing, mistyped, unknown, expired or used from
elsewhere. What the key may do is `tenants.scopes`; who it belongs to is `tenants.snapshots`.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from core.errors import InvalidApiKey, KeyNotPermitted
from tenants.addresses import parsed
from tenants.keys import digest, is_well_formed
from tenants.snapshots import KeyGrant

Lookup = Callable[[bytes], KeyGrant | None]


def key_text(*, authorization: str, x_api_key: str) -> str:
    """The key that a request carries, checked for typing errors without a look-up."""
    scheme, _, bearer = authorization.partition(" ")
    if authorization and scheme.lower() != "bearer":
        raise InvalidApiKey("`Authorization` must be `Bearer <key>`.")
    text = bearer.strip() or x_api_key.strip()
    if not text:
        raise InvalidApiKey("No API key was given; send `Authorization: Bearer <key>` or `X-API-Key: <key>`.")
    if x_api_key.strip() not in ("", text):
        raise InvalidApiKey("`Authorization` and `X-API-Key` hold different keys; send one of them.")
    if not is_well_formed(text):
        raise InvalidApiKey("This is no API key of Quiver's: mistyped or cut off.")
    return text


def admit(text: str, find: Lookup, *, now: datetime, address: str) -> KeyGrant:
    """The grant of a well-formed key, if it may be used now and from this address."""
    grant = find(digest(text))
    if grant is None:
        raise InvalidApiKey("This API key is unknown or was revoked.")
    check_use(grant, now=now, address=address)
    return grant


def check_use(grant: KeyGrant, *, now: datetime, address: str) -> None:
    """Refuses a known key that has expired, or that is kept to other addresses than this one."""
    if grant.expires_at is not None and grant.expires_at <= now:
        raise InvalidApiKey(f"This API key expired at {grant.expires_at:%Y-%m-%d %H:%M} UTC.")
    if grant.networks and not _is_within(address, grant):
        raise KeyNotPermitted("This API key may not be used from this address.")


def _is_within(address: str, grant: KeyGrant) -> bool:
    found = parsed(address)  # a socket without an address is nowhere
    return found is not None and any(found in network for network in grant.networks)
