"""What the admin shows of credentials alike, the platform's and tenants' own: the fields of a secret, all write-only,
and how a test of them stands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

from django import forms
from django.http import JsonResponse
from unfold.widgets import (
    UnfoldAdminExpandableTextareaWidget,
    UnfoldAdminPasswordWidget,
    UnfoldAdminTextInputWidget,
)

from catalog import connection_tests, upstreams
from core.clock import utc_now
from providers.base import Kind

WORKER_IS_LATE = timedelta(seconds=15)
SECRETS = {
    "api_key": "API key",
    "aws_access_key_id": "AWS access key id",
    "aws_secret_access_key": "AWS secret access key",
    "aws_session_token": "AWS session token (of temporary keys only)",
    "service_account": "Service account (the JSON file's text)",
}


def secret_field(name: str, *, required: bool = False) -> forms.CharField:
    """A field that never shows what it holds."""
    is_text = name == "service_account"
    hidden = {"autocomplete": "new-password"}
    return forms.CharField(
        label=SECRETS[name],
        required=required,
        max_length=16_384 if is_text else 4_096,
        strip=is_text,
        widget=UnfoldAdminExpandableTextareaWidget if is_text else UnfoldAdminPasswordWidget(attrs=hidden),
    )


def secret_in(data: Mapping[str, Any], names: Iterable[str] = SECRETS) -> dict[str, str]:
    """What of a secret was filled in."""
    return {name: data[name] for name in names if data.get(name)}


class SecretForm(forms.Form):
    """The fields that a provider of this kind takes."""

    def __init__(self, *args: Any, kind: Kind, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._names = sorted(frozenset().union(*upstreams.SECRETS[kind]))
        for name in self._names:
            self.fields[name] = secret_field(name, required=len(upstreams.SECRETS[kind]) == 1)

    def clean(self) -> dict[str, Any]:
        data: dict[str, Any] = super().clean() or {}
        return data | {"secret": secret_in(data, self._names)}


class CredentialForm(SecretForm):
    """The same, with a label."""

    label = forms.CharField(
        required=False,
        max_length=100,
        widget=UnfoldAdminTextInputWidget,
        help_text="For you, to tell several apart.",
    )

    def __init__(self, *args: Any, kind: Kind, **kwargs: Any) -> None:
        super().__init__(*args, kind=kind, **kwargs)
        if len(upstreams.SECRETS[kind]) > 1:
            self.fields["label"].help_text += " Give either the API key alone, or both AWS keys."


def how_it_stands(test_id: UUID, subject: str, *, tenant_id: UUID | None = None) -> JsonResponse:
    """What is known of a test by now, for the page that waits."""
    test = connection_tests.find(test_id, tenant_id=tenant_id)
    if test is None or test.subject != subject:
        return JsonResponse({"state": "forgotten", "findings": []})
    is_late = test.state == "waiting" and utc_now() - test.asked_at > WORKER_IS_LATE
    findings = [
        {"credential": each.credential, "is_ok": each.is_ok, "detail": each.detail, "names": each.names}
        for each in test.findings
    ]
    return JsonResponse({"state": "late" if is_late else test.state, "findings": findings})
