"""The mails that people get from us: an invitation, a way to a new password. Composes and sends; `tenants.tasks` calls.
Apps above send theirs with `send`.

Failure: the mail server gone is an `OSError` to the caller, which tries again later; nobody's request waits for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.core.mail import EmailMultiAlternatives
from django.template.loader import render_to_string

from catalog.loading import sealer
from tenants.links import invitation_link, reset_link
from tenants.models import Invitation, User


def is_set_up() -> bool:
    """Whether mails can be sent at all; if not, links are passed on by hand."""
    return bool(settings.QUIVER.smtp_url)


def send_invitation(row: Invitation, token: str) -> None:
    """The link to whoever was invited."""
    by = row.invited_by
    sender = (by.name or by.email) if by else row.tenant.name
    send([row.email], "people/mail_invitation.txt", invitation=row, sender=sender, link=invitation_link(token))


def sealed_token(row: Invitation, token: str) -> str:
    """An invitation's token as it may wait in a broker until it is mailed."""
    return sealer().seal({"token": token}, tenant=str(row.tenant_id), table="invitation", row=str(row.id))


def open_token(row: Invitation, sealed: str) -> str:
    """The same back."""
    return sealer().open(sealed, tenant=str(row.tenant_id), table="invitation", row=str(row.id))["token"]


def send_password_reset(user: User) -> None:
    """The way to a new password."""
    hours = settings.PASSWORD_RESET_TIMEOUT // 3600
    send([user.email], "people/mail_password.txt", user=user, hours=hours, link=reset_link(user))


def send(to: Sequence[str], template: str, *, html: str = "", **words: Any) -> None:
    """One mail. The first line of a template is the subject; `html` names one for the same in colour."""
    subject, _, body = render_to_string(template, words).partition("\n")
    mail = EmailMultiAlternatives(subject.strip(), body.lstrip("\n"), to=to)
    if html:
        mail.attach_alternative(render_to_string(html, words), "text/html")
    mail.send()
