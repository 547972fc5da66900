"""Admin of a tenant's models and limits: doors. A tenant's models stand here, not in the tenants' app, because their
limits are billing's rows. Agents are `billing.agent_admin`, what was used is `billing.usage_admin`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar
from uuid import UUID

from django import forms
from django.contrib import admin
from django.db.models import CharField, OuterRef, QuerySet, Subquery
from django.db.models.functions import Cast
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html
from unfold.contrib.filters.admin import ChoicesDropdownFilter
from unfold.decorators import action, display
from unfold.widgets import (
    UnfoldAdminDecimalFieldWidget,
    UnfoldAdminIntegerFieldWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextInputWidget,
)

from billing import agent_admin, services, usage_admin
from billing.models import Limit
from billing.selectors import limits_of_models
from billing.services import MODEL_LIMITS
from catalog.admin_base import Decimals, Dialog, Numbers, RowForm
from catalog.admin_looks import TONES, code, money, per_million, when
from catalog.models import EmbeddingModel
from catalog.selectors import price_now
from core.clock import utc_now
from tenants import services as tenants
from tenants.admin_scope import TenantScoped
from tenants.models import ApiKey, TenantModel
from tenants.roles import Power
from tenants.selectors import configured_models, keys_of

__all__ = ["LimitAdmin", "TenantModelAdmin", "agent_admin", "usage_admin"]

_WISHES = ("priority", "custom_cost_per_million_tokens", "settings")


def _count(label: str) -> Decimals:
    return Decimals(
        label=label,
        required=False,
        min_value=0,
        max_digits=11,
        decimal_places=0,
        widget=UnfoldAdminIntegerFieldWidget,
    )


class TenantModelForm(RowForm):
    service_names = {"model_id": "model", "fallback_model_id": "fallback_model"}
    daily_token_limit = _count("Tokens a day")
    monthly_token_limit = _count("Tokens a month")
    monthly_request_limit = _count("Requests a month")
    rate_limit_rpm = _count("Requests a minute")
    rate_limit_tpm = _count("Tokens a minute")
    monthly_budget_usd = Decimals(
        label="USD a month",
        required=False,
        min_value=0,
        max_digits=20,
        decimal_places=9,
        widget=UnfoldAdminDecimalFieldWidget,
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        row = self.instance
        if row.tenant_id and not row._state.adding:
            self.initial.update(limits_of_models(row.tenant_id, [row.id])[row.id])
        if "fallback_model" in self.fields:
            others = EmbeddingModel.objects.filter(configurations__tenant_id=row.tenant_id).exclude(id=row.model_id)
            self.fields["fallback_model"].queryset = others.select_related("provider")  # type: ignore[attr-defined]


@admin.register(TenantModel)
class TenantModelAdmin(TenantScoped[TenantModel]):
    adds = changes = removes = True
    power = Power.MODELS
    form = TenantModelForm
    list_display = ("name", "provider", "shown_state", "default", "priority", "price", "in_catalogue", "changed")
    list_filter = (("state", ChoicesDropdownFilter), "is_default")
    list_select_related = ("model__provider", "model__space")
    search_fields = ("model__name", "model__identifier")
    search_help_text = "Name of a model, or the vendor's identifier"
    autocomplete_fields = ("model",)
    actions_detail = ("set_default", "enable", "disable")
    readonly_fields = ("shown_model", "shown_state", "default", "price", "in_catalogue", "created_at")
    _limits = (
        "Limits",
        {
            "fields": tuple(MODEL_LIMITS),
            "description": "For this model alone; empty is no limit. They are kept as hard limits, and shown under "
            "Limits too. Days and months are UTC.",
        },
    )
    fieldsets = (
        (None, {"fields": ("shown_model", "shown_state", "default", "in_catalogue", "price", "created_at")}),
        (
            "Preference",
            {
                "fields": ("priority", "fallback_model", "custom_cost_per_million_tokens", "settings"),
                "description": "The fallback may answer when this model cannot, in its own vector space: what it "
                "embeds is not comparable with what this model embedded.",
            },
        ),
        _limits,
    )
    add_fieldsets = (
        (
            None,
            {
                "fields": ("model", "priority", "custom_cost_per_million_tokens"),
                "description": "The first model that is configured becomes the default.",
            },
        ),
        _limits,
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[TenantModel]:
        # With a selection of its own a list does not add `list_select_related` any more.
        related = ("tenant", *self.list_select_related)
        return super().get_queryset(request).select_related(*related).prefetch_related("model__prices")

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        field = super().formfield_for_dbfield(db_field, request, **kwargs)
        if db_field.name == "custom_cost_per_million_tokens":
            field.label = "Own price in USD per million tokens"
            field.help_text = "Empty: the catalogue's."
        return field

    @admin.display(description="model", ordering="model__name")
    def name(self, row: TenantModel) -> str:
        return row.model.name

    @admin.display(description="model")
    def shown_model(self, row: TenantModel) -> str:
        return str(row.model)

    @admin.display(description="provider", ordering="model__provider__slug")
    def provider(self, row: TenantModel) -> str:
        return row.model.provider.slug

    @display(description="state", ordering="state", label=TONES)
    def shown_state(self, row: TenantModel) -> str:
        return row.state.replace("_", " ")

    @display(description="default", ordering="is_default", label={"default": "primary"})
    def default(self, row: TenantModel) -> str | None:
        return "default" if row.is_default else None

    @display(description="in the catalogue", label=TONES)
    def in_catalogue(self, row: TenantModel) -> str:
        return row.model.state

    @admin.display(description="price per million tokens")
    def price(self, row: TenantModel) -> str:
        if row.custom_cost_per_million_tokens is not None:
            return f"{per_million(row.custom_cost_per_million_tokens)} (own)"
        return per_million(price_now(row.model, utc_now()))

    @admin.display(description="changed", ordering="updated_at")
    def changed(self, row: TenantModel) -> str:
        return when(row.updated_at)

    def add_row(self, request: HttpRequest, form: RowForm) -> TenantModel:
        given = form.cleaned_data
        return services.configure_model(
            tenant_id=self.owner_id(request),
            model_id=given["model"].id,
            limits={name: given[name] for name in MODEL_LIMITS if given[name] is not None},
            priority=given["priority"],
            custom_cost_per_million_tokens=given["custom_cost_per_million_tokens"],
        )

    def change_row(self, request: HttpRequest, row: TenantModel, form: RowForm) -> None:
        wishes = form.changed(*_WISHES)
        if "fallback_model" in form.changed_data:
            fallback = form.cleaned_data["fallback_model"]
            wishes["fallback_model_id"] = fallback and fallback.id
        services.change_configuration(
            tenant_id=row.tenant_id,
            tenant_model_id=row.id,
            limits=form.changed(*MODEL_LIMITS),
            **wishes,
        )

    def remove_row(self, request: HttpRequest, row: TenantModel) -> None:
        services.remove_configuration(tenant_id=row.tenant_id, tenant_model_id=row.id)

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> Any:
        row = self.get_object(request, object_id)
        unfit = {"enable" if row.is_enabled else "disable"} | (
            {"set_default"} if row.is_default or not row.is_enabled else set()
        )
        return [each for each in super().get_actions_detail(request, object_id) if each.path not in unfit]

    @action(description="Make default", icon="star", permissions=["change"])
    def set_default(self, request: HttpRequest, object_id: str) -> HttpResponse:
        row = self.get_object(request, object_id)
        text = (
            "It answers requests that name no model, in place of the default of now. Vectors of different spaces are "
        )
        dialog = Dialog(f"Make {row.model.name} the default", f"{text}not comparable.", "Make default")
        return self._switch(request, row, dialog, tenants.make_default, "is the default now")

    @action(description="Enable", icon="toggle_on", permissions=["change"])
    def enable(self, request: HttpRequest, object_id: str) -> HttpResponse:
        row = self.get_object(request, object_id)
        dialog = Dialog(f"Enable {row.model.name}", "It may answer requests again, within a second.", "Enable")
        return self._switch(request, row, dialog, tenants.enable_model, "is enabled now")

    @action(description="Disable", icon="toggle_off", permissions=["change"])
    def disable(self, request: HttpRequest, object_id: str) -> HttpResponse:
        row = self.get_object(request, object_id)
        dialog = Dialog(
            f"Disable {row.model.name}",
            "Requests that name it are refused within a second. Its configuration is kept.",
            "Disable",
            is_dangerous=True,
        )
        return self._switch(request, row, dialog, tenants.disable_model, "is disabled now")

    def _switch(self, request: HttpRequest, row: TenantModel, dialog: Dialog, service: Any, said: str) -> HttpResponse:
        def act(given: dict[str, Any]) -> str:
            service(tenant_id=row.tenant_id, tenant_model_id=row.id)
            return f"{row.model.name} {said}."

        return self.ask(request, row, dialog, act)


class LimitForm(RowForm):
    """What is limited is chosen among the tenant's models and keys; an agent is named."""

    service_names = {"scope": "target", "scope_id": "target"}
    targets: ClassVar[Sequence[Any]] = ()
    target = forms.ChoiceField(label="For", widget=UnfoldAdminSelectWidget)
    agent = forms.CharField(
        required=False, max_length=200, widget=UnfoldAdminTextInputWidget, help_text="The id of the agent, if for one."
    )
    thresholds = Numbers(
        label="Tell at",
        required=False,
        widget=UnfoldAdminTextInputWidget,
        help_text="Percentages at which somebody is told, such as 50, 80, 100.",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "target" in self.fields:
            self.fields["target"].choices = self.targets  # type: ignore[attr-defined]

    def clean(self) -> dict[str, Any]:
        data = super().clean()
        if "target" in self.fields and (data.get("target") == "agent:") is not bool(data.get("agent")):
            self.add_error("agent", "The id of an agent goes together with “one agent” above.")
        return data


@admin.register(Limit)
class LimitAdmin(TenantScoped[Limit]):
    adds = changes = removes = True
    power = Power.LIMITS
    form = LimitForm
    list_display = ("shown_amount", "period", "shown_target", "shown_mode", "shown_thresholds", "changed")
    list_filter = tuple((name, ChoicesDropdownFilter) for name in ("scope", "measure", "period", "mode"))
    search_fields = ("=scope_id",)
    search_help_text = "Id of a model's configuration, an agent or a key"
    readonly_fields = ("shown_target", "measure", "period")
    _terms = (
        "Terms",
        {
            "fields": ("amount", "mode", "thresholds"),
            "description": "Hard refuses what would pass it. Soft lets it through and tells. Shadow only counts. "
            "It applies within a second, and counts from the beginning of its present day or month.",
        },
    )
    fieldsets = ((None, {"fields": ("shown_target", "measure", "period")}), _terms)
    add_fieldsets = ((None, {"fields": ("target", "agent", "measure", "period")}), _terms)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return super().get_readonly_fields(request, obj) if obj else ("tenant",)

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        form = super().get_form(request, obj, change, **kwargs)
        tenant = self.owner(request)
        return (
            form if obj is not None or tenant is None else type(form.__name__, (form,), {"targets": targets(tenant.id)})
        )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Limit]:
        # `scope_id` is text, for agents; what it names is looked up with the rows.
        same = {"text": OuterRef("scope_id"), "tenant_id": OuterRef("tenant_id")}
        named = TenantModel.objects.annotate(text=Cast("id", CharField())).filter(**same).values("model__name")[:1]
        key = ApiKey.objects.annotate(text=Cast("id", CharField())).filter(**same).values("name")[:1]
        return super().get_queryset(request).annotate(model_name=Subquery(named), key_name=Subquery(key))

    @admin.display(description="limit", ordering="amount")
    def shown_amount(self, row: Limit) -> str:
        return money(row.amount) if row.measure == Limit.Measure.USD else f"{row.amount:,.0f} {row.measure}"

    @admin.display(description="for")
    def shown_target(self, row: Any) -> Any:
        if row.scope == Limit.Scope.TENANT:
            return "the whole tenant"
        name = row.model_name or row.key_name
        if row.origin == Limit.Origin.AGENT:
            return format_html("agent {}, by itself", code(row.scope_id))
        return f"{row.scope} {name}" if name else format_html("{} {}", row.scope, code(row.scope_id))

    @display(description="mode", ordering="mode", label=TONES)
    def shown_mode(self, row: Limit) -> str:
        return row.mode

    @admin.display(description="tell at")
    def shown_thresholds(self, row: Limit) -> str:
        return ", ".join(f"{each} %" for each in row.thresholds) or "–"

    @admin.display(description="changed", ordering="updated_at")
    def changed(self, row: Limit) -> str:
        return when(row.updated_at)

    def add_row(self, request: HttpRequest, form: RowForm) -> Limit:
        given = form.cleaned_data
        scope, _, scope_id = given["target"].partition(":")
        return services.add_limit(
            tenant_id=self.owner_id(request),
            scope=scope,
            scope_id=given["agent"] or scope_id,
            **{name: given[name] for name in ("measure", "period", "amount", "mode", "thresholds")},
        )

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_change_permission(request, obj) and not _is_an_agents_own(obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_delete_permission(request, obj) and not _is_an_agents_own(obj)

    def change_row(self, request: HttpRequest, row: Limit, form: RowForm) -> None:
        services.change_limit(tenant_id=row.tenant_id, limit_id=row.id, **form.changed("amount", "mode", "thresholds"))

    def remove_row(self, request: HttpRequest, row: Limit) -> None:
        services.remove_limit(tenant_id=row.tenant_id, limit_id=row.id)


def _is_an_agents_own(row: Limit | None) -> bool:
    return row is not None and row.origin == Limit.Origin.AGENT


def targets(tenant_id: UUID) -> list[Any]:
    """What a tenant can limit, as choices: `scope:id`."""
    models = [(f"model:{row.id}", str(row.model)) for row in configured_models(tenant_id)]
    keys: QuerySet[ApiKey] = keys_of(tenant_id).filter(revoked_at=None)
    return [
        ("tenant:", "The whole tenant"),
        ("One model", models),
        ("One key", [(f"key:{row.id}", str(row)) for row in keys]),
        ("agent:", "One agent"),
    ]
