"""Admin of tenants: a door. Operators see all of them, add and suspend; members see their own and change what is theirs
to set. People are `tenants.people_admin`, keys `tenants.key_admin`; a tenant's models are billing's, for their limits.
"""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import Count, QuerySet
from django.http import HttpRequest, HttpResponse
from unfold.contrib.filters.admin import ChoicesDropdownFilter
from unfold.decorators import action, display
from unfold.widgets import (
    UnfoldAdminDecimalFieldWidget,
    UnfoldAdminIntegerFieldWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextInputWidget,
    UnfoldBooleanSwitchWidget,
)

from catalog.admin_base import Decimals, Dialog, HouseAdmin, Numbers, RowForm, is_operator
from catalog.admin_looks import TONES, when
from tenants import audit_admin, credential_admin, key_admin, people_admin, services
from tenants import settings as tenant_settings
from tenants.current import current_tenant, has_power
from tenants.models import Tenant
from tenants.roles import Power

__all__ = ["TenantAdmin", "audit_admin", "credential_admin", "key_admin", "people_admin"]


SETTINGS = (
    "unpriced_allowed",
    "fallback",
    "cache_enabled",
    "cache_ttl_s",
    "cache_hit_cost_per_million_tokens",
    "thresholds",
    "retention_days",
)


class TenantForm(RowForm):
    unpriced_allowed = forms.BooleanField(
        label="Models without a price may be used",
        required=False,
        widget=UnfoldBooleanSwitchWidget,
        help_text="They are not charged. Otherwise they are refused until somebody gives them a price.",
    )
    fallback = forms.TypedChoiceField(
        label="When a model cannot answer",
        required=False,
        choices=[
            ("auto", "auto: others of its space, then the fallback written down for it"),
            ("space", "space: others of its space alone"),
            ("none", "none: nobody else"),
        ],
        empty_value="auto",
        widget=UnfoldAdminSelectWidget,
        help_text="For requests that say nothing of it.",
    )

    cache_enabled = forms.BooleanField(
        label="Answer from the cache",
        required=False,
        widget=UnfoldBooleanSwitchWidget,
        help_text="A text that was embedded lately is not sent to a provider again. No tenant gets another's vectors.",
    )
    cache_ttl_s = forms.IntegerField(
        label="Seconds to keep vectors",
        required=False,
        min_value=1,
        max_value=tenant_settings.MOST_CACHE_TTL_S,
        widget=UnfoldAdminIntegerFieldWidget,
    )
    cache_hit_cost_per_million_tokens = Decimals(
        label="Price of cached tokens",
        required=False,
        min_value=0,
        max_value=tenant_settings.MOST_HIT_COST,
        decimal_places=9,
        widget=UnfoldAdminDecimalFieldWidget,
        help_text="USD per million tokens that are answered from the cache.",
    )
    thresholds = Numbers(
        label="Tell of limits at",
        required=False,
        widget=UnfoldAdminTextInputWidget,
        help_text="Percentages at which somebody is told, where a limit itself names none, such as 80, 90, 95, 100.",
    )

    retention_days = forms.IntegerField(
        label="Days to keep single requests",
        required=False,
        min_value=tenant_settings.LEAST_RETENTION_DAYS,
        max_value=tenant_settings.MOST_RETENTION_DAYS,
        widget=UnfoldAdminIntegerFieldWidget,
        help_text="Older ones are deleted each night, with their calls to providers, for good. Sums of usage stay; a "
        "price that is corrected later no longer corrects them. Empty: as long as the platform keeps them.",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        now = tenant_settings.parse(self.instance.settings or {})
        self.initial.update({name: getattr(now, name) for name in SETTINGS}, thresholds=list(now.thresholds))
        for name in ("cache_ttl_s", "cache_hit_cost_per_million_tokens"):
            if name in self.fields:  # who adds a tenant is not asked
                self.fields[name].required = True


@admin.register(Tenant)
class TenantAdmin(HouseAdmin[Tenant]):
    adds = changes = True
    form = TenantForm
    list_display = ("name", "slug", "shown_tier", "standing", "models_count", "people_count", "created")
    list_filter = (("tier", ChoicesDropdownFilter), "is_suspended")
    search_fields = ("name", "slug")
    search_help_text = "Name or slug"
    actions_detail = ("suspend", "unsuspend")
    ordering = ("slug",)  # counting drops the rows' own
    readonly_fields = ("standing", "created_at")
    fieldsets = (
        (None, {"fields": ("name", "slug", "tier", "standing", "created_at")}),
        ("Settings", {"fields": SETTINGS}),
    )
    add_fieldsets = (
        (None, {"fields": ("name", "slug", "tier"), "description": "Invite its owner afterwards, under Invitations."}),
    )

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return is_operator(request) or current_tenant(request) is not None

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return has_power(request, Power.SETTINGS)

    def has_suspend_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return is_operator(request)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Tenant]:
        rows: QuerySet[Tenant] = super().get_queryset(request)
        rows = rows.annotate(models_=Count("models", distinct=True), people_=Count("memberships", distinct=True))
        if is_operator(request):
            return rows
        own = current_tenant(request)
        return rows.none() if own is None else rows.filter(id=own.id)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        fixed = ("slug",) if is_operator(request) else ("slug", "tier")
        return (*self.readonly_fields, *(fixed if obj else ()))

    @display(description="tier", ordering="tier", label=True)
    def shown_tier(self, row: Tenant) -> str:
        return row.tier

    @display(description="standing", ordering="is_suspended", label=TONES)
    def standing(self, row: Tenant) -> str:
        return "suspended" if row.is_suspended else "active"

    @admin.display(description="models", ordering="models_")
    def models_count(self, row: Any) -> int:
        return int(row.models_)

    @admin.display(description="people", ordering="people_")
    def people_count(self, row: Any) -> int:
        return int(row.people_)

    @admin.display(description="since", ordering="created_at")
    def created(self, row: Tenant) -> str:
        return when(row.created_at)

    def add_row(self, request: HttpRequest, form: RowForm) -> Tenant:
        given = form.cleaned_data
        return services.add_tenant(name=given["name"], slug=given["slug"], tier=given["tier"])

    def change_row(self, request: HttpRequest, row: Tenant, form: RowForm) -> None:
        changes = form.changed("name", "tier")
        if settings := form.changed(*SETTINGS):
            changes["settings"] = settings
        services.change_tenant(tenant_id=row.id, **changes)

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> Any:
        found = super().get_actions_detail(request, object_id)
        unfit = "suspend" if self.get_object(request, object_id).is_suspended else "unsuspend"
        return [each for each in found if each.path != unfit]

    @action(description="Suspend", icon="block", permissions=["suspend"])
    def suspend(self, request: HttpRequest, object_id: str) -> HttpResponse:
        row = self.get_object(request, object_id)
        dialog = Dialog(
            f"Suspend {row.name}",
            "Its keys are refused within a second, and its people can only read. Nothing is deleted; it can be undone.",
            "Suspend",
            is_dangerous=True,
        )
        return self.ask(request, row, dialog, lambda _: self._set_suspended(row, True))

    @action(description="Lift suspension", icon="check_circle", permissions=["suspend"])
    def unsuspend(self, request: HttpRequest, object_id: str) -> HttpResponse:
        row = self.get_object(request, object_id)
        dialog = Dialog(f"Lift the suspension of {row.name}", "Its keys work again within a second.", "Lift suspension")
        return self.ask(request, row, dialog, lambda _: self._set_suspended(row, False))

    def _set_suspended(self, row: Tenant, is_suspended: bool) -> str:
        services.change_tenant(tenant_id=row.id, is_suspended=is_suspended)
        return f"{row.name} is {'suspended' if is_suspended else 'active'} now."
