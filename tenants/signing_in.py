"""How a person signs in: the form of the admin, and what every door that takes a password goes through.

A wrong password, an unknown address and a deactivated account are answered alike; who tries often waits
(`tenants.throttle`). The session's key changes at sign-in, which Django's `login` does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.contrib.auth.backends import ModelBackend
from django.core.exceptions import ValidationError
from django.http import HttpRequest
from unfold.forms import AuthenticationForm

from core.errors import RateLimitExceeded
from tenants.addresses import network_of
from tenants.throttle import Throttle

sign_ins = Throttle("sign-in")


class Accounts(ModelBackend):
    """Accounts with passwords. Rights come from memberships (`tenants.roles`): nobody has any of Django's, so nobody is
    asked for them."""

    def _get_permissions(self, user_obj: Any, obj: Any, from_name: str) -> set[str]:
        return set()


@contextmanager
def trying(request: HttpRequest, email: str) -> Iterator[None]:
    """Around one look at a password: counts it, unless the block ends without an error."""
    who = {"address": network_of(request.META.get("REMOTE_ADDR", "")), "account": email.strip().lower()}
    sign_ins.enter(**who)
    yield
    sign_ins.was_right(**who)


class LoginForm(AuthenticationForm):
    """The admin's, with small letters in addresses and with waits."""

    def clean_username(self) -> str:
        email: str = self.cleaned_data["username"].strip().lower()
        return email

    def clean(self) -> dict[str, Any]:
        email, password = self.cleaned_data.get("username"), self.cleaned_data.get("password")
        if not email or not password or self.request is None:
            return super().clean()
        try:
            with trying(self.request, email):
                return super().clean()
        except RateLimitExceeded as error:
            raise ValidationError(error.message, code="throttled") from error
