"""Admin of API keys: a door. A key's text is on one page, right after it was made; only its digest is kept."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from ipaddress import ip_network
from typing import Any, ClassVar

from django import forms
from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from unfold.contrib.filters.admin import DropdownFilter
from unfold.decorators import action, display
from unfold.widgets import (
    UnfoldAdminCheckboxSelectMultipleWidget,
    UnfoldAdminExpandableTextareaWidget,
    UnfoldAdminIntegerFieldWidget,
    UnfoldAdminSelect2MultipleWidget,
    UnfoldAdminSplitDateTimeWidget,
    UnfoldAdminTextInputWidget,
)

from catalog.admin_base import Dialog, RowForm, posted
from catalog.admin_looks import TONES, code, when, words
from core.clock import utc_now
from tenants import minting
from tenants.admin_scope import TenantScoped
from tenants.models import ApiKey, User
from tenants.rights import Rights
from tenants.roles import Power
from tenants.scopes import TENANT_SCOPES, Scope
from tenants.selectors import configured_models

_SAYS = {
    Scope.EMBEDDINGS: "embed texts",
    Scope.MODELS_READ: "list models",
    Scope.MODELS_WRITE: "configure models",
    Scope.USAGE_READ: "read usage and limits",
    Scope.BILLING_WRITE: "change limits and budgets",
    Scope.AGENTS_WRITE: "register agents",
    Scope.KEYS_WRITE: "create and revoke keys",
    Scope.COLLECTIONS_READ: "search collections",
    Scope.COLLECTIONS_WRITE: "fill collections",
    Scope.ADMIN: "everything of the tenant",
    Scope.OPERATOR: "everything of the platform",
}


class Networks(forms.CharField):
    """Addresses and ranges, one in a line."""

    def to_python(self, value: Any) -> Any:
        try:
            return [str(ip_network(part)) for part in (super().to_python(value) or "").split()]
        except ValueError as error:
            raise forms.ValidationError(f"{error}; write an address or a range such as 10.0.0.0/8.") from error


class KeyForm(RowForm):
    service_names = {"models": "models_allowed"}
    offered_scopes: ClassVar[frozenset[Scope]] = frozenset()
    offered_models: ClassVar[Sequence[str]] = ()
    scopes = forms.MultipleChoiceField(widget=UnfoldAdminCheckboxSelectMultipleWidget)
    models_allowed = forms.MultipleChoiceField(
        label="Models",
        required=False,
        widget=UnfoldAdminSelect2MultipleWidget,
        help_text="Empty: all models that the tenant has configured, now and later.",
    )
    networks = Networks(
        required=False,
        widget=UnfoldAdminExpandableTextareaWidget,
        help_text="Addresses that it may be used from, one in a line, such as 10.0.0.0/8. Empty: from anywhere.",
    )
    agent_id = forms.CharField(
        label="Agent",
        required=False,
        max_length=200,
        widget=UnfoldAdminTextInputWidget,
        help_text="Binds the key to it.",
    )
    expires_at = forms.SplitDateTimeField(
        label="Expires at (UTC)", required=False, widget=UnfoldAdminSplitDateTimeWidget, help_text="Empty: never."
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "scopes" in self.fields:
            said = [(each.value, f"{each.value}: {_SAYS[each]}") for each in Scope if each in self.offered_scopes]
            self.fields["scopes"].choices = said  # type: ignore[attr-defined]
            self.fields["models_allowed"].choices = [(each, each) for each in self.offered_models]  # type: ignore[attr-defined]


class RotateForm(forms.Form):
    overlap_seconds = forms.IntegerField(
        min_value=0,
        max_value=minting.MAX_OVERLAP // timedelta(seconds=1),
        initial=3600,
        widget=UnfoldAdminIntegerFieldWidget,
        help_text="How long the old key goes on working. 0: it ends at once.",
    )


class Standing(DropdownFilter):
    title = "standing"
    parameter_name = "standing"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("active", "active"), ("ended", "expired or revoked")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> QuerySet[ApiKey]:
        ended = Q(revoked_at__isnull=False) | Q(expires_at__lte=utc_now())
        return {"active": queryset.exclude(ended), "ended": queryset.filter(ended)}.get(self.value() or "", queryset)


@admin.register(ApiKey)
class ApiKeyAdmin(TenantScoped[ApiKey]):
    adds = True
    power = Power.KEYS
    is_platforms_too = True
    form = KeyForm
    list_display = ("name", "shown_prefix", "shown_scopes", "standing", "ends", "used", "created")
    list_filter = (Standing,)
    search_fields = ("name", "prefix")
    search_help_text = "Name, or the beginning of the key"
    list_select_related = ("created_by",)
    actions_detail = ("rotate", "revoke")
    fieldsets = (
        (None, {"fields": ("name", "shown_prefix", "standing", "maker", "created_at", "used")}),
        ("Rights", {"fields": ("shown_scopes", "shown_models", "shown_networks", "agent_id", "expires_at")}),
    )
    add_fieldsets = (
        (None, {"fields": ("name", "scopes"), "description": "The key itself is shown on the next page, once."}),
        ("Narrower", {"fields": ("models_allowed", "networks", "agent_id", "expires_at")}),
    )

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        form = super().get_form(request, obj, change, **kwargs)
        if obj is not None:
            return form
        tenant = self.owner(request)
        names = configured_models(tenant.id).values_list("model__name", flat=True) if tenant else ()
        scopes = TENANT_SCOPES if tenant else frozenset(Scope)
        return type(form.__name__, (form,), {"offered_scopes": scopes, "offered_models": sorted(set(names))})

    @admin.display(description="begins with", ordering="prefix")
    def shown_prefix(self, row: ApiKey) -> str:
        return code(f"{row.prefix}…")

    @admin.display(description="scopes")
    def shown_scopes(self, row: ApiKey) -> str:
        return words(row.scopes)

    @admin.display(description="models")
    def shown_models(self, row: ApiKey) -> str:
        return words(row.models_allowed) if row.models_allowed else "all of the tenant's"

    @admin.display(description="networks")
    def shown_networks(self, row: ApiKey) -> str:
        return words(row.networks) if row.networks else "from anywhere"

    @display(description="standing", label=TONES)
    def standing(self, row: ApiKey) -> str:
        if row.revoked_at is not None:
            return "revoked"
        return "expired" if row.expires_at is not None and row.expires_at <= utc_now() else "active"

    @admin.display(description="expires", ordering="expires_at")
    def ends(self, row: ApiKey) -> str:
        return when(row.expires_at) if row.expires_at else "never"

    @admin.display(description="made by")
    def maker(self, row: ApiKey) -> str:
        if row.created_by is None:
            return "a program" if row.created_with_id else "the platform"
        return "the platform's operator" if row.created_by.is_superuser else row.created_by.email

    @admin.display(description="last used", ordering="last_used_at")
    def used(self, row: ApiKey) -> str:
        return when(row.last_used_at) if row.last_used_at else "never"

    @admin.display(description="created", ordering="created_at")
    def created(self, row: ApiKey) -> str:
        return when(row.created_at)

    def add_row(self, request: HttpRequest, form: RowForm) -> ApiKey:
        given = form.cleaned_data
        tenant = self.owner(request)
        rights = Rights(
            scopes=frozenset(given["scopes"]),
            models=frozenset(given["models_allowed"]),
            networks=tuple(ip_network(each) for each in given["networks"]),
            agent_id=given["agent_id"],
            expires_at=given["expires_at"],
        )
        row, text = minting.mint_key(
            tenant_id=None if tenant is None else tenant.id,
            name=given["name"],
            rights=rights,
            created_by=_person(request),
        )
        request._quiver_key = text  # type: ignore[attr-defined]  # for `response_add`, and for nothing after it
        return row

    def response_add(self, request: HttpRequest, obj: ApiKey, post_url_continue: Any = None) -> HttpResponse:
        return self._shown(request, obj, request._quiver_key)  # type: ignore[attr-defined]

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> Any:
        is_active = self.standing(self.get_object(request, object_id)) == "active"
        return super().get_actions_detail(request, object_id) if is_active else []

    @action(description="Rotate", icon="autorenew", permissions=["act"])
    def rotate(self, request: HttpRequest, object_id: str) -> HttpResponse:
        row = self.get_object(request, object_id)

        def act(given: dict[str, Any]) -> HttpResponse:
            overlap = timedelta(seconds=given["overlap_seconds"])
            new, text = minting.rotate_key(key_id=row.id, tenant_id=row.tenant_id, overlap=overlap, by=_person(request))
            return self._shown(request, new, text)

        dialog = Dialog(
            f"Rotate {row.name}",
            "A new key with the same rights takes its place and is shown on the next page, once. The old one goes on "
            "working for a while, so that your programs can change over.",
            "Rotate",
        )
        return self.ask(request, row, dialog, act, RotateForm(posted(request)))

    @action(description="Revoke", icon="key_off", permissions=["act"])
    def revoke(self, request: HttpRequest, object_id: str) -> HttpResponse:
        row = self.get_object(request, object_id)

        def act(given: dict[str, Any]) -> str:
            minting.revoke_key(key_id=row.id, tenant_id=row.tenant_id, by=_person(request))
            return f"{row.name} was revoked."

        dialog = Dialog(
            f"Revoke {row.name}",
            "It is refused within seconds, everywhere, and so are the keys that it made, a successor that it made of "
            "itself among them. This cannot be undone.",
            "Revoke",
            is_dangerous=True,
        )
        return self.ask(request, row, dialog, act)

    def _shown(self, request: HttpRequest, row: ApiKey, text: str) -> HttpResponse:
        said = "Put it where your program reads its secrets."
        return self.show_once(request, row, title=f"The key {row.name}", text=said, secret=text)


def _person(request: HttpRequest) -> User:
    assert isinstance(request.user, User)
    return request.user
