"""Looks at providers' lists of models: the only writer of runs, and of what is registered because of them.

A run is one look at one provider. Owns its life: queued by beat or a person, claimed by a worker under an advisory
lock (a second one at the same time is skipped), ended in one transaction that holds the run's difference and all that
it changed. What a list means is `catalog.discovery`.
Failure: a vendor that is down, refuses us or sends garbage fails its own run and changes nothing. A worker that dies
leaves the run `running` and no row of it; the next look at that provider says so.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any
from uuid import UUID

from django.core.exceptions import ValidationError
from django.db import IntegrityError, connection, transaction

from audit.services import covering, record
from catalog import discovered, signals
from catalog.discovery import Change, Facts, Garbage, Known, checked, compare
from catalog.loading import endpoints_of
from catalog.models import DiscoveryRule, DiscoveryRun, EmbeddingModel, Provider, State
from catalog.prices import facts_for
from core import metrics
from core.clock import utc_now
from core.errors import Conflict, InvalidRequest, NotFound, QuiverError
from providers import registry
from providers.base import Endpoint, EndpointRefused, ListedModel
from providers.failures import ProviderFailure

log = logging.getLogger(__name__)
LISTING_TIMEOUT_S = 60.0
_LOCK = 0x11575  # first half of the advisory lock's number; the second is the provider's id
_OPEN = (DiscoveryRun.State.QUEUED, DiscoveryRun.State.RUNNING)


class NothingFound(Exception):
    """The provider's list could not be had; the message says why."""


def begin_runs(*, slug: str | None = None, actor: str) -> list[DiscoveryRun]:
    """Queues a run for one provider, or for all that are switched on and can be asked."""
    from catalog.tasks import discover  # it calls `run` here

    found = Provider.objects.prefetch_related("credentials").order_by("slug")
    if slug is not None:
        providers = list(found.filter(slug=slug))
        if not providers:
            raise NotFound(f"There is no provider {slug!r}.")
    else:
        wanted = found.filter(is_enabled=True).exclude(discovery=DiscoveryRule.OFF)
        providers = [each for each in wanted if endpoints_of(each)]
    with transaction.atomic():
        runs = [DiscoveryRun.objects.create(provider=each, actor=actor[:200]) for each in providers]
        begun = {str(each.id): each.provider.slug for each in runs}
        record("discovery.begun", tenant_id=None, subject="provider", subject_id=slug or "", after={"runs": begun})
        for each in runs:
            transaction.on_commit(partial(discover.delay, str(each.id)))
    return runs


def run(run_id: UUID) -> str:
    """Does a queued run; one that is ended already is left alone. Says how it ended."""
    row = find_run(run_id)
    if row.state not in _OPEN:
        return row.state
    with _alone(row.provider_id) as is_alone:
        if not is_alone:
            return _end(row, DiscoveryRun.State.SKIPPED, "Another look at this provider was under way.")
        # Whoever held the lock before is gone: what it left running died with it.
        dead = DiscoveryRun.objects.filter(provider=row.provider, state=DiscoveryRun.State.RUNNING).exclude(id=row.id)
        dead.update(state=DiscoveryRun.State.FAILED, detail="The worker went away.", ended_at=utc_now())
        DiscoveryRun.objects.filter(id=row.id).update(state=DiscoveryRun.State.RUNNING)
        try:
            listed = _list(row.provider)
            facts = facts_for(row.provider)
            outcome = _apply_list(row, listed, facts)
        except (NothingFound, Garbage, QuiverError, ValidationError, IntegrityError) as error:
            row.listed, row.changes = None, []  # all was rolled back
            outcome = _end(row, DiscoveryRun.State.FAILED, str(error))
    return outcome


def accept(*, run_id: UUID, keys: Sequence[str], widths: dict[str, int] | None = None, actor: str) -> DiscoveryRun:
    """Applies these of a waiting run's changes, all of them or none."""
    with transaction.atomic():
        row = _locked_waiting(run_id)
        pending = {each["key"]: each for each in row.changes if each["state"] == "pending"}
        for key in [*keys, *(widths or {})]:
            if key not in pending:
                raise InvalidRequest(f"{key!r} is not waiting in this run.", param="accept")
        chosen = [pending[key] for key in keys]
        changes = [as_change(each, (widths or {}).get(each["key"])) for each in chosen]
        with covering():
            discovered.apply(row.provider, changes, actor)
        _record("accepted", row, chosen)
        for each in chosen:
            each["state"] = "applied"
        _settle(row)
    return row


def ignore(*, run_id: UUID, keys: Sequence[str] | None = None) -> DiscoveryRun:
    """Refuses these changes, or all that wait. A new model that is refused is not offered again."""
    with transaction.atomic():
        row = _locked_waiting(run_id)
        pending = {each["key"]: each for each in row.changes if each["state"] == "pending"}
        for key in keys if keys is not None else list(pending):
            if key not in pending:
                raise InvalidRequest(f"{key!r} is not waiting in this run.", param="ignore")
            pending[key]["state"] = "ignored"
        _record("ignored", row, [each for each in pending.values() if each["state"] == "ignored"])
        refused = [each["identifier"] for each in row.changes if each["state"] == "ignored" and each["change"] == "new"]
        provider = Provider.objects.select_for_update().get(id=row.provider_id)
        provider.ignored_models = sorted({*provider.ignored_models, *refused})
        provider.save(update_fields=["ignored_models"])
        _settle(row)
    return row


def find_run(run_id: UUID) -> DiscoveryRun:
    """The row with its provider, or `NotFound`."""
    found = DiscoveryRun.objects.select_related("provider").prefetch_related("provider__credentials")
    row = found.filter(id=run_id).first()
    if row is None:
        raise NotFound(f"There is no discovery run {run_id}.")
    return row


def as_row(change: Change, state: str) -> dict[str, Any]:
    """A change as a run keeps it; `state` is pending, applied or ignored."""
    return {
        "key": change.key,
        "change": change.kind.value,
        "identifier": change.identifier,
        "model_id": change.model_id,
        "was": dict(change.was),
        "now": dict(change.now),
        "waits": change.waits,
        "state": state,
    }


def as_change(row: dict[str, Any], width: int | None = None) -> Change:
    """The same back, with the width that somebody gave."""
    now = row["now"] if width is None else row["now"] | {"dimensions": width}
    return Change(discovered.Kind(row["change"]), row["identifier"], row["model_id"], row["was"], now)


def _list(provider: Provider) -> list[ListedModel]:
    endpoints = endpoints_of(provider)
    if not endpoints:
        raise NothingFound("No credential was added yet that can be used.")
    try:
        return asyncio.run(_listing(endpoints[0]))
    except EndpointRefused as error:
        raise NothingFound(str(error)) from error
    except ProviderFailure as failure:
        raise NothingFound(f"{failure.kind.value}: {failure.detail}") from failure
    except TimeoutError as error:
        raise NothingFound(f"No list within {LISTING_TIMEOUT_S:.0f} seconds.") from error


async def _listing(endpoint: Endpoint) -> list[ListedModel]:
    provider = registry.build(endpoint)
    try:
        async with asyncio.timeout(LISTING_TIMEOUT_S):
            return await provider.list_models()
    finally:
        await provider.close()


@transaction.atomic
def _apply_list(row: DiscoveryRun, listed: Sequence[ListedModel], facts: dict[str, Facts]) -> str:
    """Everything that a list changes, or nothing."""
    provider = Provider.objects.select_for_update().get(id=row.provider_id)
    rows = list(EmbeddingModel.objects.filter(provider=provider).exclude(state=State.REMOVED))
    known = [
        Known(
            str(each.id),
            each.identifier,
            each.name,
            each.state,
            each.dimensions,
            each.max_tokens,
            each.missed_listings,
            each.listed_at is not None,
        )
        for each in rows
    ]
    found = checked(listed, is_expected=any(each.was_listed for each in known))
    diff = compare(found, known, facts, ignored=provider.ignored_models, today=utc_now().date())
    is_automatic = provider.discovery == DiscoveryRule.AUTOMATIC
    applied = [each for each in diff.changes if is_automatic and not each.waits]
    discovered.remember_listing(diff)
    with covering():
        discovered.apply(provider, applied, row.actor)
    if applied:
        _record("accepted", row, [as_row(each, "applied") for each in applied])
    done = {each.key for each in applied}
    row.listed = len(listed)
    row.changes = [as_row(each, "applied" if each.key in done else "pending") for each in diff.changes]
    state = DiscoveryRun.State.UNCHANGED
    if diff.changes:
        state = DiscoveryRun.State.APPLIED if len(done) == len(diff.changes) else DiscoveryRun.State.WAITING
    return _end(row, state)


def _record(what: str, row: DiscoveryRun, changes: Sequence[dict[str, Any]]) -> None:
    """Not each change by itself: a first look finds hundreds of models."""
    keys = [each["key"] for each in changes]
    record(f"discovery.{what}", tenant_id=None, subject="discovery_run", subject_id=row.id, after={"changes": keys})


def _end(row: DiscoveryRun, state: str, detail: str = "") -> str:
    row.state, row.detail, row.ended_at = state, detail[:500], utc_now()
    row.save(update_fields=["state", "detail", "ended_at", "listed", "changes"])
    counts = Counter(each["change"] for each in row.changes)
    slug = row.provider.slug

    def tell() -> None:
        metrics.discovery_runs.labels(slug, state).inc()
        if state not in (DiscoveryRun.State.FAILED, DiscoveryRun.State.SKIPPED):
            for kind in discovered.Kind:
                metrics.discovered_models.labels(slug, kind.value).set(counts[kind.value])
        signals.discovery_ended.send_robust(
            DiscoveryRun, run_id=row.id, provider=slug, outcome=str(state), changes=dict(counts), detail=detail
        )

    transaction.on_commit(tell)
    log.log(logging.WARNING if state == DiscoveryRun.State.FAILED else logging.INFO, "%s: %s %s", slug, state, detail)
    return str(state)


def _settle(row: DiscoveryRun) -> None:
    """The run's state after some of its changes were decided."""
    states = {each["state"] for each in row.changes}
    if "pending" not in states:
        row.state = DiscoveryRun.State.APPLIED if "applied" in states else DiscoveryRun.State.IGNORED
    row.save(update_fields=["state", "changes"])


def _locked_waiting(run_id: UUID) -> DiscoveryRun:
    row = DiscoveryRun.objects.select_for_update(of=("self",)).select_related("provider").filter(id=run_id).first()
    if row is None:
        raise NotFound(f"There is no discovery run {run_id}.")
    if row.state != DiscoveryRun.State.WAITING:
        raise Conflict(f"Nothing of this run waits; it is {row.get_state_display()}.")
    newer = DiscoveryRun.objects.filter(
        provider=row.provider, created_at__gt=row.created_at, ended_at__isnull=False, listed__isnull=False
    )
    if newer.exists():
        raise Conflict("There is a newer look at this provider; decide on that one.")
    return row


@contextmanager
def _alone(provider_id: int) -> Iterator[bool]:
    """Whether nobody else looks at this provider until the end of the block. PostgreSQL frees it if we die."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s, %s)", [_LOCK, provider_id])
        is_alone = bool(cursor.fetchone()[0])
    try:
        yield is_alone
    finally:
        if is_alone:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_unlock(%s, %s)", [_LOCK, provider_id])
