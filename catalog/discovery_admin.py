"""Admin of what the catalogue found out by itself: looks at vendors' lists, proposed prices, checks. For operators.

A run's page shows its difference; what waits is taken in part or refused. Nothing here calls a provider: that is a
worker's.
"""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from unfold.contrib.filters.admin import AutocompleteSelectFilter, ChoicesDropdownFilter
from unfold.decorators import action, display
from unfold.widgets import (
    UnfoldAdminCheckboxSelectMultipleWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextareaWidget,
)

from catalog import discovery_runs, prices
from catalog.admin_base import Dialog, HouseAdmin, posted
from catalog.admin_looks import code, money, per_million, table, when
from catalog.models import DiscoveryRun, ModelCheck, ModelEvent, PriceProposal, Provider
from catalog.price_sources import CsvUpload, SourceUnreadable
from core.errors import InvalidRequest

_TONES = {
    "applied": "success",
    "approved": "success",
    "passed": "success",
    "unchanged": "success",
    "waiting": "warning",
    "pending": "warning",
    "queued": "info",
    "running": "info",
    "failed": "danger",
}


class LookForm(forms.Form):
    provider = forms.ModelChoiceField(
        queryset=Provider.objects.order_by("slug"),
        to_field_name="slug",
        required=False,
        widget=UnfoldAdminSelectWidget,
        help_text="Empty: all that are switched on and have a credential.",
    )


class ChoiceForm(forms.Form):
    changes = forms.MultipleChoiceField(widget=UnfoldAdminCheckboxSelectMultipleWidget)

    def __init__(self, *args: Any, run: DiscoveryRun, with_widths: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        pending = [each for each in run.changes if each["state"] == "pending"]
        self.fields["changes"].choices = [(each["key"], _words(each)) for each in pending]  # type: ignore[attr-defined]
        self._unknown = [each["key"] for each in pending if _lacks_width(each)] if with_widths else []
        for index, key in enumerate(self._unknown):
            self.fields[f"width_{index}"] = forms.IntegerField(
                label=f"Dimensions of {key.partition(':')[2]}",
                min_value=1,
                max_value=65_536,
                required=False,
                help_text="Needed if you accept it.",
            )

    @property
    def widths(self) -> dict[str, int]:
        """What was given, by key."""
        given = {key: self.cleaned_data.get(f"width_{index}") for index, key in enumerate(self._unknown)}
        chosen = self.cleaned_data["changes"]
        return {key: width for key, width in given.items() if width and key in chosen}


class UploadForm(forms.Form):
    content = forms.CharField(
        label="Prices (CSV)",
        strip=False,
        max_length=1_000_000,
        widget=UnfoldAdminTextareaWidget,
        help_text="The first line names the columns: provider,model_identifier,cost_per_million_tokens. `provider` is "
        "a slug or a kind.",
    )


@admin.register(DiscoveryRun)
class DiscoveryRunAdmin(HouseAdmin[DiscoveryRun]):
    list_display = ("provider", "shown_state", "found", "listed", "actor", "created")
    list_filter = (("state", ChoicesDropdownFilter), ("provider", AutocompleteSelectFilter))
    list_select_related = ("provider",)
    search_fields = ("provider__slug",)
    search_help_text = "Slug of a provider"
    fields = ("provider", "shown_state", "detail", "listed", "difference", "actor", "created", "ended")
    readonly_fields = fields
    actions_list = ("look",)
    actions_detail = ("accept", "ignore")

    @display(description="state", ordering="state", label=_TONES)
    def shown_state(self, row: DiscoveryRun) -> str:
        return row.state

    @admin.display(description="changes")
    def found(self, row: DiscoveryRun) -> str:
        kinds = [each["change"] for each in row.changes]
        return ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds))) or "–"

    @admin.display(description="changes")
    def difference(self, row: DiscoveryRun) -> Any:
        cells = ((each["state"], _words(each), code(each["identifier"]), each["waits"] or "–") for each in row.changes)
        return table(("State", "Change", "Identifier", "Why it waits"), cells, empty="Nothing differs.")

    @admin.display(description="begun", ordering="created_at")
    def created(self, row: DiscoveryRun) -> Any:
        return when(row.created_at)

    @admin.display(description="ended", ordering="ended_at")
    def ended(self, row: DiscoveryRun) -> Any:
        return when(row.ended_at)

    def has_look_permission(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request)

    def has_decide_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return self.has_view_permission(request)

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> Any:
        waits = self.get_object(request, object_id).state == DiscoveryRun.State.WAITING
        return super().get_actions_detail(request, object_id) if waits else []

    @action(description="Look now", icon="travel_explore", permissions=["look"])
    def look(self, request: HttpRequest) -> HttpResponse:
        form = LookForm(posted(request))
        if request.method == "POST" and form.is_valid():
            chosen = form.cleaned_data["provider"]
            runs = discovery_runs.begin_runs(slug=chosen.slug if chosen else None, actor=str(request.user))
            self.message_user(request, f"{len(runs)} looks wait for a worker. Reload the list to see them end.")
            return redirect(self.url("changelist"))
        dialog = Dialog(
            "Look at vendors' lists of models",
            "A worker asks each vendor for its list. Nothing is embedded and nothing is billed.",
            "Look now",
        )
        return self.page_of_list(request, dialog, form)

    @action(description="Accept", icon="done_all", permissions=["decide"])
    def accept(self, request: HttpRequest, object_id: str) -> HttpResponse:
        row = self.get_object(request, object_id)
        form = ChoiceForm(posted(request), run=row, with_widths=True)

        def act(given: dict[str, Any]) -> str:
            discovery_runs.accept(run_id=row.pk, keys=given["changes"], widths=form.widths, actor=str(request.user))
            return f"{len(given['changes'])} changes were applied."

        dialog = Dialog("Accept changes", "They are applied together, or none of them is.", "Accept")
        return self.ask(request, row, dialog, act, form)

    @action(description="Ignore", icon="block", permissions=["decide"])
    def ignore(self, request: HttpRequest, object_id: str) -> HttpResponse:
        row = self.get_object(request, object_id)

        def act(given: dict[str, Any]) -> str:
            discovery_runs.ignore(run_id=row.pk, keys=given["changes"])
            return f"{len(given['changes'])} changes were refused."

        dialog = Dialog("Ignore changes", "A new model that is refused is not offered again.", "Ignore")
        return self.ask(request, row, dialog, act, ChoiceForm(posted(request), run=row, with_widths=False))


@admin.register(PriceProposal)
class PriceProposalAdmin(HouseAdmin[PriceProposal]):
    list_display = ("model", "shown_was", "shown_now", "source", "shown_state", "created")
    list_filter = (("state", ChoicesDropdownFilter),)
    list_select_related = ("model__provider",)
    search_fields = ("model__name", "source")
    search_help_text = "Name of a model, or source"
    fields = ("model", "shown_was", "shown_now", "source", "shown_state", "actor", "created", "decided_at")
    readonly_fields = fields
    actions_list = ("upload",)
    actions_detail = ("approve", "refuse")

    @admin.display(description="price in force")
    def shown_was(self, row: PriceProposal) -> str:
        return per_million(row.was)

    @admin.display(description="proposed, per million tokens")
    def shown_now(self, row: PriceProposal) -> str:
        return per_million(row.cost_per_million_tokens)

    @display(description="state", ordering="state", label=_TONES)
    def shown_state(self, row: PriceProposal) -> str:
        return row.state

    @admin.display(description="proposed", ordering="created_at")
    def created(self, row: PriceProposal) -> Any:
        return when(row.created_at)

    def has_decide_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return self.has_view_permission(request)

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> Any:
        waits = self.get_object(request, object_id).state == PriceProposal.State.PENDING
        return super().get_actions_detail(request, object_id) if waits else []

    @action(description="Approve", icon="check", permissions=["decide"])
    def approve(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._decide(request, object_id, is_approved=True)

    @action(description="Refuse", icon="block", permissions=["decide"])
    def refuse(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._decide(request, object_id, is_approved=False)

    def _decide(self, request: HttpRequest, object_id: str, *, is_approved: bool) -> HttpResponse:
        row = self.get_object(request, object_id)

        def act(given: dict[str, Any]) -> str:
            prices.decide_proposal(proposal_id=row.pk, is_approved=is_approved, actor=str(request.user))
            return "The price is in force from now on." if is_approved else "The price stays as it was."

        told = (
            f"{row.model} goes from {per_million(row.was)} to {money(row.cost_per_million_tokens)} per million tokens"
        )
        if is_approved:
            return self.ask(request, row, Dialog("Approve the price", f"{told}, from now on.", "Approve"), act)
        return self.ask(request, row, Dialog("Refuse the price", f"{told}? It is not proposed again.", "Refuse"), act)

    @action(description="Upload prices", icon="upload_file", permissions=["decide"])
    def upload(self, request: HttpRequest) -> HttpResponse:
        form = UploadForm(posted(request))
        if request.method == "POST" and form.is_valid():
            try:
                rows = CsvUpload(form.cleaned_data["content"], name=f"upload by {request.user}"[:100])
                found, wrong = prices.update([rows])
                if wrong:
                    raise SourceUnreadable(wrong[0])
            except (SourceUnreadable, InvalidRequest) as error:
                form.add_error("content", str(error))
            else:
                self.message_user(request, f"{len(found)} prices differ; those that changed by little were taken.")
                return redirect(self.url("changelist"))
        dialog = Dialog(
            "Upload prices",
            "A price that changes by at most 20 % is taken from now on; larger changes wait here for your approval.",
            "Upload",
        )
        return self.page_of_list(request, dialog, form)


@admin.register(ModelCheck)
class ModelCheckAdmin(HouseAdmin[ModelCheck]):
    list_display = ("model", "kind", "outcome", "probes", "tokens", "cost", "actor", "created")
    list_filter = ("kind", "passed", ("model", AutocompleteSelectFilter))
    list_select_related = ("model__provider",)
    search_fields = ("model__name",)
    search_help_text = "Name of a model"
    fields = ("model", "kind", "outcome", "failures", "probes", "tokens", "cost", "actor", "created")
    readonly_fields = fields

    @display(description="outcome", ordering="passed", label=_TONES)
    def outcome(self, row: ModelCheck) -> str:
        return "passed" if row.passed else "failed"

    @admin.display(description="what failed")
    def failures(self, row: ModelCheck) -> Any:
        cells = ((each["probe"], each["expected"], each["got"]) for each in row.failed)
        return table(("Probe", "Expected", "Got"), cells, empty="Nothing.")

    @admin.display(description="cost to the platform")
    def cost(self, row: ModelCheck) -> str:
        return money(row.cost_usd)

    @admin.display(description="when", ordering="at")
    def created(self, row: ModelCheck) -> Any:
        return when(row.at)


@admin.register(ModelEvent)
class ModelEventAdmin(HouseAdmin[ModelEvent]):
    """What happened to models, to be read."""

    list_display = ("model", "kind", "was", "now", "cause", "actor", "reason", "created")
    list_filter = ("kind", ("model", AutocompleteSelectFilter))
    list_select_related = ("model__provider",)
    search_fields = ("model__name", "actor", "reason")
    search_help_text = "Name of a model, who, or why"
    fields = ("model", "kind", "was", "now", "cause", "actor", "reason", "created")
    readonly_fields = fields

    @admin.display(description="when", ordering="at")
    def created(self, row: ModelEvent) -> Any:
        return when(row.at)


def _lacks_width(change: dict[str, Any]) -> bool:
    return change["change"] == "new" and change["now"].get("dimensions") is None


def _words(change: dict[str, Any]) -> str:
    """A change in words."""
    kind, name, was, now = change["change"], change["identifier"], change["was"], change["now"]
    if kind == "new":
        known = [f"{now['dimensions']} dimensions" if now.get("dimensions") else "width unknown"]
        known += [f"${now['usd_per_million']} per million"] if now.get("usd_per_million") is not None else []
        return f"new: {name} ({', '.join(known)})"
    if kind == "changed":
        return f"changed: {name}, " + ", ".join(f"{field} {was[field]} → {now[field]}" for field in now)
    if kind == "deprecated":
        return f"retired by its vendor: {name}" + (f", until {now['ends_on']}" if now.get("ends_on") else "")
    return f"not listed any more: {name}"
