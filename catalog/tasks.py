"""Background work of the catalogue."""

from __future__ import annotations

from uuid import UUID

from celery import shared_task

from catalog import connection_tests


@shared_task
def test_connection(test_id: str) -> None:
    """Tests a provider for somebody who waits for it."""
    connection_tests.run(UUID(test_id))
