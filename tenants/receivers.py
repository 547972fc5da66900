"""What is written down when somebody signs in or out, or tries to. Django tells of these by signals of its own.

What was typed as an address is kept only where there is such an account: it may be a password in the wrong field.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
from django.dispatch import receiver

from audit.services import record
from tenants.models import User
from tenants.services import only_tenant_of


@receiver(user_logged_in)
def signed_in(sender: object, *, user: User, **_: object) -> None:
    _record("person.signed_in", user)


@receiver(user_logged_out)
def signed_out(sender: object, *, user: User | None, **_: object) -> None:
    if isinstance(user, User):  # who was not signed in may sign out as well
        _record("person.signed_out", user)


@receiver(user_login_failed)
def failed(sender: object, *, credentials: Mapping[str, Any], **_: object) -> None:
    typed = str(credentials.get("username", "")).strip().lower()
    _record("person.sign_in_failed", User.objects.filter(email=typed).first() if "\x00" not in typed else None)


def _record(action: str, user: User | None) -> None:
    tenant_id = None if user is None else only_tenant_of(user)
    who = None if user is None else {"email": user.email}
    record(action, tenant_id=tenant_id, subject="person", subject_id=user.pk if user else "", after=who)
