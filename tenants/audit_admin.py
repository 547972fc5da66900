"""Admin of the audit log: a door for reading. Operators see all of it, owners and admins their tenant's."""

from __future__ import annotations

import json
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from unfold.contrib.filters.admin import ChoicesDropdownFilter, DropdownFilter, RangeDateTimeFilter
from unfold.decorators import display

from audit.models import AuditEvent
from catalog.admin_base import is_operator
from catalog.admin_looks import NOTHING, code, table, when
from tenants.admin_scope import ScopedById
from tenants.current import may_read_log

# First words of actions, as a person would look for them.
_SUBJECTS = {
    "agent": "agents",
    "alert": "alerts",
    "alert_channel": "alert channels",
    "api_key": "API keys",
    "invitation": "invitations",
    "limit": "limits",
    "member": "members",
    "person": "people",
    "tenant": "tenants",
    "tenant_model": "tenants' models",
}
_PLATFORMS = {
    "breaker": "breakers",
    "discovery": "discovery",
    "model": "models of the catalogue",
    "price": "prices",
    "provider": "providers",
    "provider_credential": "credentials of providers",
    "timetable": "timetable",
}


class About(DropdownFilter):
    title = "what it was done to"
    parameter_name = "about"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return sorted((_SUBJECTS | (_PLATFORMS if is_operator(request) else {})).items(), key=lambda each: each[1])

    def queryset(self, request: HttpRequest, queryset: QuerySet[AuditEvent]) -> QuerySet[AuditEvent]:
        return queryset.filter(action__startswith=f"{self.value()}.") if self.value() else queryset


@admin.register(AuditEvent)
class AuditEventAdmin(ScopedById[AuditEvent]):
    list_display = ("at", "who", "action", "subject", "address")
    list_filter = (About, ("actor_kind", ChoicesDropdownFilter), ("created_at", RangeDateTimeFilter))
    search_fields = ("actor", "actor_id", "action", "subject_id", "address", "request_id")
    search_help_text = "Who, an action, an id, an address or a request"
    show_full_result_count = False
    sortable_by = ()
    fieldsets = (
        (None, {"fields": ("moment", "action", "subject")}),
        ("Who", {"fields": ("who", "actor_kind", "actor_id", "address", "request_id")}),
        ("What changed", {"fields": ("difference",)}),
    )
    readonly_fields = ("moment", "subject", "who", "difference")

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return may_read_log(request)

    @admin.display(description="at")
    def at(self, row: AuditEvent) -> str:
        return when(row.created_at)

    @admin.display(description="at (UTC)")
    def moment(self, row: AuditEvent) -> str:
        return f"{row.created_at:%Y-%m-%d %H:%M:%S.%f}"[:-3]

    @display(description="who")
    def who(self, row: AuditEvent) -> str:
        return row.actor

    @admin.display(description="to what")
    def subject(self, row: AuditEvent) -> str:
        return code(f"{row.subject_kind} {row.subject_id}".replace("_", " ").strip())

    @admin.display(description="before and after")
    def difference(self, row: AuditEvent) -> str:
        before, after = row.before or {}, row.after or {}
        found = ((name, _shown(before.get(name)), _shown(after.get(name))) for name in sorted({**before, **after}))
        return table(("", "before", "after"), found, empty="There is nothing to tell of it.")


def _shown(value: Any) -> str:
    if value is None:
        return NOTHING
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
