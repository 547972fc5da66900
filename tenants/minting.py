"""The only writer of API keys: minting, rotating, revoking.

Decides whose keys end with whose: revoking a key ends those that it minted for its own tenant as well (a stolen key
leaves nothing behind); rotating hands them over to its successor. What an operator's key minted for a tenant belongs
to the tenant and stays. Every function is one transaction and tells the data plane after its commit.
"""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from django.db import transaction

from audit.facts import facts as facts_of
from audit.services import covering, record
from catalog.models import EmbeddingModel
from catalog.publishing import catalog_changed, hold_catalog
from core.clock import utc_now
from core.errors import Conflict, InvalidApiKey, InvalidRequest, KeyNotPermitted
from tenants.keys import mint
from tenants.loading import grant_of
from tenants.models import ApiKey, User
from tenants.rights import Rights, bounded, rights_of
from tenants.scopes import TENANT_SCOPES, Scope
from tenants.selectors import find_key_row, keys_of
from tenants.services import hold_tenant, tenant_changed
from tenants.snapshots import KeyGrant

MAX_OVERLAP = timedelta(days=30)


@transaction.atomic
def mint_key(
    *,
    tenant_id: UUID | None,
    name: str,
    rights: Rights,
    creator: KeyGrant | None = None,
    created_by: User | None = None,
) -> tuple[ApiKey, str]:
    """A new key and its text, which cannot be read again. Without a creator (a person, the seed) nothing bounds it."""
    if not rights.scopes:
        raise InvalidRequest("A key needs at least one scope.", param="scopes")
    if tenant_id is not None and Scope.OPERATOR in rights.scopes:
        offered = ", ".join(sorted(TENANT_SCOPES))
        raise InvalidRequest(f"A tenant's key cannot be an operator's; there are {offered}.", param="scopes")
    if rights.expires_at is not None and rights.expires_at <= utc_now():
        raise InvalidRequest("`expires_at` has passed already.", param="expires_at")
    _check_models(rights.models)
    _changed(tenant_id)
    if creator is not None:
        if not ApiKey.objects.filter(id=creator.key_id, revoked_at=None).exists():
            raise InvalidApiKey("This API key was revoked a moment ago.")
        rights = bounded(rights, rights_of(creator))
    minter = creator.key_id if creator else None
    row, text = _insert(tenant_id, name, rights, created_by=created_by, created_with=minter)
    record("api_key.minted", tenant_id=tenant_id, subject="api_key", subject_id=row.id, after=facts_of(row))
    return row, text


@transaction.atomic
def rotate_key(
    *, key_id: UUID, tenant_id: UUID | None, overlap: timedelta, creator: KeyGrant | None
) -> tuple[ApiKey, str]:
    """A successor with the same rights. The old key lives on for the overlap; with none it ends at once. Without a
    creator (a person) nothing bounds it."""
    if not timedelta(0) <= overlap <= MAX_OVERLAP:
        raise InvalidRequest(
            f"`overlap_seconds` is from 0 to {MAX_OVERLAP // timedelta(seconds=1)}.", param="overlap_seconds"
        )
    old = _held(key_id, tenant_id)
    now = utc_now()
    if old.revoked_at is not None or (old.expires_at is not None and old.expires_at <= now):
        raise Conflict("This key has ended already; mint a new one.")
    rights = rights_of(grant_of(old))
    if creator is not None and bounded(rights, rights_of(creator)) != rights:
        raise KeyNotPermitted("This key has rights that yours lacks, so yours cannot rotate it.")
    new, text = _insert(old.tenant_id, old.name, rights, created_by=old.created_by, created_with=old.created_with_id)
    ApiKey.objects.filter(created_with=old).update(created_with=new)
    before, ends = facts_of(old), now + overlap
    old.expires_at = ends if old.expires_at is None else min(ends, old.expires_at)
    old.revoked_at = now if overlap == timedelta(0) else None
    old.save(update_fields=["expires_at", "revoked_at"])
    after = facts_of(old) | {"successor": new.id}
    record("api_key.rotated", tenant_id=old.tenant_id, subject="api_key", subject_id=old.id, before=before, after=after)
    return new, text


@transaction.atomic
def remint_key(*, tenant_id: UUID | None, name: str, rights: Rights) -> tuple[ApiKey, str]:
    """A key in place of those of that name whose text was lost. They end; what they minted goes on under the new."""
    with covering():
        new, text = mint_key(tenant_id=tenant_id, name=name, rights=rights)
    lost = keys_of(tenant_id).filter(name=name, created_with=None, revoked_at=None).exclude(id=new.id)
    ApiKey.objects.filter(created_with__in=lost).update(created_with=new)
    after = facts_of(new) | {"revoked": list(lost.values_list("id", flat=True))}
    lost.update(revoked_at=utc_now())
    record("api_key.minted", tenant_id=tenant_id, subject="api_key", subject_id=new.id, after=after)
    return new, text


@transaction.atomic
def revoke_key(*, key_id: UUID, tenant_id: UUID | None) -> None:
    """Ends a key and those that it minted for its own tenant, and theirs. One that has ended stays as it is."""
    row = _held(key_id, tenant_id)
    ending, ended = [row.id], 0
    now = utc_now()
    while ending:
        ended += ApiKey.objects.filter(id__in=ending, revoked_at=None).update(revoked_at=now)
        found = keys_of(row.tenant_id).filter(created_with__in=ending, revoked_at=None)
        ending = list(found.values_list("id", flat=True))
    after = {"keys_ended": ended}  # with those that it minted
    record("api_key.revoked", tenant_id=row.tenant_id, subject="api_key", subject_id=row.id, after=after)


def hold_key(*, key_id: UUID, tenant_id: UUID | None) -> None:
    """Makes all who change a key wait until this transaction ends."""
    owner = find_key_row(tenant_id, key_id).tenant_id
    if owner is None:
        hold_catalog()
    else:
        hold_tenant(owner)


def _insert(
    tenant_id: UUID | None, name: str, rights: Rights, *, created_by: User | None, created_with: UUID | None
) -> tuple[ApiKey, str]:
    minted = mint()
    row = ApiKey(
        tenant_id=tenant_id,
        name=name,
        prefix=minted.prefix,
        digest=minted.digest,
        scopes=sorted(rights.scopes),
        models_allowed=sorted(rights.models),
        networks=[str(network) for network in rights.networks],
        agent_id=rights.agent_id,
        expires_at=rights.expires_at,
        created_by=created_by,
        created_with_id=created_with,
    )
    row.full_clean(validate_unique=False, validate_constraints=False)
    row.save(force_insert=True)
    return row, minted.text


def _held(key_id: UUID, tenant_id: UUID | None) -> ApiKey:
    row = find_key_row(tenant_id, key_id)
    _changed(row.tenant_id)
    row.refresh_from_db()  # what came before us is committed now
    return row


def _check_models(names: frozenset[str]) -> None:
    rows = EmbeddingModel.objects.filter(name__in=names) | EmbeddingModel.objects.filter(identifier__in=names)
    known = {name for row in rows for name in (row.name, row.identifier)}
    if names - known:
        raise InvalidRequest(f"The catalogue has no model {', '.join(sorted(names - known))}.", param="models")


def _changed(tenant_id: UUID | None) -> None:
    """Raises the version, and so makes writers of one tenant's keys (or the platform's) go one after the other: a key
    that is being revoked mints nothing that the revoking would not see."""
    if tenant_id is None:
        catalog_changed()
    else:
        tenant_changed(tenant_id)
