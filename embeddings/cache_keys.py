"""Under which name a vector is cached. Pure.

A name is a keyed digest: whoever has it, or all of Redis, learns nothing of the text, and no tenant can make or guess
another's. It covers everything that a vector depends on: space and its epoch (a raised epoch empties the cache), width,
input type, whether text or tokens were sent, and the exact item **as it is sent**, after any cutting of ours: so the
vector of a text that we cut is found for the text it is cut to, never for the whole one. Where a vendor may cut by
itself, `may_be_cut` gives names of their own. All names of a tenant begin alike, so that a tenant can be erased.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from hashlib import blake2b
from uuid import UUID

import msgspec

from core.sealing import parse_keys

PREFIX = b"qc:"
_DIGEST_BYTES = 20
_TENANT_BYTES = 6
_MOST_PREPARED = 4096  # prepared hashes; each is made again in some microseconds


def tenant_secret(master: bytes, tenant_id: UUID) -> bytes:
    """A tenant's own key, derived: there is no row to read, to leak or to lose."""
    return blake2b(tenant_id.bytes, key=master, person=b"quiver-cache", digest_size=32).digest()


def tenant_prefix(secret: bytes) -> bytes:
    """How all names of a tenant begin; who has not its secret cannot tell whose they are."""
    return PREFIX + blake2b(b"prefix", key=secret, digest_size=_TENANT_BYTES).digest()


class ItemKeys:
    """Names the items of one tenant in one space at one width for one input type."""

    def __init__(
        self,
        secret: bytes,
        *,
        space: str,
        epoch: int,
        dimensions: int,
        input_type: str | None = None,
        may_be_cut: bool = False,
    ) -> None:
        context = msgspec.json.encode([space, epoch, dimensions, input_type, may_be_cut])  # JSON ends where it ends
        self._prefix = tenant_prefix(secret)
        self._texts = blake2b(context + b"text:", key=secret, digest_size=_DIGEST_BYTES)
        self._tokens = blake2b(context + b"tokens:", key=secret, digest_size=_DIGEST_BYTES)

    def of(self, items: Sequence[str] | Sequence[Sequence[int]]) -> list[bytes]:
        """The name of each item, in order. Takes about a microsecond for a short text."""
        names, prefix, begin = [], self._prefix, self._texts.copy
        for item in items:
            if isinstance(item, str):
                digest = begin()
                digest.update(item.encode(errors="surrogatepass"))
            else:
                digest = self._tokens.copy()
                digest.update(array("I", item))
            names.append(prefix + digest.digest())
        return names


class KeyRing:
    """Keeps what is prepared for the tenants and spaces in use."""

    def __init__(self, encryption_keys: str) -> None:
        """`encryption_keys` as in `QUIVER_ENCRYPTION_KEYS`; the first one counts."""
        self._masters = list(parse_keys(encryption_keys).values())
        self._master = self._masters[0]
        self._prepared: dict[tuple[int, str, int, int, str | None, bool], ItemKeys] = {}

    def prefixes(self, tenant_id: UUID) -> tuple[bytes, ...]:
        """How all names of a tenant begin, also those made while another of the keys counted."""
        return tuple(tenant_prefix(tenant_secret(each, tenant_id)) for each in self._masters)

    def keys(
        self,
        tenant_id: UUID,
        *,
        space: str,
        epoch: int,
        dimensions: int,
        input_type: str | None = None,
        may_be_cut: bool = False,
    ) -> ItemKeys:
        place = (tenant_id.int, space, epoch, dimensions, input_type, may_be_cut)
        found = self._prepared.get(place)
        if found is None:
            while len(self._prepared) >= _MOST_PREPARED:
                del self._prepared[next(iter(self._prepared))]
            found = self._prepared[place] = ItemKeys(
                tenant_secret(self._master, tenant_id),
                space=space,
                epoch=epoch,
                dimensions=dimensions,
                input_type=input_type,
                may_be_cut=may_be_cut,
            )
        return found
