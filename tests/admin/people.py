"""What the stories about people share: accounts, pages, a mailbox."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.test import Client

from tests.fakes.smtp import FakeSmtp

PASSWORD = "a long enough password"
SIGN_IN = "/admin/login/"


def person(email: str, **roles: Any) -> Any:
    """An account with this password, an operator or a member: `tenant=<id>, role=<role>`."""
    from tenants.members import add_member
    from tenants.services import add_user

    user = add_user(email=email, name=email.partition("@")[0].title(), password=PASSWORD, **_operator(roles))
    for tenant_id, role in roles.items():
        add_member(tenant_id=UUID(tenant_id), user=user, role=role)
    return user


def _operator(roles: dict[str, Any]) -> dict[str, Any]:
    return {"is_operator": roles.pop("is_operator", False)}


def sign_in(client: Client, email: str, password: str = PASSWORD, **extra: Any) -> Any:
    """The admin's own form."""
    return client.post(SIGN_IN, {"username": email, "password": password}, **extra)


def is_in(client: Client) -> bool:
    """Whether this browser is signed in."""
    return client.get("/admin/").status_code == 200


@dataclass(frozen=True)
class Mailbox:
    """A mail server, and what after a commit would go there."""

    smtp: FakeSmtp
    committed: Callable[[], Any]

    def link_to(self, email: str) -> str:
        """The path of the link in the newest mail to somebody."""
        mail = [each for each in self.smtp.mails if each["To"] == email][-1]
        found = re.search(r"https://quiver\.example(/\S+)", mail.get_content())
        assert found, mail.get_content()
        return found[1]
