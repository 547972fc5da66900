"""The only writer of invitations: a link that makes its holder a member of a tenant, once, within a week.

Decides who may invite whom and that a link counts no longer than its inviter could still give the role. The token is
random and signed, so that a made-up one costs no query; only its digest is kept. An unknown, used, revoked and expired
link are refused in the same words. Mails go out after the commit, in Celery (`tenants.tasks`).
"""

from __future__ import annotations

import hashlib
import secrets
from datetime import datetime, timedelta
from uuid import UUID

from django.contrib.auth.password_validation import validate_password
from django.core import signing
from django.core.validators import validate_email
from django.db import IntegrityError, transaction
from django.db.models import QuerySet

from audit.facts import facts as facts_of
from audit.services import covering, record
from core.clock import utc_now
from core.errors import AlreadyExists, KeyNotPermitted, NotFound, QuiverError, RateLimitExceeded
from tenants import mail, tasks
from tenants.loading import find_grant
from tenants.members import Actor, check_manages
from tenants.models import Invitation, Membership, Role, User
from tenants.services import add_user, hold_tenant, tenant_changed
from tenants.snapshots import KeyGrant

LIFETIME = timedelta(days=7)
MAX_A_DAY = 50  # per tenant: a link to us in a stranger's mailbox is spam when there are many
NOT_VALID = "This invitation is not valid, or not any more. Ask for a new one."
_signer = signing.Signer(salt="tenants.invitations", sep=".")


@transaction.atomic
def invite(*, tenant_id: UUID, email: str, role: Role, by: Actor) -> tuple[Invitation, str]:
    """A new invitation and its token, which cannot be read again; it ends an earlier one to the same address."""
    email = User.objects.normalize_email(email.strip()).lower()
    validate_email(email)
    hold_tenant(tenant_id)
    check_manages(tenant_id=tenant_id, by=by, role=role)
    now = utc_now()
    rows = invitations_of(tenant_id)
    if rows.filter(created_at__gt=now - timedelta(days=1)).count() >= MAX_A_DAY:
        raise RateLimitExceeded(f"A tenant sends at most {MAX_A_DAY} invitations a day.", retry_after=24 * 3600)
    if Membership.objects.filter(tenant_id=tenant_id, user__email=email).exists():
        raise AlreadyExists(f"{email} belongs to this tenant already.", param="email")
    rows.filter(email=email, accepted_at=None, revoked_at=None).update(revoked_at=now)
    token = _signer.sign(secrets.token_urlsafe(24))
    row = Invitation.objects.create(
        tenant_id=tenant_id,
        email=email,
        role=role,
        digest=_digest(token),
        invited_by_id=by.person_id if isinstance(by, KeyGrant) else by.pk,
        invited_with_id=by.key_id if isinstance(by, KeyGrant) else None,
        expires_at=now + LIFETIME,
    )
    record("invitation.made", tenant_id=tenant_id, subject="invitation", subject_id=row.id, after=facts_of(row))
    if mail.is_set_up():
        tasks.after_commit(tasks.send_invitation, str(row.id), mail.sealed_token(row, token))
    return row, token


@transaction.atomic
def revoke(*, tenant_id: UUID, invitation_id: UUID, by: Actor) -> Invitation:
    """Ends a link; one that has ended stays as it is."""
    hold_tenant(tenant_id)
    row = find_invitation(tenant_id, invitation_id)
    check_manages(tenant_id=tenant_id, by=by, role=row.role)
    if row.accepted_at is None and row.revoked_at is None:
        before = facts_of(row)
        row.revoked_at = utc_now()
        row.save(update_fields=["revoked_at"])
        after = facts_of(row)
        record(
            "invitation.revoked",
            tenant_id=tenant_id,
            subject="invitation",
            subject_id=row.id,
            before=before,
            after=after,
        )
    return row


@transaction.atomic
def accept(*, token: str, user: User) -> Membership:
    """Makes a person who is signed in a member; the invitation must be for their address."""
    row = _take(token)
    if user.email.lower() != row.email:
        raise KeyNotPermitted(f"This invitation is for {row.email}; sign in as that.")
    return _join(row, user)


@transaction.atomic
def accept_as_new(*, token: str, name: str, password: str) -> Membership:
    """Makes an account for the invited address, and it a member."""
    row = _take(token)
    validate_password(password, User(email=row.email, name=name))
    try:
        with transaction.atomic(), covering():
            user = add_user(email=row.email, name=name, password=password)
    except IntegrityError as error:
        raise AlreadyExists("No account was made. If you have one already, sign in with it.") from error
    return _join(row, user)


def find_open(token: str) -> Invitation:
    """The invitation that a link stands for while it can be accepted, or `NotFound`."""
    try:
        _signer.unsign(token)
    except signing.BadSignature as error:
        raise NotFound(NOT_VALID) from error
    row = Invitation.objects.select_related("tenant", "invited_by").filter(digest=_digest(token)).first()
    if row is None or state_of(row, utc_now()) != "open" or not _inviter_stands(row):
        raise NotFound(NOT_VALID)
    return row


def invitations_of(tenant_id: UUID) -> QuerySet[Invitation]:
    """A tenant's invitations, the newest first."""
    return Invitation.objects.filter(tenant_id=tenant_id)


def find_invitation(tenant_id: UUID, invitation_id: UUID) -> Invitation:
    """The tenant's own row, or `NotFound`."""
    row = invitations_of(tenant_id).select_related("invited_by").filter(id=invitation_id).first()
    if row is None:
        raise NotFound(f"There is no invitation {invitation_id}.")
    return row


def in_state(rows: QuerySet[Invitation], state: str, now: datetime) -> QuerySet[Invitation]:
    """Those that `state_of` says this of."""
    if state == "accepted":
        return rows.exclude(accepted_at=None)
    if state == "revoked":
        return rows.exclude(revoked_at=None)
    waiting = rows.filter(accepted_at=None, revoked_at=None)
    return waiting.filter(expires_at__gt=now) if state == "open" else waiting.filter(expires_at__lte=now)


def state_of(row: Invitation, now: datetime) -> str:
    """`open`, `accepted`, `revoked` or `expired`."""
    if row.accepted_at is not None:
        return "accepted"
    if row.revoked_at is not None:
        return "revoked"
    return "open" if now < row.expires_at else "expired"


def _take(token: str) -> Invitation:
    tenant_changed(find_open(token).tenant_id)  # keys that somebody made who comes back work again
    return find_open(token)  # again: whoever held the tenant before us has committed now


def _join(row: Invitation, user: User) -> Membership:
    before = facts_of(row)
    row.accepted_at, row.accepted_by = utc_now(), user
    row.save(update_fields=["accepted_at", "accepted_by"])
    record(
        "invitation.accepted",
        tenant_id=row.tenant_id,
        subject="invitation",
        subject_id=row.id,
        before=before,
        after=facts_of(row) | {"email": user.email},
    )
    # Somebody who came in another way meanwhile keeps that role: an invitation never takes anything away.
    return Membership.objects.get_or_create(tenant_id=row.tenant_id, user=user, defaults={"role": row.role})[0]


def _inviter_stands(row: Invitation) -> bool:
    by = row.invited_by if row.invited_with_id is None else find_grant(row.invited_with_id)
    if by is None:
        return False
    try:
        check_manages(tenant_id=row.tenant_id, by=by, role=row.role)
    except QuiverError:
        return False
    return True


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
