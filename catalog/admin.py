"""Admin of providers, their credentials and vector spaces: doors for operators. Models are `catalog.model_admin`.

Secrets go in and never come out: of a credential its label and last four characters are shown.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django import forms
from django.contrib import admin
from django.db.models import Count, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect
from django.urls import URLPattern, path
from unfold.contrib.filters.admin import ChoicesDropdownFilter
from unfold.decorators import action, display
from unfold.widgets import (
    UnfoldAdminSelectWidget,
)

from catalog import connection_tests, discovery_admin, model_admin, upstreams
from catalog.admin_base import Dialog, HouseAdmin, RowForm, ShownRows, is_operator, posted
from catalog.admin_credentials import CredentialForm, how_it_stands
from catalog.admin_looks import TONES, when
from catalog.models import Provider, ProviderCredential, VectorSpace
from providers.base import Kind

__all__ = ["ProviderAdmin", "VectorSpaceAdmin", "discovery_admin", "model_admin"]

_CALLING = ("base_url", "region", "project", "api_version")
_CAPS = ("max_items", "max_tokens_per_call", "max_concurrency", "timeout_s", "rpm", "tpm")
_SHARING = ("batch_window_ms", "mixes_tenants")


class WhichCredential(forms.Form):
    credential = forms.ChoiceField(widget=UnfoldAdminSelectWidget)


class CredentialRows(ShownRows):
    model = ProviderCredential
    fields = ("name", "last_four", "is_enabled", "added")
    readonly_fields = fields
    verbose_name_plural = "credentials (calls take turns over the enabled ones)"

    @admin.display(description="label")
    def name(self, row: ProviderCredential) -> str:
        return row.label or "–"

    @admin.display(description="ends in")
    def last_four(self, row: ProviderCredential) -> str:
        return f"…{row.hint}" if row.hint else "…"

    @admin.display(description="added")
    def added(self, row: ProviderCredential) -> str:
        return when(row.created_at)


@admin.register(Provider)
class ProviderAdmin(HouseAdmin[Provider]):
    adds = changes = removes = True
    list_display = ("slug", "shown_kind", "region", "models_count", "credentials_count", "switch", "updated")
    list_filter = (("kind", ChoicesDropdownFilter), "is_enabled")
    search_fields = ("slug", "base_url", "region")
    search_help_text = "Slug, address or region"
    labels = {
        "is_enabled": "Switched on",
        "discovery": "Models that its list shows",
        "base_url": "Address",
        "api_version": "API version",
        "max_items": "Texts in a call",
        "max_tokens_per_call": "Tokens in a call",
        "max_concurrency": "Calls at a time",
        "timeout_s": "Seconds to wait",
        "batch_window_ms": "Milliseconds to gather",
        "mixes_tenants": "Tenants share calls",
        "rpm": "Requests a minute",
        "tpm": "Tokens a minute",
    }
    inlines = (CredentialRows,)
    actions_detail: tuple[str, ...] = ("test_connection", "add_credential", "remove_credential")
    ordering = ("slug",)  # counting drops the rows' own
    fieldsets = (
        (None, {"fields": ("slug", "kind", "is_enabled", "discovery")}),
        (
            "Where it is",
            {
                "fields": _CALLING,
                "description": "What is empty is the vendor's own. Azure needs an address and an API version, Bedrock "
                "a region, Vertex a project and a region.",
            },
        ),
        ("How much it takes", {"fields": _CAPS, "description": "Quiver splits what is larger, and waits its turn."}),
        (
            "Shared calls",
            {
                "fields": _SHARING,
                "description": "Under load, texts that wait are sent together: fewer calls, and fewer requests counted "
                "by the vendor.",
            },
        ),
    )
    # What a vendor takes is filled in by the service, and shown to be changed afterwards.
    add_fieldsets = (
        (None, {"fields": ("slug", "kind"), "description": "Credentials are added on the next page."}),
        fieldsets[1],
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Provider]:
        rows: QuerySet[Provider] = super().get_queryset(request)
        return rows.annotate(models_=Count("models", distinct=True), credentials_=Count("credentials", distinct=True))

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        return ("slug", "kind") if obj else ()

    def get_inlines(self, request: HttpRequest, obj: Any) -> Any:
        return self.inlines if obj else ()

    @display(description="kind", ordering="kind", label=True)
    def shown_kind(self, row: Provider) -> str:
        return row.kind

    @admin.display(description="models", ordering="models_")
    def models_count(self, row: Any) -> int:
        return int(row.models_)

    @admin.display(description="credentials", ordering="credentials_")
    def credentials_count(self, row: Any) -> int:
        return int(row.credentials_)

    @display(description="switch", ordering="is_enabled", label={"on": "success", "off": "danger"})
    def switch(self, row: Provider) -> str:
        return "on" if row.is_enabled else "off"

    @admin.display(description="changed", ordering="updated_at")
    def updated(self, row: Provider) -> str:
        return when(row.updated_at)

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> Any:
        row = self.get_object(request, object_id)
        unfit = (set() if upstreams.SECRETS[Kind(row.kind)] else {"add_credential"}) | (
            set() if row.credentials.exists() else {"remove_credential"}
        )
        return [each for each in super().get_actions_detail(request, object_id) if each.path not in unfit]

    def add_row(self, request: HttpRequest, form: RowForm) -> Provider:
        given = form.cleaned_data
        return upstreams.add_provider(slug=given["slug"], kind=given["kind"], **{n: given[n] for n in _CALLING})

    def change_row(self, request: HttpRequest, row: Provider, form: RowForm) -> None:
        upstreams.change_provider(
            slug=row.slug, **form.changed("is_enabled", "discovery", *_CALLING, *_CAPS, *_SHARING)
        )

    def remove_row(self, request: HttpRequest, row: Provider) -> None:
        upstreams.remove_provider(slug=row.slug)

    def response_post_save_add(self, request: HttpRequest, obj: Provider) -> HttpResponse:
        return redirect(self.url("change", obj.pk))  # where its credentials are added

    @action(description="Add credential", icon="key", permissions=["change"])
    def add_credential(self, request: HttpRequest, object_id: str) -> HttpResponse:
        row = self.get_object(request, object_id)

        def act(given: dict[str, Any]) -> str:
            added = upstreams.add_credential(
                slug=row.slug, secret=given["secret"], label=given["label"], by_operator=is_operator(request)
            )
            return f"{added} was added."

        dialog = Dialog(
            f"Add a credential for {row.slug}",
            f"A provider of kind {row.kind} takes no credential."
            if not upstreams.SECRETS[Kind(row.kind)]
            else "It is sealed as it is stored and cannot be read again, here or anywhere. Calls take turns over all "
            "credentials that are enabled.",
            "Add credential",
        )
        return self.ask(request, row, dialog, act, CredentialForm(posted(request), kind=Kind(row.kind)))

    @action(description="Remove credential", icon="key_off", permissions=["change"])
    def remove_credential(self, request: HttpRequest, object_id: str) -> HttpResponse:
        row = self.get_object(request, object_id)
        form = WhichCredential(posted(request))
        form.fields["credential"].choices = [(str(each.id), str(each)) for each in row.credentials.all()]  # type: ignore[attr-defined]

        def act(given: dict[str, Any]) -> str:
            upstreams.remove_credential(slug=row.slug, credential_id=UUID(given["credential"]))
            return "The credential was removed."

        dialog = Dialog(
            f"Remove a credential of {row.slug}",
            "It is forgotten within a second; calls under way finish. Without any credential the provider's models "
            "cannot answer.",
            "Remove credential",
            is_dangerous=True,
        )
        return self.ask(request, row, dialog, act, form)

    @action(description="Test", icon="network_check", permissions=["change"])
    def test_connection(self, request: HttpRequest, object_id: str) -> HttpResponse:
        row = self.get_object(request, object_id)

        def act(given: dict[str, Any]) -> HttpResponse:
            return redirect(self.url("tested", row.pk, connection_tests.begin(row).id))

        dialog = Dialog(
            f"Test {row.slug}",
            "A worker asks the vendor for its list of models, once with each enabled credential. Nothing is embedded "
            "and nothing is billed.",
            "Test now",
        )
        return self.ask(request, row, dialog, act)

    def get_urls(self) -> list[URLPattern]:
        wrap = self.admin_site.admin_view
        return [
            path("<int:object_id>/tested/<uuid:test_id>/", wrap(self.tested), name="catalog_provider_tested"),
            path("<int:object_id>/tested/<uuid:test_id>/state/", wrap(self.test_state), name="catalog_provider_state"),
            *super().get_urls(),
        ]

    def tested(self, request: HttpRequest, object_id: int, test_id: UUID) -> HttpResponse:
        """Shows a test; the page asks `test_state` until it is done."""
        row = self._provider(request, object_id)
        poll = self.url("state", row.pk, test_id)
        return self.page(request, "admin/provider_test.html", row, {"title": f"Test of {row.slug}", "poll": poll})

    def test_state(self, request: HttpRequest, object_id: int, test_id: UUID) -> JsonResponse:
        """What is known by now, for the page."""
        row = self._provider(request, object_id)
        return how_it_stands(test_id, connection_tests.subject_of(row))

    def _provider(self, request: HttpRequest, object_id: int) -> Provider:
        if not self.has_change_permission(request):
            raise Http404
        return self.get_object(request, str(object_id))


class ModelsOfSpace(ShownRows):
    model = model_admin.EmbeddingModel
    fields = ("name", "provider", "dimensions", "shown_state")
    readonly_fields = fields
    verbose_name_plural = "models whose vectors are comparable"
    show_change_link = True

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows: QuerySet[Any] = super().get_queryset(request)
        return rows.select_related("provider")

    @display(description="state", label=TONES)
    def shown_state(self, row: Any) -> str:
        return str(row.state)


@admin.register(VectorSpace)
class VectorSpaceAdmin(HouseAdmin[VectorSpace]):
    """A space comes into being with the first model that names it."""

    list_display = ("slug", "epoch", "models_count", "created")
    search_fields = ("slug",)
    search_help_text = "Name of a space"
    ordering = ("slug",)  # counting drops the rows' own
    fields = ("slug", "epoch", "created_at")
    inlines = (ModelsOfSpace,)

    def get_queryset(self, request: HttpRequest) -> QuerySet[VectorSpace]:
        rows: QuerySet[VectorSpace] = super().get_queryset(request)
        return rows.annotate(models_=Count("models"))

    @admin.display(description="models", ordering="models_")
    def models_count(self, row: Any) -> int:
        return int(row.models_)

    @admin.display(description="since", ordering="created_at")
    def created(self, row: VectorSpace) -> str:
        return when(row.created_at)
