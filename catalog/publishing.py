"""Tells every data plane that rows changed: a version in the transaction, a message after its commit.

Owns the catalogue's version and the publishing of all changes; which tenant's version rises is `tenants.services`.
Failure: Redis gone is logged and nothing else: workers poll the versions as well, once a second.
"""

from __future__ import annotations

import logging

from django.db import transaction
from django.db.models import F
from django_redis import get_redis_connection
from redis.exceptions import RedisError

from catalog import listing_cache
from catalog.models import CatalogVersion
from core.changes import CHANNEL, Change, encode

log = logging.getLogger(__name__)


def catalog_changed() -> None:
    """To be called in the transaction that changed what `catalog.loading` reads. The revoking of a platform key
    counts as well: it has no tenant whose version could rise."""
    row = CatalogVersion.objects.filter(id=1)
    if not row.update(version=F("version") + 1):
        # Made when the first one comes; two at once both end up on the same row.
        CatalogVersion.objects.bulk_create([CatalogVersion(id=1)], ignore_conflicts=True)
        row.update(version=F("version") + 1)
    transaction.on_commit(listing_cache.drop)
    announce(Change())


def hold_catalog() -> None:
    """Makes all who raise the catalogue's version wait until this transaction ends."""
    CatalogVersion.objects.select_for_update(no_key=True).filter(id=1).first()


def announce(change: Change) -> None:
    """Publishes once the transaction is committed; never if it is rolled back."""
    transaction.on_commit(lambda: _publish(change))


def _publish(change: Change) -> None:
    try:
        get_redis_connection("default").publish(CHANNEL, encode(change))
    except (RedisError, OSError) as error:
        log.warning("a change was not published, workers will find it by polling: %s", error)
