"""Ways to a new password: by mail, or a link that an operator makes and passes on. Writing it is `tenants.services`.

A link works once, because its token holds the old password's hash and the last login; and for a day
(`PASSWORD_RESET_TIMEOUT`). Sessions hold the hash as well, so they all end when it changes.
"""

from __future__ import annotations

from django.http import HttpRequest

from audit.services import record
from core.errors import KeyNotPermitted, NotFound
from tenants import mail
from tenants.links import reset_link
from tenants.models import User
from tenants.services import only_tenant_of


def ask_reset(*, email: str) -> None:
    """Mails the way to a new password to whoever has this address; tells nobody whether somebody has."""
    from tenants import tasks  # they call `mail_reset` here

    if mail.is_set_up():
        tasks.after_commit(tasks.send_password_reset, email)


def mail_reset(*, email: str) -> None:
    """Mails it, if somebody has this address. Recorded once it has left: who asked is not told whether it does."""
    user = User.objects.filter(email=email, is_active=True).first()
    if user is not None:
        mail.send_password_reset(user)
        record("person.reset_mailed", tenant_id=only_tenant_of(user), subject="person", subject_id=user.pk)


def make_reset_link(*, user_id: int, by: User, request: HttpRequest) -> str:
    """A link with which somebody sets a new password, for an operator to pass on."""
    if not (by.is_active and by.is_superuser):
        raise KeyNotPermitted("Only an operator of the platform makes links to new passwords.")
    user = User.objects.filter(id=user_id, is_active=True).first()
    if user is None:
        raise NotFound("There is no such person, or they were deactivated.")
    record("person.reset_link_made", tenant_id=only_tenant_of(user), subject="person", subject_id=user.pk)
    return reset_link(user, request)
