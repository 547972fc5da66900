"""The only writer of tenants' own credentials at providers.

Decides what may be said of one: a whole secret of the provider's kind, and where the vendor is reached with it, by the
name of a region or a resource and never by an address. Secrets are sealed here and never read back. Every function is
one transaction, raises the tenant's version in it and tells the data plane after its commit. What follows for a request
is `tenants.own_routes` and `embeddings.ways`.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from typing import Any, TypedDict, Unpack
from uuid import UUID

from django.core.cache import cache
from django.db import transaction

from audit.facts import facts as facts_of
from audit.services import record
from catalog import connection_tests
from catalog.connection_tests import ConnectionTest
from catalog.loading import endpoint_of, sealer
from catalog.models import Provider
from catalog.upstreams import SECRETS, check_secret, check_service_account, hint_of
from core.errors import Conflict, InvalidRequest, NotFound, RateLimitExceeded
from providers import registry
from providers.base import EndpointRefused, Kind
from tenants.loading import SEALED_AS, own_credential
from tenants.models import TenantCredential
from tenants.own_routes import own_endpoint
from tenants.selectors import find_own_credential, own_credentials_of
from tenants.services import tenant_changed

MOST_CREDENTIALS = 20  # of one tenant at one provider: each is a set of connections of its own
# What each kind takes beside the secret. Everything stands in a host's name or a path, so its letters are few.
PLACES: Mapping[Kind, frozenset[str]] = {
    Kind.AZURE: frozenset({"resource"}),
    Kind.BEDROCK: frozenset({"region"}),
    Kind.VERTEX: frozenset({"region", "project"}),
}
_BETWEEN_TESTS_S = 5  # each one waits for a vendor, in the threads that also deliver alerts
_SAY_WHERE = {
    "region": (re.compile(r"[a-z0-9]+(-[a-z0-9]+)*"), "a region as the vendor writes it, such as eu-west-1"),
    "project": (re.compile(r"[a-z][a-z0-9-]{4,61}[a-z0-9]"), "the id of a project, such as my-project-123"),
    "resource": (
        re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"),
        "the resource's name alone: `acme` of https://acme.openai.azure.com",
    ),
}


class CredentialFacts(TypedDict, total=False):
    """What is said of a credential beside its secret."""

    label: str
    use: str
    region: str
    project: str
    resource: str
    is_enabled: bool


@transaction.atomic
def add_credential(
    *, tenant_id: UUID, provider: str, secret: Mapping[str, str], **facts: Unpack[CredentialFacts]
) -> TenantCredential:
    """A new one, used from the next request on."""
    found = Provider.objects.filter(slug=provider).first()
    if found is None:
        raise NotFound(f"There is no provider {provider[:100]!r}.", param="provider")
    if not SECRETS[Kind(found.kind)]:
        raise InvalidRequest(f"Providers of kind {found.kind} take no credential.", param="provider")
    tenant_changed(tenant_id)
    if TenantCredential.objects.filter(tenant_id=tenant_id, provider=found).count() >= MOST_CREDENTIALS:
        raise Conflict(f"There are {MOST_CREDENTIALS} credentials for {provider} already; remove one first.")
    row = TenantCredential(id=uuid.uuid4(), tenant_id=tenant_id, provider=found)
    _apply(row, facts, secret)
    row.save(force_insert=True)
    record("tenant_credential.added", **_about(row), after=facts_of(row))
    return row


@transaction.atomic
def change_credential(
    *,
    tenant_id: UUID,
    credential_id: UUID,
    secret: Mapping[str, str] | None = None,
    **facts: Unpack[CredentialFacts],
) -> TenantCredential:
    """Changes what is given; a secret takes the place of the one before."""
    tenant_changed(tenant_id)
    row = held_own_credential(tenant_id, credential_id)
    before = facts_of(row)
    _apply(row, facts, secret)
    row.save()
    after = facts_of(row) | ({} if secret is None else {"secret": secret})  # told as hidden
    record("tenant_credential.changed", **_about(row), before=before, after=after)
    return row


@transaction.atomic
def remove_credential(*, tenant_id: UUID, credential_id: UUID) -> None:
    """Forgets one. No request that begins after the commit's news has come (within a second) is called with it."""
    tenant_changed(tenant_id)
    row = find_own_credential(tenant_id, credential_id)
    record("tenant_credential.removed", **_about(row), before=facts_of(row))
    row.delete()


def held_own_credential(tenant_id: UUID, credential_id: UUID) -> TenantCredential:
    """The row, or `NotFound`. Who seals secrets anew (`config.resealing`) waits until this transaction ends: else a
    save here could bring back what the old key sealed."""
    own_credentials_of(tenant_id).select_for_update(of=("self",)).filter(id=credential_id).first()
    return find_own_credential(tenant_id, credential_id)


def begin_test(*, tenant_id: UUID, credential_id: UUID) -> ConnectionTest:
    """Asks a worker to list the provider's models with it, once this is committed; nothing is billed."""
    from tenants.tasks import test_own_credential  # what it runs calls back here

    row = find_own_credential(tenant_id, credential_id)
    if not cache.add(f"own-credential-test:{tenant_id}:{row.id}", 1, timeout=_BETWEEN_TESTS_S):
        raise RateLimitExceeded("This credential was tested a moment ago.", retry_after=_BETWEEN_TESTS_S)
    record("tenant_credential.tested", **_about(row))
    return connection_tests.start(
        subject_of(row), lambda test_id: test_own_credential.delay(str(tenant_id), test_id), tenant_id=tenant_id
    )


def find_test(*, tenant_id: UUID, credential_id: UUID, test_id: UUID) -> ConnectionTest:
    """How it stands, or `NotFound`."""
    row, test = find_own_credential(tenant_id, credential_id), connection_tests.find(test_id, tenant_id=tenant_id)
    if test is None or test.subject != subject_of(row):
        raise NotFound("There is no such test, or not any more.")
    return test


def run_test(*, tenant_id: UUID, test_id: UUID) -> None:
    """Does the test, in a worker; one that is forgotten, or whose credential is gone, is left alone."""
    test = connection_tests.find(test_id, tenant_id=tenant_id)
    if test is None:
        return
    found = own_credentials_of(tenant_id)
    row = found.filter(id=test.subject.removeprefix("credential ")).first()
    if row is not None:
        own = own_credential(row)
        endpoint = own_endpoint(endpoint_of(row.provider), own)
        connection_tests.carry_out(test, [(str(row), endpoint)] if own.secret is not None else [])


def subject_of(row: TenantCredential) -> str:
    """How a test says that it is this credential's."""
    return f"credential {row.id}"


def _about(row: TenantCredential) -> dict[str, Any]:
    return {"tenant_id": row.tenant_id, "subject": "tenant_credential", "subject_id": row.id}


def _apply(row: TenantCredential, facts: CredentialFacts, secret: Mapping[str, str] | None) -> None:
    for name, value in facts.items():
        setattr(row, name, value)
    kind = Kind(row.provider.kind)
    for name, (rule, what) in _SAY_WHERE.items():
        value = getattr(row, name)
        if value and name not in PLACES.get(kind, ()):
            raise InvalidRequest(f"A credential for a provider of kind {kind.value} takes no {name}.", param=name)
        if value and not rule.fullmatch(value):
            raise InvalidRequest(f"`{name}` must be {what}.", param=name)
    if kind is Kind.AZURE and not row.resource:
        raise InvalidRequest("A key for Azure belongs to a resource; name it.", param="resource")
    if secret is not None:
        check_secret(kind, secret)
        check_service_account(secret, by_operator=False)
        row.hint = hint_of(secret)
        row.sealed = sealer().seal(secret, tenant=str(row.tenant_id), table=SEALED_AS, row=str(row.id))
    _check_whole(row)
    row.full_clean(exclude=["tenant", "provider"], validate_unique=False, validate_constraints=False)


def _check_whole(row: TenantCredential) -> None:
    """Whether an adapter could be built of it: a service account that is none, a region that is missing."""
    own = own_credential(row)
    if own.secret is None:
        return
    try:
        registry.build(own_endpoint(endpoint_of(row.provider), own))
    except EndpointRefused as error:
        raise InvalidRequest(f"This cannot be used: {error}.") from error
