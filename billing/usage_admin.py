"""Admin of the ledger: usage rows and provider calls, read-only, the newest first. Doors.

The tables grow without end, so nothing here counts them, sorts them otherwise or searches in them: pages are turned up
to a limit, one request is found by its id, and filters look at a stated time.
Failure: a question that takes PostgreSQL longer than four seconds is given up, and the page says so.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from django.contrib import admin, messages
from django.db import OperationalError, connection, transaction
from django.db.models import OuterRef, Q, QuerySet, Subquery
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.functional import cached_property
from django.utils.html import format_html
from unfold import paginator
from unfold.contrib.filters.admin import DropdownFilter
from unfold.decorators import display

from billing.adjustments import ADJUSTMENT
from billing.models import ProviderCall, UsageRow
from billing.selectors import at_request, find_usage
from catalog.admin_base import is_operator
from catalog.admin_looks import code, money, short, table, when
from core.clock import utc_now
from tenants.admin_scope import ScopedById
from tenants.models import ApiKey

PAGES = 100
_PATIENCE_MS = 4_000
_TIMES = {
    "hour": ("the last hour", timedelta(hours=1)),
    "day": ("the last 24 hours", timedelta(days=1)),
    "week": ("the last 7 days", timedelta(days=7)),
    "month": ("the last 31 days", timedelta(days=31)),
}


class InfinitePaginator(paginator.InfinitePaginator):
    """The newest rows, as far as somebody turns pages; nothing is counted. Unfold's templates ask for this name."""

    @cached_property
    def count(self) -> int:
        return PAGES * int(self.per_page)


class Time(DropdownFilter):
    title = "time"
    parameter_name = "time"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(name, words) for name, (words, _) in _TIMES.items()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        _, span = _TIMES.get(self.value() or "", ("", None))
        if span is None:
            return queryset
        since = utc_now() - span
        # The ids begin with the time: said of both, either index ends the search.
        return queryset.filter(created_at__gte=since, id__gte=UUID(int=int(since.timestamp() * 1000) << 80))


class Outcome(DropdownFilter):
    title = "outcome"
    parameter_name = "outcome"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("ok", "ok"), ("failed", "failed")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        column = "status" if queryset.model is UsageRow else "outcome"
        is_ok = Q(**{column: "ok"})
        return {"ok": queryset.filter(is_ok), "failed": queryset.exclude(is_ok)}.get(self.value() or "", queryset)


class LedgerAdmin(ScopedById[Any]):
    """What both tables are shown like."""

    paginator = InfinitePaginator
    list_filter = (Time, Outcome)
    show_full_result_count = False
    sortable_by = ()
    search_fields = ("id",)  # makes the field appear; what is searched is below
    search_help_text = "Id of a request"

    def get_ordering(self, request: HttpRequest) -> tuple[str, ...]:
        return ("-id",)  # begins with the time, and has an index

    @admin.display(description="at")
    def at(self, row: Any) -> str:
        return when(row.created_at)

    @admin.display(description="at (UTC)")
    def moment(self, row: Any) -> str:
        return f"{row.created_at:%Y-%m-%d %H:%M:%S.%f}"[:-3]

    @admin.display(description="took")
    def took(self, row: Any) -> str:
        return f"{row.latency_ms:,.1f}\u00a0ms"

    @admin.display(description="tokens")
    def shown_tokens(self, row: Any) -> str:
        return "–" if row.tokens is None else f"{row.tokens:,}"

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        try:
            with transaction.atomic():
                with connection.cursor() as cursor:
                    cursor.execute("SET LOCAL statement_timeout = %s", [_PATIENCE_MS])
                answer: HttpResponse = super().changelist_view(request, extra_context)
                if hasattr(answer, "render"):
                    answer.render()  # here, where the time is limited and a failure is still ours
                return answer
        except OperationalError:
            said = "This takes too long. Choose a shorter time."
            self.message_user(request, said, messages.WARNING)
            is_shortest = request.GET.get("time") == "hour"
            return redirect("admin:index" if is_shortest else f"{self.url('changelist')}?time=hour")


@admin.register(UsageRow)
class UsageRowAdmin(LedgerAdmin):
    list_display = (
        "at",
        "model_name",
        "shown_status",
        "shown_tokens",
        "cost",
        "shown_cached",
        "took",
        "agent",
        "request_id",
    )
    fieldsets = (
        (None, {"fields": ("shown_id", "moment", "shown_status", "source", "task_type")}),
        ("Correction", {"fields": ("corrects_day", "reason")}),
        ("Who", {"fields": ("key", "agent_id")}),
        ("Answered by", {"fields": ("model", "provider", "space", "dimensions", "attempts")}),
        ("Charged", {"fields": ("items", "shown_cached", "shown_tokens", "estimated", "own_price", "paid_by", "cost")}),
        ("Time", {"fields": ("took", "provider_took")}),
        ("Calls to providers", {"fields": ("calls",)}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[UsageRow]:
        key = ApiKey.objects.filter(id=OuterRef("key_id"), tenant_id=OuterRef("tenant_id"))
        rows: QuerySet[UsageRow] = super().get_queryset(request)
        return rows.annotate(key_name=Subquery(key.values("name")[:1]))

    def get_ordering(self, request: HttpRequest) -> tuple[str, ...]:
        # A tenant's rows have an index of their own, in this order.
        return super().get_ordering(request) if is_operator(request) else ("-created_at", "-id")

    def get_fieldsets(self, request: HttpRequest, obj: UsageRow | None = None) -> Any:
        is_correction = obj is not None and obj.source == ADJUSTMENT
        return [each for each in super().get_fieldsets(request, obj) if is_correction or each[0] != "Correction"]

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        return (at_request(queryset, _id(search_term)) if search_term.strip() else queryset), False

    @admin.display(description="model")
    def model_name(self, row: UsageRow) -> str:
        return row.model or "no model chosen"

    @display(description="outcome", label={"ok": "success"})
    def shown_status(self, row: UsageRow) -> str:
        return row.status

    @admin.display(description="cost")
    def cost(self, row: UsageRow) -> str:
        return money(row.cost_usd)

    @admin.display(description="from the cache")
    def shown_cached(self, row: UsageRow) -> str:
        return f"{row.cached} of {row.items}"

    @admin.display(description="agent")
    def agent(self, row: UsageRow) -> str:
        return row.agent_id or "–"

    @admin.display(description="request")
    def request_id(self, row: UsageRow) -> str:
        return short(row.id)

    @admin.display(description="request")
    def shown_id(self, row: UsageRow) -> str:
        return code(row.id)

    @admin.display(description="key")
    def key(self, row: Any) -> str:
        return row.key_name or "–"

    @admin.display(description="of it, the provider")
    def provider_took(self, row: UsageRow) -> str:
        return f"{row.provider_latency_ms:,.1f}\u00a0ms"

    @admin.display(description="calls")
    def calls(self, row: UsageRow) -> str:
        _, found = find_usage(row.tenant_id, row.id)
        heads = ("model", "provider", "outcome", "texts", "tokens", "took", "what it said")
        cells = (
            (
                each.model,
                each.provider,
                each.outcome,
                each.items,
                self.shown_tokens(each),
                self.took(each),
                each.detail or "–",
            )
            for each in found
        )
        return table(heads, cells, empty="None: the cache answered, or nothing was sent.")


@admin.register(ProviderCall)
class ProviderCallAdmin(LedgerAdmin):
    list_display = ("at", "shown_model", "shown_outcome", "texts", "shown_tokens", "took", "detail", "link")
    search_help_text = "Id of a request"
    fieldsets = (
        (None, {"fields": ("moment", "of_request", "shown_outcome", "status", "detail")}),
        ("Called", {"fields": ("provider", "model", "items", "shown_tokens", "took", "upstream_id")}),
    )

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        return (queryset.filter(request_id=_id(search_term)) if search_term.strip() else queryset), False

    @admin.display(description="called")
    def shown_model(self, row: ProviderCall) -> str:
        return f"{row.provider}/{row.model}"

    @display(description="outcome", label={"ok": "success"})
    def shown_outcome(self, row: ProviderCall) -> str:
        return row.outcome

    @admin.display(description="texts")
    def texts(self, row: ProviderCall) -> int:
        return row.items

    @admin.display(description="request")
    def of_request(self, row: ProviderCall) -> str:
        return self._linked(row, code(row.request_id))

    @admin.display(description="request")
    def link(self, row: ProviderCall) -> str:
        return self._linked(row, short(row.request_id))

    def _linked(self, row: ProviderCall, text: str) -> str:
        url = reverse(f"{self.admin_site.name}:billing_usagerow_change", args=[row.request_id])
        return format_html('<a class="text-link" href="{}">{}</a>', url, text)


def _id(text: str) -> UUID:
    """The id that was searched for; one that nobody has for anything else."""
    try:
        return UUID(text.strip())
    except ValueError:
        return UUID(int=0)
