"""Admin of tenants' own credentials at providers: a door. Secrets go in and never come out."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib import admin
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect
from django.urls import URLPattern, path
from unfold.contrib.filters.admin import ChoicesDropdownFilter
from unfold.decorators import action, display

from catalog.admin_base import Dialog, RowForm, posted
from catalog.admin_credentials import SECRETS, SecretForm, how_it_stands, secret_field, secret_in
from catalog.admin_looks import TONES, when
from catalog.models import Provider
from providers.base import Kind
from tenants import own_credentials
from tenants.admin_scope import TenantScoped
from tenants.models import TenantCredential
from tenants.roles import Power

_PLACES = ("region", "project", "resource")
_FACTS = ("label", "use", "is_enabled", *_PLACES)


class OwnCredentialForm(RowForm):
    """With the fields of every kind of secret: which of them belong together, the service says."""

    api_key = secret_field("api_key")
    aws_access_key_id = secret_field("aws_access_key_id")
    aws_secret_access_key = secret_field("aws_secret_access_key")
    aws_session_token = secret_field("aws_session_token")
    service_account = secret_field("service_account")


@admin.register(TenantCredential)
class TenantCredentialAdmin(TenantScoped[TenantCredential]):
    adds = changes = removes = True
    power = Power.KEYS
    form = OwnCredentialForm
    labels = {"is_enabled": "Switched on", "use": "Serves"}
    list_display = ("name", "provider", "last_four", "use", "switch", "changed_at")
    list_filter = (("use", ChoicesDropdownFilter), "is_enabled")
    search_fields = ("label", "provider__slug")
    search_help_text = "Label or provider"
    list_select_related = ("provider",)
    readonly_fields = ("provider", "last_four", "created_at")
    actions_detail = ("test_credential", "replace_secret")
    fieldsets = (
        (None, {"fields": ("provider", "last_four", "created_at")}),
        ("Use", {"fields": ("label", "use", "is_enabled")}),
        ("Where it is valid", {"fields": _PLACES}),
    )
    add_fieldsets = (
        (
            None,
            {
                "fields": ("provider", "label", "use"),
                "description": "Requests of this tenant alone are called with it, and the provider bills you for them. "
                "They cost nothing here, and count in limits of tokens and requests as ever.",
            },
        ),
        (
            "Secret",
            {
                "fields": tuple(SECRETS),
                "description": "An API key, or the AWS keys for Bedrock, or a service account for Vertex. It is sealed "
                "as it is stored and cannot be read again, here or anywhere.",
            },
        ),
        ("Where it is valid", {"fields": _PLACES}),
    )

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return super().get_readonly_fields(request, obj) if obj is not None else ()

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        if db_field.name == "provider":
            kwargs["queryset"] = Provider.objects.exclude(kind=Kind.LOCAL.value)
        return super().formfield_for_foreignkey(db_field, request, **kwargs)

    @admin.display(description="label", ordering="label")
    def name(self, row: TenantCredential) -> str:
        return row.label or "no label"

    @admin.display(description="ends in")
    def last_four(self, row: TenantCredential) -> str:
        return f"…{row.hint}" if row.hint else "…"

    @display(description="switch", ordering="is_enabled", label=TONES)
    def switch(self, row: TenantCredential) -> str:
        return "enabled" if row.is_enabled else "disabled"

    @admin.display(description="changed", ordering="updated_at")
    def changed_at(self, row: TenantCredential) -> str:
        return when(row.updated_at)

    def add_row(self, request: HttpRequest, form: RowForm) -> TenantCredential:
        given = form.cleaned_data
        facts = {name: given[name] for name in ("label", "use", *_PLACES)}
        return own_credentials.add_credential(
            tenant_id=self.owner_id(request), provider=given["provider"].slug, secret=secret_in(given), **facts
        )

    def change_row(self, request: HttpRequest, row: TenantCredential, form: RowForm) -> None:
        own_credentials.change_credential(tenant_id=row.tenant_id, credential_id=row.id, **form.changed(*_FACTS))

    def remove_row(self, request: HttpRequest, row: TenantCredential) -> None:
        own_credentials.remove_credential(tenant_id=row.tenant_id, credential_id=row.id)

    @action(description="Replace secret", icon="key", permissions=["act"])
    def replace_secret(self, request: HttpRequest, object_id: str) -> HttpResponse:
        row = self.get_object(request, object_id)

        def act(given: dict[str, Any]) -> str:
            own_credentials.change_credential(tenant_id=row.tenant_id, credential_id=row.id, secret=given["secret"])
            return "The secret was replaced."

        dialog = Dialog(
            f"Replace the secret of {row}",
            "Requests are called with the new one within a second; the old one is forgotten.",
            "Replace",
        )
        return self.ask(request, row, dialog, act, SecretForm(posted(request), kind=Kind(row.provider.kind)))

    @action(description="Test", icon="network_check", permissions=["act"])
    def test_credential(self, request: HttpRequest, object_id: str) -> HttpResponse:
        row = self.get_object(request, object_id)

        def act(given: dict[str, Any]) -> HttpResponse:
            test = own_credentials.begin_test(tenant_id=row.tenant_id, credential_id=row.id)
            return redirect(self.url("tested", row.pk, test.id))

        dialog = Dialog(
            f"Test {row}",
            f"A worker asks {row.provider} for its list of models with it. Nothing is embedded and nothing is billed.",
            "Test now",
        )
        return self.ask(request, row, dialog, act)

    def get_urls(self) -> list[URLPattern]:
        wrap, name = self.admin_site.admin_view, "tenants_tenantcredential"
        return [
            path("<uuid:object_id>/tested/<uuid:test_id>/", wrap(self.tested), name=f"{name}_tested"),
            path("<uuid:object_id>/tested/<uuid:test_id>/state/", wrap(self.test_state), name=f"{name}_state"),
            *super().get_urls(),
        ]

    def tested(self, request: HttpRequest, object_id: UUID, test_id: UUID) -> HttpResponse:
        """Shows a test; the page asks `test_state` until it is done."""
        row = self._mine(request, object_id)
        poll = self.url("state", row.pk, test_id)
        return self.page(request, "admin/provider_test.html", row, {"title": f"Test of {row}", "poll": poll})

    def test_state(self, request: HttpRequest, object_id: UUID, test_id: UUID) -> JsonResponse:
        """What is known by now, for the page."""
        row = self._mine(request, object_id)
        return how_it_stands(test_id, own_credentials.subject_of(row), tenant_id=row.tenant_id)

    def _mine(self, request: HttpRequest, object_id: UUID) -> TenantCredential:
        if not self.has_act_permission(request):
            raise Http404
        return self.get_object(request, str(object_id))
