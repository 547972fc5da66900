"""The page about a provider, with its breakers: how its routes are, and an operator's hold on them.

Stands here because the page is the catalogue's and breakers are the data plane's; only `config` may know both.
"""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from unfold.decorators import action
from unfold.widgets import UnfoldAdminRadioSelectWidget, UnfoldAdminSelectWidget

from catalog.admin import ProviderAdmin
from catalog.admin_base import Dialog
from catalog.models import Provider
from core.errors import BreakersUnavailable
from embeddings.breaker import Force
from embeddings.breaker_api import AUTO, asked
from embeddings.breaker_control import RouteHealth, hold, route_health

_STATES = (
    (AUTO, "As it decides by itself"),
    (Force.OPEN.value, "Held open: not called"),
    (Force.CLOSED.value, "Held closed: called whatever happens"),
)

admin.site.unregister(Provider)


class HoldForm(forms.Form):
    """Of what, and how."""

    model = forms.ChoiceField(required=False, widget=UnfoldAdminSelectWidget, help_text="By the vendor's identifier.")
    state = forms.ChoiceField(choices=_STATES, widget=UnfoldAdminRadioSelectWidget, label="Breaker")

    def __init__(self, *args: Any, identifiers: list[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["model"].choices = [("", "All models"), *((each, each) for each in identifiers)]  # type: ignore[attr-defined]


@admin.register(Provider)
class ProviderWithBreakersAdmin(ProviderAdmin):
    actions_detail = (*ProviderAdmin.actions_detail, "breakers")

    @action(description="Breakers", icon="electrical_services", permissions=["change"])
    def breakers(self, request: HttpRequest, object_id: str) -> HttpResponse:
        row = self.get_object(request, object_id)
        identifiers = sorted(set(row.models.values_list("identifier", flat=True)))
        form = HoldForm(request.POST or None, identifiers=identifiers, initial={"state": AUTO})

        def act(given: dict[str, Any]) -> str:
            state = None if given["state"] == AUTO else Force(given["state"])
            asked(lambda: hold(provider=row.slug, identifier=given["model"] or None, state=state))
            self.log_change(request, row, f"Set the breaker of {given['model'] or 'all models'} to {given['state']}.")
            return f"The breakers of {given['model'] or row.slug}: {dict(_STATES)[given['state']].lower()}."

        dialog = Dialog(
            f"Breakers of {row.slug}",
            f"{_told(row.slug)} What is set here holds in every process within a second, until it is set back.",
            "Set",
        )
        return self.ask(request, row, dialog, act, form)


def _told(slug: str) -> str:
    try:
        found = [each for each in asked(route_health) if each.provider == slug]
    except BreakersUnavailable as error:
        return error.message
    return " ".join(map(_line, found)) or "None of its models was called in the last day."


def _line(health: RouteHealth) -> str:
    figures = [f"{health.calls} calls lately"]
    if health.error_rate is not None:
        figures.append(f"{health.error_rate:.0%} of them failed")
    if health.p50_ms is not None and health.p95_ms is not None:
        figures.append(f"p50 {health.p50_ms:.0f} ms, p95 {health.p95_ms:.0f} ms")
    held = " by an operator" if health.forced else f" ({health.reason})" if health.reason else ""
    where = f"{health.model} in {health.region}" if health.region else health.model
    return f"{where} is {health.state.replace('_', '-')}{held}: {', '.join(figures)}."
