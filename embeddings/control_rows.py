"""The control plane's rows for sockets: Django's ORM in a few threads, never on the loop and never for an embedding.

Owns that what waits for these threads is bounded. What is read or written is its callers' business.

Failure: PostgreSQL away → 503 `starting`, after the pool's patience; too many wait → 429.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar
from uuid import UUID

from django.db import InterfaceError, OperationalError, close_old_connections, transaction

from audit.actors import Actor, Kind, acting
from core.errors import RateLimitExceeded, Starting
from tenants.walls import act_for

log = logging.getLogger(__name__)
T = TypeVar("T")

_SERVER = Actor(Kind.TASK, "sockets", "sockets")  # what no agent asked for


class ControlRows:
    def __init__(self, *, threads: int = 2, most_waiting: int = 2000) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="socket-rows")
        self._most_waiting = most_waiting
        self._waiting = 0

    async def run(self, act: Callable[[], T], *, tenant_id: UUID | None = None, who: Actor | None = None) -> T:
        """What `act` returns or raises; what it changes is the doing of `who`. With a tenant it is one transaction, in
        which PostgreSQL shows this tenant's rows alone."""
        if self._waiting >= self._most_waiting:
            raise RateLimitExceeded("Too many agents register at once; try again.", retry_after=1)
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._threads, _fresh, act, tenant_id, who or _SERVER
            )
        finally:
            self._waiting -= 1

    def statistics(self) -> dict[str, int]:
        return {"waiting": self._waiting}

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def _fresh(act: Callable[[], T], tenant_id: UUID | None, who: Actor) -> T:
    """Django's per-request hygiene of connections, outside of a request."""
    close_old_connections()
    try:
        with acting(lambda: who):
            if tenant_id is None:
                return act()
            with transaction.atomic():
                act_for(tenant_id)
                return act()
    except (OperationalError, InterfaceError) as error:
        log.warning("sockets: PostgreSQL cannot be asked: %s", type(error).__name__)
        raise Starting("The database cannot be reached now; try again.", retry_after=1) from error
    finally:
        close_old_connections()
