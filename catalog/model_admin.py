"""Admin of embedding models and their prices: doors. Operators look after the catalogue; tenants' people read of it
what they may configure, and no more: no draft, no address, no source of a price.
"""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from unfold.contrib.filters.admin import AutocompleteSelectFilter, ChoicesDropdownFilter
from unfold.decorators import action, display

from catalog import lifecycle, moves, services
from catalog.admin_base import Dialog, HouseAdmin, RowForm, ShownRows, is_operator, posted
from catalog.admin_looks import TONES, money, per_million, when
from catalog.model_forms import ModelForm, MoveForm, PriceForm, SunsetForm
from catalog.models import EmbeddingModel, Price, State
from catalog.selectors import SHOWN_TO_TENANTS, price_now
from catalog.tasks import validate_model
from core.clock import utc_now

_FROZEN = ("name", "identifier", "dimensions")  # in a released row; its space as well
_DETAILS = (
    "allowed_dimensions",
    "max_tokens",
    "tokenizer",
    "model_type",
    "model_version",
    "capabilities",
    "quality_score",
    "minimum_tier",
)


class PriceRows(ShownRows):
    model = Price
    fields = ("amount", "effective_from", "source", "reason")
    readonly_fields = fields
    verbose_name_plural = "prices, the newest first (USD per million tokens)"

    @admin.display(description="price")
    def amount(self, row: Price) -> str:
        return per_million(row.cost_per_million_tokens)


@admin.register(EmbeddingModel)
class EmbeddingModelAdmin(HouseAdmin[EmbeddingModel]):
    adds = changes = removes = True
    form = ModelForm
    list_display = ("name", "provider", "space", "dimensions", "price", "shown_state", "updated")
    list_filter = (("state", ChoicesDropdownFilter), ("provider", AutocompleteSelectFilter), "tokenizer")
    list_select_related = ("provider", "space")
    search_fields = ("name", "identifier", "space__slug")
    search_help_text = "Name, the vendor's identifier, or vector space"
    autocomplete_fields = ("provider",)
    inlines = (PriceRows,)
    actions_detail = ("move", "change_sunset", "validate", "add_price")
    _identity = (None, {"fields": ("provider", "name", "identifier", "space_name", "dimensions")})
    _abilities = ("What it takes", {"fields": ("max_tokens", "tokenizer", "allowed_dimensions", "capabilities")})
    _description = ("Description", {"fields": ("model_type", "model_version", "quality_score", "minimum_tier")})
    _life = (
        "Life",
        {
            "fields": (
                "shown_state",
                "state_reason",
                "unavailable_cause",
                "validated_at",
                "cuts",
                "deprecated_at",
                "sunset_at",
                "successor",
                "price",
                "created_at",
            )
        },
    )
    fieldsets = (_identity, _life, _abilities, _description)
    _glimpse = (
        (
            None,
            {"fields": ("name", "shown_provider", "shown_space", "dimensions", "widths", "max_tokens", "price")},
        ),
        ("Life", {"fields": ("shown_state", "deprecated_at", "sunset_at", "shown_successor")}),
    )
    add_fieldsets = (
        (None, _identity[1] | {"description": "A new model is a draft, until it is moved on."}),
        ("Price", {"fields": ("cost_per_million_tokens",)}),
        _abilities,
        _description,
    )
    readonly_fields = (*_life[1]["fields"],)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.is_authenticated and request.user.is_active

    def get_queryset(self, request: HttpRequest) -> QuerySet[EmbeddingModel]:
        rows: QuerySet[EmbeddingModel] = super().get_queryset(request)
        rows = rows.select_related("provider", "space").prefetch_related("prices")
        return rows if is_operator(request) else rows.filter(state__in=SHOWN_TO_TENANTS)

    def get_list_display(self, request: HttpRequest) -> Any:
        return self.list_display if is_operator(request) else self.list_display[:-1]

    def get_list_filter(self, request: HttpRequest) -> Any:
        return self.list_filter if is_operator(request) else self.list_filter[:1]

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        if not is_operator(request):
            return self._glimpse
        if _is_released(obj):
            return ((None, {"fields": ("provider", "name", "identifier", "space", "dimensions")}), *self.fieldsets[1:])
        return super().get_fieldsets(request, obj)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return (
            *self.readonly_fields,
            *(("provider",) if obj else ()),
            *((*_FROZEN, "space") if _is_released(obj) else ()),
        )

    def get_inlines(self, request: HttpRequest, obj: Any) -> Any:
        return self.inlines if obj and is_operator(request) else ()

    @admin.display(description="price per million tokens")
    def price(self, row: EmbeddingModel) -> str:
        return per_million(price_now(row, utc_now()))

    @display(description="state", ordering="state", label=TONES)
    def shown_state(self, row: EmbeddingModel) -> str:
        return row.state

    # Words instead of links: these rows have no page for a tenant's people.

    @admin.display(description="provider")
    def shown_provider(self, row: EmbeddingModel) -> str:
        return row.provider.slug

    @admin.display(description="vector space")
    def shown_space(self, row: EmbeddingModel) -> str:
        return row.space.slug

    @admin.display(description="other widths")
    def widths(self, row: EmbeddingModel) -> str:
        return ", ".join(map(str, row.allowed_dimensions)) or "–"

    @admin.display(description="successor")
    def shown_successor(self, row: EmbeddingModel) -> str:
        return row.successor.name if row.successor and row.successor.state in SHOWN_TO_TENANTS else "–"

    @admin.display(description="changed", ordering="updated_at")
    def updated(self, row: EmbeddingModel) -> str:
        return when(row.updated_at)

    def add_row(self, request: HttpRequest, form: RowForm) -> EmbeddingModel:
        given = form.cleaned_data
        facts = {
            name: given[name] for name in ("name", "identifier", "dimensions", "cost_per_million_tokens", *_DETAILS)
        }
        if given["space_name"]:
            facts["space"] = given["space_name"]
        return services.add_model(provider=given["provider"].slug, **facts)

    def change_row(self, request: HttpRequest, row: EmbeddingModel, form: RowForm) -> None:
        facts = form.changed("name", "identifier", "dimensions", *_DETAILS)
        if form.cleaned_data.get("space_name") and "space_name" in form.changed_data:
            facts["space"] = form.cleaned_data["space_name"]
        services.change_model(model_id=row.pk, **facts)

    def remove_row(self, request: HttpRequest, row: EmbeddingModel) -> None:
        services.remove_model(model_id=row.pk, actor=str(request.user))

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> Any:
        found = super().get_actions_detail(request, object_id)
        row = self.get_object(request, object_id)
        is_end = not lifecycle.legal_moves(row.state)
        hidden = {"move", "validate"} if is_end else set()
        if row.state != State.DEPRECATED:
            hidden.add("change_sunset")
        return [each for each in found if each.path not in hidden]

    @action(description="Move state", icon="moving", permissions=["change"])
    def move(self, request: HttpRequest, object_id: str) -> HttpResponse:
        row = self.get_object(request, object_id)

        def act(given: dict[str, Any]) -> str:
            successor = given.get("successor")
            moved = services.move_model(
                model_id=row.pk,
                to=given["to"],
                reason=given["reason"],
                actor=str(request.user),
                sunset_at=given.get("sunset_at"),
                successor=successor and successor.pk,
                force=given.get("force", False),
            )
            return f"{moved.name} is {moved.state} now."

        dialog = Dialog(
            f"Move {row.name}",
            f"The model is {row.state}. Tenants that use it see the change within a second.",
            "Move",
        )
        return self.ask(request, row, dialog, act, MoveForm(posted(request), row=row))

    @action(description="Change its end", icon="event", permissions=["change"])
    def change_sunset(self, request: HttpRequest, object_id: str) -> HttpResponse:
        row = self.get_object(request, object_id)

        def act(given: dict[str, Any]) -> str:
            successor = given["successor"]
            moves.change_sunset(
                model_id=row.pk,
                sunset_at=given["sunset_at"],
                successor=successor and successor.pk,
                reason=given["reason"],
                actor=str(request.user),
            )
            return f"{row.name} ends on {given['sunset_at']:%Y-%m-%d %H:%M} UTC now."

        dialog = Dialog(f"Change the end of {row.name}", "Tenants that use it are told anew.", "Change")
        return self.ask(request, row, dialog, act, SunsetForm(posted(request), row=row))

    @action(description="Validate", icon="rule", permissions=["change"])
    def validate(self, request: HttpRequest, object_id: str) -> HttpResponse:
        row = self.get_object(request, object_id)

        def act(given: dict[str, Any]) -> str:
            transaction.on_commit(lambda: validate_model.delay(str(row.pk), str(request.user)))
            return "A worker asks the probe texts; what it finds is among the model checks in a moment."

        dialog = Dialog(
            f"Validate {row.name}",
            "24 probe texts are embedded by the provider, at the platform's cost. A released model whose vectors are "
            "not those of its space any more is taken out.",
            "Validate now",
        )
        return self.ask(request, row, dialog, act)

    @action(description="Add price", icon="payments", permissions=["change"])
    def add_price(self, request: HttpRequest, object_id: str) -> HttpResponse:
        row = self.get_object(request, object_id)

        def act(given: dict[str, Any]) -> str:
            price = services.add_price(model_id=row.pk, **given)
            cost = money(price.cost_per_million_tokens)
            return f"{row.name} costs {cost} per million tokens from {price.effective_from:%Y-%m-%d %H:%M} UTC on."

        dialog = Dialog(
            f"Add a price for {row.name}",
            f"Now: {per_million(price_now(row, utc_now()))}. Prices are never edited: the newest one that has begun "
            "counts. What was charged before stays as it was; a correction adds rows for the difference.",
            "Add price",
        )
        return self.ask(request, row, dialog, act, PriceForm(posted(request)))


@admin.register(Price)
class PriceAdmin(HouseAdmin[Price]):
    """All of them, to be read; a model's page adds one."""

    list_display = ("model", "amount", "effective_from", "source", "reason")
    list_filter = (("model", AutocompleteSelectFilter),)
    list_select_related = ("model__provider",)
    search_fields = ("model__name", "source")
    search_help_text = "Name of a model, or source"
    fields = ("model", "amount", "effective_from", "source", "reason", "created_at")

    @admin.display(description="USD per million tokens", ordering="cost_per_million_tokens")
    def amount(self, row: Price) -> str:
        return per_million(row.cost_per_million_tokens)


def _is_released(row: EmbeddingModel | None) -> bool:
    return row is not None and row.state not in lifecycle.UNRELEASED
