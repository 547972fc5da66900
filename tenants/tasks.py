"""Background work of tenants: mails, and tests of their own credentials.

Failure: the mail server gone means tries again over some hours, then an error in the log; the broker gone means a
logged error and no mail. In neither case does what was done fail: an invitation can be made anew, a password asked for
again.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from celery import Task, shared_task
from django.db import transaction

from tenants import mail, own_credentials, passwords
from tenants.models import Invitation

# SMTP's errors are OSErrors. 1, 2, 4 … minutes, about two hours in all.
_TRIES: dict[str, Any] = {
    "autoretry_for": (OSError,),
    "retry_backoff": 60,
    "retry_backoff_max": 3600,
    "max_retries": 7,
}


@shared_task(**_TRIES)
def send_invitation(invitation_id: str, sealed_token: str) -> None:
    """Mails the link, unless it has ended meanwhile. The token is sealed: whoever reads the broker joins nobody."""
    found = Invitation.objects.select_related("tenant", "invited_by")
    row = found.filter(id=invitation_id, accepted_at=None, revoked_at=None).first()
    if row is not None:
        mail.send_invitation(row, mail.open_token(row, sealed_token))


@shared_task(**_TRIES)
def send_password_reset(email: str) -> None:
    """Mails the way to a new password, if somebody has this address: looked up here, so that asking tells nothing."""
    passwords.mail_reset(email=email)


@shared_task(expires=600)
def test_own_credential(tenant_id: str, test_id: str) -> None:
    """Lists a provider's models with a tenant's own credential."""
    own_credentials.run_test(tenant_id=UUID(tenant_id), test_id=UUID(test_id))


def after_commit(task: Task, *args: str) -> None:
    """Hands work to Celery once the transaction is committed; arguments are secrets and stay out of logs."""
    # No partial: Django logs the name of what failed, and a partial has none.
    transaction.on_commit(lambda: task.apply_async(args, argsrepr="(…)"), robust=True)
