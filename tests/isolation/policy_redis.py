"""What stands in Redis, by the pattern of its key. Nothing else may: a key without a line fails the build.

A key of a tenant's names the tenant, or begins with a keyed digest of it (the cache), so that erasing finds it and
nobody is given another's. A key of the platform's holds nothing by which a tenant could be recognised, but for those
that say so: no tenant's request reads those.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import islice
from typing import Any
from uuid import UUID

import redis

from embeddings.cache_keys import PREFIX, KeyRing

_ID, _DIGEST = rb"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", rb"[0-9a-f]{64}"
_TENANT = rb"(?P<tenant>" + _ID + rb")"
CACHED = "qc:<digest of the tenant><digest of what was embedded>"
TENANTS = {
    "ql:{tenant}": rb"ql:\{" + _TENANT + rb"\}",
    "ql:{tenant}:holds": rb"ql:\{" + _TENANT + rb"\}:holds",
    "ql:{tenant}:refused:limit": rb"ql:\{" + _TENANT + rb"\}:refused:c:[0-9a-f]{32}:[dm]\d{8}",
    "quiver:sessions:{tenant}": rb"quiver:sessions:\{" + _TENANT + rb"\}",
    "quiver:news:{tenant}": rb"quiver:news:\{" + _TENANT + rb"\}",
    "django:1:connection-test:tenant:test": rb"django:1:connection-test:" + _TENANT + rb":" + _ID,
    "django:1:own-credential-test:tenant:credential": rb"django:1:own-credential-test:" + _TENANT + rb":" + _ID,
}
PLATFORMS = {
    "quiver:breakers": rb"quiver:breakers(:figures)?",
    "quiver:tries": rb"quiver:tries:[\w -]+:" + _DIGEST,
    "django:1:catalog:generation": rb"django:1:catalog:generation",
    "django:1:catalog:page": rb"django:1:catalog:page:[0-9a-f]{32}:" + _DIGEST,
    "django:1:connection-test:platform": rb"django:1:connection-test:platform:" + _ID,
    "django:1:outages-since": rb"django:1:outages-since",
}
# Read by operators and workers alone.
NAMING_TENANTS = {
    "django:1:dashboard:platform": rb"django:1:dashboard:platform:\d{4}-\d\d-\d\d",
    "celery": rb"celery|unacked\w*|_kombu\.binding[\w.-]+|[0-9a-f-]{36}\.reply\.celery\.pidbox",
}

_AT_ONCE = 500


class UnknownKey(Exception):
    """It has no line here, or names no tenant that there is."""


def owner_of(key: bytes, tenants: Collection[UUID], ring: KeyRing) -> tuple[str, UUID | None]:
    """The line of a key, and whose it is; None: the platform's."""
    if key.startswith(PREFIX):
        found = [tenant for tenant in tenants if key.startswith(ring.prefixes(tenant))]
        if len(found) == 1:
            return CACHED, found[0]
    for line, pattern in TENANTS.items():
        match = re.fullmatch(pattern, key)
        if match and UUID(match["tenant"].decode()) in tenants:
            return line, UUID(match["tenant"].decode())
    for line, pattern in {**PLATFORMS, **NAMING_TENANTS}.items():
        if re.fullmatch(pattern, key):
            return line, None
    raise UnknownKey(key)


def held_by_redis(url: str) -> Iterator[tuple[bytes, bytes]]:
    """Every key with its value, of whichever type."""
    client: Any = redis.from_url(url, socket_timeout=10)
    read: dict[bytes, Callable[[Any, bytes], Any]] = {
        b"string": lambda pipe, key: pipe.get(key),
        b"list": lambda pipe, key: pipe.lrange(key, 0, -1),
        b"set": lambda pipe, key: pipe.smembers(key),
        b"zset": lambda pipe, key: pipe.zrange(key, 0, -1, withscores=True),
        b"hash": lambda pipe, key: pipe.hgetall(key),
        b"stream": lambda pipe, key: pipe.xrange(key),
    }
    with client:
        scanned = client.scan_iter(count=_AT_ONCE)
        while keys := list(islice(scanned, _AT_ONCE)):
            types = client.pipeline(transaction=False)
            for key in keys:
                types.type(key)
            held = [(key, kind) for key, kind in zip(keys, types.execute(), strict=True) if kind != b"none"]
            values = client.pipeline(transaction=False)
            for key, kind in held:
                read[kind](values, key)
            for (key, _), value in zip(held, values.execute(), strict=True):
                if value is not None:  # it has expired meanwhile
                    yield key, value if isinstance(value, bytes) else repr(value).encode()


def lines_met(urls: Iterable[str], tenants: Collection[UUID], encryption_keys: str) -> set[str]:
    """Looks at every key of these servers; raises `UnknownKey`."""
    ring = KeyRing(encryption_keys)
    return {owner_of(key, tenants, ring)[0] for url in urls for key, _ in held_by_redis(url)}
