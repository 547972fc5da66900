"""The only writer of API keys: minting, changing, rotating, revoking.

Decides whose keys end with whose: revoking a key ends those that it minted for its own tenant as well, and the
successors that it made of itself (a stolen key leaves nothing behind), unless it is such a successor that asks;
rotating hands what the key minted over to the successor. What an operator's key minted for a tenant belongs to the
tenant and stays. Whoever mints, changes or rotates a key, a key or a person, gives away no more than they have at that
moment (`tenants.rights`); what they lose later their keys lose as well (`tenants.loading`). Decides also whose limits
count what a key uses: those of the keys that it replaces and of the keys that made it, so that no key sheds its own by
rotating itself or minting another. Every function is one transaction and tells the data plane after its commit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TypedDict, Unpack
from uuid import UUID, uuid4

from django.db import connection, transaction

from audit.facts import facts as facts_of
from audit.services import covering, record
from catalog.models import EmbeddingModel
from catalog.publishing import catalog_changed, hold_catalog
from core.clock import utc_now
from core.errors import Conflict, InvalidApiKey, InvalidRequest, KeyNotPermitted
from tenants.keys import mint
from tenants.loading import find_grant, rights_of_row
from tenants.members import is_operator, role_of
from tenants.models import ApiKey, User
from tenants.rights import Networks, Rights, bounded, rights_of
from tenants.roles import SCOPES, Power, may
from tenants.scopes import TENANT_SCOPES, Scope
from tenants.selectors import find_key_row, keys_of
from tenants.services import hold_tenant, tenant_changed
from tenants.signals import key_rotated
from tenants.snapshots import KeyGrant

MAX_OVERLAP = timedelta(days=30)


class KeyChanges(TypedDict, total=False):
    """What may be changed of a key; its scopes and its agent never are."""

    name: str
    expires_at: datetime | None
    models: Sequence[str]
    networks: Networks


@transaction.atomic
def mint_key(
    *,
    tenant_id: UUID | None,
    name: str,
    rights: Rights,
    creator: KeyGrant | None = None,
    created_by: User | None = None,
) -> tuple[ApiKey, str]:
    """A new key and its text, which cannot be read again. Without a creator (the seed) nothing bounds it."""
    if not rights.scopes:
        raise InvalidRequest("A key needs at least one scope.", param="scopes")
    if tenant_id is not None and Scope.OPERATOR in rights.scopes:
        offered = ", ".join(sorted(TENANT_SCOPES))
        raise InvalidRequest(f"A tenant's key cannot be an operator's; there are {offered}.", param="scopes")
    _check_expiry(rights.expires_at)
    _check_models(rights.models)
    _changed(tenant_id)
    rights = _within(rights, tenant_id, creator or created_by)
    made_with = creator.key_id if creator else None
    lines = creator.lines if creator is not None and creator.tenant_id == tenant_id else ()
    row, text = _insert(tenant_id, name, rights, created_by=created_by, created_with=made_with, made_in=lines)
    if creator is not None and find_grant(row.id) is None:
        raise Conflict("Too many keys have minted each other; mint this one with a key nearer to the first.")
    record("api_key.minted", tenant_id=tenant_id, subject="api_key", subject_id=row.id, after=facts_of(row))
    return row, text


@transaction.atomic
def change_key(*, key_id: UUID, tenant_id: UUID | None, by: KeyGrant | User, **changes: Unpack[KeyChanges]) -> ApiKey:
    """Changes what is given. Who changes a key must have all of its rights, before and after."""
    row = _held(key_id, tenant_id)
    _check_lives(row)
    before = facts_of(row)
    if "name" in changes:
        row.name = changes["name"]
    was = rights_of_row(row)
    asked = Rights(
        was.scopes,
        frozenset(changes.get("models", was.models)),
        tuple(changes.get("networks", was.networks)),
        was.agent_id,
        changes.get("expires_at", was.expires_at),
    )
    _check_reach(row, was, by)
    if asked != was:
        if asked.expires_at != was.expires_at:
            _check_expiry(asked.expires_at)
        _check_models(asked.models - was.models)
        asked = _within(asked, row.tenant_id, by)
        maker = find_grant(row.created_with_id) if row.created_with_id else None
        if maker is not None and maker.tenant_id == row.tenant_id:
            asked = bounded(asked, rights_of(maker))
        _write_rights(row, asked)
    _check_fields(row)
    row.save()
    after = facts_of(row)
    record("api_key.changed", tenant_id=row.tenant_id, subject="api_key", subject_id=row.id, before=before, after=after)
    return row


@transaction.atomic
def rotate_key(*, key_id: UUID, tenant_id: UUID | None, overlap: timedelta, by: KeyGrant | User) -> tuple[ApiKey, str]:
    """A successor with the same rights. The old key lives on for the overlap; with none it ends at once. A person who
    rotates a key has made the successor: so it outlives the membership of whoever made the old one."""
    if not timedelta(0) <= overlap <= MAX_OVERLAP:
        raise InvalidRequest(
            f"`overlap_seconds` is from 0 to {MAX_OVERLAP // timedelta(seconds=1)}.", param="overlap_seconds"
        )
    old = _held(key_id, tenant_id)
    _check_lives(old)
    rights = rights_of_row(old)
    _check_reach(old, rights, by)
    person: User | None
    lines = old.lines
    if isinstance(by, User):
        person, minter = by, None
    elif by.key_id == old.id:
        person, minter = old.created_by, old.created_with_id
    else:  # as if it had minted it: it ends with the key that asked, and counts with it
        person, minter = None, by.key_id
        lines = [*old.lines, *(by.lines if by.tenant_id == old.tenant_id else ())]
    new, text = _insert(old.tenant_id, old.name, rights, created_by=person, created_with=minter, lines=lines)
    if isinstance(by, KeyGrant) and by.key_id == old.id:
        new.rotated_from = old
        new.save(update_fields=["rotated_from"])
    ApiKey.objects.filter(created_with=old).update(created_with=new)
    if find_grant(new.id) is None:
        raise Conflict("A key cannot rotate the one that it comes from, nor at the end of so long a line.")
    before, now = facts_of(old), utc_now()
    ends = now + overlap
    old.expires_at = ends if old.expires_at is None else min(ends, old.expires_at)
    old.revoked_at = now if overlap == timedelta(0) else None
    old.save(update_fields=["expires_at", "revoked_at", "updated_at"])
    after = facts_of(old) | {"successor": new.id}
    record("api_key.rotated", tenant_id=old.tenant_id, subject="api_key", subject_id=old.id, before=before, after=after)
    key_rotated.send(sender=ApiKey, tenant_id=old.tenant_id, old=old.id, new=new.id)
    return new, text


@transaction.atomic
def remint_key(*, tenant_id: UUID | None, name: str, rights: Rights) -> tuple[ApiKey, str]:
    """A key in place of those of that name whose text was lost. They end; what they minted goes on under the new, which
    is of the line of the last of them."""
    with covering():
        new, text = mint_key(tenant_id=tenant_id, name=name, rights=rights)
    lost = keys_of(tenant_id).filter(name=name, created_with=None, revoked_at=None).exclude(id=new.id)
    last = lost.order_by("created_at").last()
    if last is not None:
        new.lines = last.lines
        new.save(update_fields=["lines"])
        key_rotated.send(sender=ApiKey, tenant_id=new.tenant_id, old=last.id, new=new.id)
    ApiKey.objects.filter(created_with__in=lost).update(created_with=new)
    after = facts_of(new) | {"revoked": list(lost.values_list("id", flat=True))}
    lost.update(revoked_at=utc_now())
    record("api_key.minted", tenant_id=tenant_id, subject="api_key", subject_id=new.id, after=after)
    return new, text


@transaction.atomic
def revoke_key(*, key_id: UUID, tenant_id: UUID | None, by: KeyGrant | User | None = None) -> None:
    """Ends a key, those that it minted for its own tenant, the successors that it made of itself, and what came of all
    these. A successor that asks goes on, with what came of it. One that has ended stays as it is."""
    row = _held(key_id, tenant_id)
    ending, seen, ended = [row.id], set(_successors_up_to(by, row)), 0
    now = utc_now()
    while ending:
        seen.update(ending)
        ended += ApiKey.objects.filter(id__in=ending, revoked_at=None).update(revoked_at=now, updated_at=now)
        # Through those that have ended, too: a thief may have rotated twice.
        keys = keys_of(row.tenant_id)
        found = keys.filter(created_with__in=ending) | keys.filter(rotated_from__in=ending)
        ending = [each for each in found.values_list("id", flat=True) if each not in seen]
    after = {"keys_ended": ended}  # with what came of it
    record("api_key.revoked", tenant_id=row.tenant_id, subject="api_key", subject_id=row.id, after=after)


def record_use(seen: Mapping[UUID, datetime]) -> None:
    """Writes when keys were last used: one statement for many requests. Nothing changes by it, so no version rises."""
    if not seen:
        return
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE tenants_apikey k SET last_used_at = seen.at "
            "FROM unnest(%s::uuid[], %s::timestamptz[]) AS seen(id, at) "
            "WHERE k.id = seen.id AND (k.last_used_at IS NULL OR k.last_used_at < seen.at)",
            [list(seen), list(seen.values())],
        )


def hold_key(*, key_id: UUID, tenant_id: UUID | None) -> None:
    """Makes all who change a key wait until this transaction ends."""
    owner = find_key_row(tenant_id, key_id).tenant_id
    if owner is None:
        hold_catalog()
    else:
        hold_tenant(owner)


def _successors_up_to(by: KeyGrant | User | None, row: ApiKey) -> list[UUID]:
    """The keys on the way from a key to the one that asks, each made by the one before of itself; none: no such way."""
    if not isinstance(by, KeyGrant) or by.lines[:1] != tuple(row.lines[:1]):
        return []
    way: list[UUID] = []
    each: UUID | None = by.key_id
    while each not in (None, row.id):
        way.append(each)
        each = ApiKey.objects.values_list("rotated_from_id", flat=True).get(id=each)
    return way if each == row.id else []


def _within(asked: Rights, tenant_id: UUID | None, by: KeyGrant | User | None) -> Rights:
    """`asked`, if `by` has all of it now; with their restrictions where it names none."""
    if by is None:
        return asked
    if isinstance(by, KeyGrant):
        now = find_grant(by.key_id)
        if now is None:
            raise InvalidApiKey("This API key was revoked a moment ago.")
        return bounded(asked, rights_of(now))
    if tenant_id is None:
        if not is_operator(by):
            raise KeyNotPermitted("Only an operator of the platform makes keys of the platform.")
        return asked
    role = role_of(tenant_id, by)
    if not may(role, Power.KEYS):
        raise KeyNotPermitted(f"As {role} you cannot make or change keys.")
    return bounded(asked, Rights(SCOPES[role]))


def _check_reach(row: ApiKey, rights: Rights, by: KeyGrant | User) -> None:
    try:
        is_reached = _within(rights, row.tenant_id, by) == rights
    except KeyNotPermitted:
        if isinstance(by, User):
            raise
        is_reached = False
    if not is_reached:
        raise KeyNotPermitted("This key has rights that yours lacks, so yours can neither change nor rotate it.")


def _check_lives(row: ApiKey) -> None:
    if row.revoked_at is not None or (row.expires_at is not None and row.expires_at <= utc_now()):
        raise Conflict("This key has ended already; mint a new one.")


def _check_expiry(expires_at: datetime | None) -> None:
    if expires_at is not None and expires_at <= utc_now():
        raise InvalidRequest("`expires_at` has passed already.", param="expires_at")


def _insert(
    tenant_id: UUID | None,
    name: str,
    rights: Rights,
    *,
    created_by: User | None,
    created_with: UUID | None,
    made_in: Sequence[UUID] = (),
    lines: Sequence[UUID] = (),
) -> tuple[ApiKey, str]:
    """Without `lines` the key begins one of its own, which was made in those of `made_in`."""
    minted, key_id = mint(), uuid4()
    row = ApiKey(
        id=key_id,
        tenant_id=tenant_id,
        name=name,
        prefix=minted.prefix,
        digest=minted.digest,
        scopes=sorted(rights.scopes),
        agent_id=rights.agent_id,
        created_by=created_by,
        created_with_id=created_with,
        lines=list(dict.fromkeys(lines or (key_id, *made_in))),
    )
    _write_rights(row, rights)
    _check_fields(row)
    row.save(force_insert=True)
    return row, minted.text


def _check_fields(row: ApiKey) -> None:
    """Not its maker, which is not theirs to say; and a tenant does not see a key of the platform's."""
    row.full_clean(exclude={"created_with"}, validate_unique=False, validate_constraints=False)


def _write_rights(row: ApiKey, rights: Rights) -> None:
    row.models_allowed = sorted(rights.models)
    row.networks = [str(network) for network in rights.networks]
    row.expires_at = rights.expires_at


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
