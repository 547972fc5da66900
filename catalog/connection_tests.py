"""Whether a provider knows us: with each of its credentials, in the background, its models are listed (never billed).

Owns the test's life: `begin` in the web, `run` in a worker, `find` and `find_of` for whoever waits; `start` and
`carry_out` are the same for who tests other credentials than the platform's. What it found is kept in Django's cache
for an hour: it describes a moment, and nothing is decided by it.
Failure: without a worker a test stays `waiting`, without Redis it is not found; the page says either.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from django.core.cache import cache
from django.db import transaction

from audit.services import record
from catalog.loading import endpoints_of
from catalog.models import Provider
from core.clock import utc_now
from core.errors import NotFound
from providers import registry
from providers.base import Endpoint, EndpointRefused, ListedModel
from providers.failures import ProviderFailure

KEPT = timedelta(hours=1)
TIMEOUT_S = 30.0
NAMES_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Finding:
    """What one credential got."""

    credential: str
    is_ok: bool
    detail: str
    names: tuple[str, ...] = ()  # of models, the first of them


@dataclass(frozen=True, slots=True)
class ConnectionTest:
    """`state` is waiting (for a worker), running or done."""

    id: UUID
    subject: str  # what is tested: a provider, or a tenant's own credential
    asked_at: datetime
    tenant_id: UUID | None = None  # whose credential it is; None: the platform's
    state: str = "waiting"
    findings: tuple[Finding, ...] = ()


@transaction.atomic
def begin(provider: Provider) -> ConnectionTest:
    """Asks a worker to test the provider once this is committed."""
    from catalog.tasks import test_connection  # it calls `run` here

    record("provider.tested", tenant_id=None, subject="provider", subject_id=provider.slug)
    return start(subject_of(provider), lambda test_id: test_connection.delay(test_id))


def subject_of(provider: Provider) -> str:
    """How a test says that it is this provider's."""
    return f"provider {provider.pk}"


def start(subject: str, ask_worker: Callable[[str], object], *, tenant_id: UUID | None = None) -> ConnectionTest:
    """A test that waits; `ask_worker` is called with its id after the commit."""
    test = ConnectionTest(uuid4(), subject, utc_now(), tenant_id)
    _keep(test)
    transaction.on_commit(lambda: ask_worker(str(test.id)))
    return test


def find(test_id: UUID, *, tenant_id: UUID | None = None) -> ConnectionTest | None:
    """The tenant's test, or the platform's, as it stands; None when it is forgotten, or never was."""
    said: dict[str, Any] | None = cache.get(_key(test_id, tenant_id))
    if said is None:
        return None
    return ConnectionTest(**said | {"findings": tuple(Finding(**each) for each in said["findings"])})


def find_of(provider: Provider, test_id: UUID) -> ConnectionTest:
    """How a test of this provider stands, or `NotFound`."""
    test = find(test_id)
    if test is None or test.subject != subject_of(provider):
        raise NotFound("There is no such test, or not any more.")
    return test


def run(test_id: UUID) -> None:
    """Does the test; one that is forgotten is left alone."""
    test = find(test_id)
    if test is None:
        return
    found = Provider.objects.prefetch_related("credentials").filter(id=test.subject.removeprefix("provider "))
    provider = found.first()
    if provider is None:
        return
    labels = {str(each.id): str(each) for each in provider.credentials.all()}
    endpoints = endpoints_of(provider)
    carry_out(test, [(labels.get(each.credential_id, "without a credential"), each) for each in endpoints])


def carry_out(test: ConnectionTest, endpoints: Sequence[tuple[str, Endpoint]]) -> None:
    """Tries each endpoint, which has a name for people."""
    test = replace(test, state="running")
    _keep(test)
    for label, endpoint in endpoints:
        found = _try(endpoint, label)
        test = replace(test, findings=(*test.findings, found))
        _keep(test)  # one after the other: the page shows how far it is
    if not endpoints:
        found = Finding("no credential", is_ok=False, detail="Add a credential first; there is none that can be used.")
        test = replace(test, findings=(found,))
    _keep(replace(test, state="done"))


def _try(endpoint: Endpoint, label: str) -> Finding:
    try:
        listed = asyncio.run(_list(endpoint))
    except EndpointRefused as error:
        return Finding(label, is_ok=False, detail=str(error))
    except ProviderFailure as failure:
        return Finding(label, is_ok=False, detail=f"{failure.kind.value}: {failure.detail}")
    except TimeoutError:
        return Finding(label, is_ok=False, detail=f"No answer within {TIMEOUT_S:.0f} seconds.")
    detail = f"It answers, and lists {len(listed)} model{'s' if len(listed) != 1 else ''}."
    return Finding(label, is_ok=True, detail=detail, names=tuple(each.identifier for each in listed[:NAMES_SHOWN]))


async def _list(endpoint: Endpoint) -> list[ListedModel]:
    provider = registry.build(endpoint)
    try:
        async with asyncio.timeout(TIMEOUT_S):
            return await provider.list_models()
    finally:
        await provider.close()


def _keep(test: ConnectionTest) -> None:
    cache.set(_key(test.id, test.tenant_id), asdict(test), timeout=KEPT.total_seconds())


def _key(test_id: UUID, tenant_id: UUID | None) -> str:
    return f"connection-test:{tenant_id or 'platform'}:{test_id}"
