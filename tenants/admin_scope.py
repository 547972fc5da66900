"""Whose rows somebody sees in the admin: members those of their current tenant, operators all.

Every admin of a tenant-owned row is a `TenantScoped`: its lists, look-ups, foreign keys, autocompletes, filters and
actions all start from `get_queryset`. What a member may change is `tenants.roles`; an operator says first whom a new
row is for.
"""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar
from uuid import UUID

from django import forms
from django.contrib import admin
from django.contrib.admin.widgets import AutocompleteSelect
from django.core.exceptions import PermissionDenied
from django.db import models
from django.db.models import OuterRef, QuerySet, Subquery
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from unfold.contrib.filters.admin import AutocompleteSelectFilter, DropdownFilter

from catalog.admin_base import Dialog, HouseAdmin, is_operator
from tenants.current import current_tenant, has_power
from tenants.models import Membership, Tenant
from tenants.roles import Power

Row = TypeVar("Row", bound=models.Model)
PLATFORM = "platform"  # in the address of an "add" page: for no tenant


class OfTenant(DropdownFilter):
    title = "tenant"
    parameter_name = "tenant"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(str(key), name) for key, name in Tenant.objects.order_by("name").values_list("id", "name")[:200]]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        try:
            return queryset.filter(tenant_id=UUID(self.value())) if self.value() else queryset
        except ValueError:
            return queryset.none()


class TenantScoped(HouseAdmin[Row]):
    """An admin of rows that belong to a tenant."""

    tenant_path: ClassVar[str] = "tenant_id"
    power: ClassVar[Power | None] = None  # None: nobody changes these rows
    is_platforms_too: ClassVar[bool] = False  # whether a row may belong to no tenant

    def get_queryset(self, request: HttpRequest) -> QuerySet[Row]:
        rows: QuerySet[Row] = super().get_queryset(request)
        if is_operator(request):
            return rows
        tenant = current_tenant(request)
        return rows.none() if tenant is None else rows.filter(**{self.tenant_path: tenant.id})

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return is_operator(request) or current_tenant(request) is not None

    def has_add_permission(self, request: HttpRequest) -> bool:
        return self.adds and self._may(request)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self.changes and self._may(request)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self.removes and self._may(request)

    def has_act_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """For actions on rows that are otherwise only read."""
        return self._may(request)

    def _may(self, request: HttpRequest) -> bool:
        return self.power is not None and has_power(request, self.power)

    def get_list_display(self, request: HttpRequest) -> Any:
        shown = super().get_list_display(request)
        return (shown[0], "tenant", *shown[1:]) if is_operator(request) else shown

    def get_list_filter(self, request: HttpRequest) -> Any:
        own = super().get_list_filter(request)
        return (*own, ("tenant", AutocompleteSelectFilter)) if is_operator(request) else own

    def get_list_select_related(self, request: HttpRequest) -> Any:
        return (*super().get_list_select_related(request), "tenant")

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        sets = super().get_fieldsets(request, obj)
        if obj is None or not is_operator(request):
            return sets
        (title, options), *rest = sets
        return ((title, options | {"fields": ("tenant", *options["fields"])}), *rest)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return (*super().get_readonly_fields(request, obj), "tenant")

    # Whom a new row is for.

    def owner(self, request: HttpRequest, row: Any = None) -> Tenant | None:
        """The tenant of a row, or the one that a new row is for: a member's own, an operator's choice."""
        if row is not None:
            found: Tenant | None = row.tenant
            return found
        if not is_operator(request):
            return current_tenant(request)
        try:
            return Tenant.objects.filter(id=UUID(request.GET.get("tenant", ""))).first()
        except ValueError:
            return None

    def owner_id(self, request: HttpRequest) -> UUID:
        """The tenant that a new row is for, where there must be one."""
        tenant = self.owner(request)
        if tenant is None:
            raise PermissionDenied
        return tenant.id

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> HttpResponse:
        if not self.has_add_permission(request):
            raise PermissionDenied
        tenant = self.owner(request)
        is_platforms = self.is_platforms_too and is_operator(request) and request.GET.get("tenant") == PLATFORM
        if tenant is None and not is_platforms:
            return self._ask_whose(request)
        name = "the platform" if tenant is None else tenant.name
        words = {"subtitle": f"for {name}"} if is_operator(request) else {}
        answer: HttpResponse = super().add_view(request, form_url, words | (extra_context or {}))
        return answer

    def _ask_whose(self, request: HttpRequest) -> HttpResponse:
        field = Membership._meta.get_field("tenant")
        form = forms.Form()
        form.fields["tenant"] = forms.ModelChoiceField(
            queryset=Tenant.objects.all(), widget=AutocompleteSelect(field, self.admin_site)
        )
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": f"Add {self.opts.verbose_name}",
            "dialog": Dialog(f"Add {self.opts.verbose_name}", f"Whom is this {self.opts.verbose_name} for?", "Go on"),
            "form": form,
            "media": form.media,
            "method": "get",
            "back": self.url("changelist"),
            "other_way": ("For the platform itself", f"?tenant={PLATFORM}") if self.is_platforms_too else None,
        }
        return TemplateResponse(request, "admin/dialog.html", context)


class ScopedById(TenantScoped[Row]):
    """The same for rows that outlive what they are about, and so name their tenant by its id alone. Only shown."""

    def get_queryset(self, request: HttpRequest) -> QuerySet[Row]:
        tenant = Tenant.objects.filter(id=OuterRef("tenant_id"))
        rows: Any = super().get_queryset(request).annotate(tenant_name=Subquery(tenant.values("name")[:1]))
        return rows

    def get_list_filter(self, request: HttpRequest) -> Any:
        return (*self.list_filter, OfTenant) if is_operator(request) else self.list_filter

    def get_list_display(self, request: HttpRequest) -> Any:
        shown = HouseAdmin.get_list_display(self, request)
        return (shown[0], "tenant", *shown[1:]) if is_operator(request) else shown

    def get_list_select_related(self, request: HttpRequest) -> Any:
        return False

    def owner(self, request: HttpRequest, row: Any = None) -> Tenant | None:
        return None

    @admin.display(description="tenant")
    def tenant(self, row: Any) -> str:
        return row.tenant_name or str(row.tenant_id or "the platform")
