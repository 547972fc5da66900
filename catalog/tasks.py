"""Background work of the catalogue."""

from __future__ import annotations

from uuid import UUID

from celery import shared_task

from catalog import connection_tests, discovery_runs, events, prices, rechecking, validating
from core.clock import utc_now


@shared_task
def test_connection(test_id: str) -> None:
    """Tests a provider for somebody who waits for it."""
    connection_tests.run(UUID(test_id))


@shared_task
def recheck_spaces() -> int:
    """Beat runs it daily."""
    return rechecking.recheck_spaces(now=utc_now())


@shared_task
def validate_model(model_id: str, actor: str) -> None:
    """For somebody who does not wait for it: the admin."""
    validating.validate_model(model_id=UUID(model_id), actor=actor)


@shared_task
def discover_all() -> int:
    """Beat runs it daily: one run for each provider that can be asked."""
    return len(discovery_runs.begin_runs(actor=events.SYSTEM))


@shared_task
def discover(run_id: str) -> str:
    """One run."""
    return discovery_runs.run(UUID(run_id))


@shared_task
def update_prices() -> int:
    """Beat runs it daily."""
    return len(prices.update()[0])
