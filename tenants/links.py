"""Addresses that people are given: in mails, or on a page to pass on by hand.

Decides that they start with `QUIVER_PUBLIC_URL` whenever it is set. Without it only somebody who is looking at a page
of ours can be given one, by the name that they used for us; a mail never holds it (`config.environment` refuses a mail
server without a public address), so a forged Host header misleads nobody but its sender.
"""

from __future__ import annotations

from django.conf import settings
from django.contrib.auth.tokens import default_token_generator
from django.http import HttpRequest
from django.urls import reverse
from django.utils.encoding import force_bytes
from django.utils.http import urlsafe_base64_encode

from tenants.models import User


def invitation_link(token: str, request: HttpRequest | None = None) -> str:
    """Where an invitation is accepted."""
    return absolute(reverse("invitation", args=[token]), request)


def reset_link(user: User, request: HttpRequest | None = None) -> str:
    """Where a person sets a new password."""
    person = urlsafe_base64_encode(force_bytes(user.pk))
    path = reverse("password_reset_confirm", args=[person, default_token_generator.make_token(user)])
    return absolute(path, request)


def absolute(path: str, request: HttpRequest | None = None) -> str:
    """The whole address of a path of ours."""
    public: str = settings.QUIVER.public_url.rstrip("/")
    if public:
        return public + path
    if request is None:
        raise ValueError("QUIVER_PUBLIC_URL is not set, and there is no request to take an address from")
    return request.build_absolute_uri(path)
