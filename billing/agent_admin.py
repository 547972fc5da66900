"""Admin of agents: a door. It stands here, not in the tenants' app, for an agent's own budget is a limit and its costs
are the ledger's. What an agent sets here or by itself can only narrow what its tenant allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, ClassVar

from django import forms
from django.contrib import admin
from django.http import HttpRequest
from unfold.contrib.filters.admin import ChoicesDropdownFilter
from unfold.decorators import display
from unfold.widgets import (
    UnfoldAdminDecimalFieldWidget,
    UnfoldAdminExpandableTextareaWidget,
    UnfoldAdminIntegerFieldWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextInputWidget,
)

from billing import agents as services
from billing.usage import costs_of_agent
from catalog.admin_base import Decimals, RowForm
from catalog.admin_looks import TONES, code, money, table, when, words
from core.clock import utc_now
from core.money import usd_from_nano
from tenants.admin_scope import TenantScoped
from tenants.agents import preferences_of
from tenants.models import Agent
from tenants.preferences import FIELDS, SLOTS, to_json
from tenants.roles import Power
from tenants.selectors import configured_models

_SHOWN_DAYS = 30
_WORDS = ("name", "agent_type", "version", "status", "capabilities", "metadata")


class Lines(forms.CharField):
    """Words, one in a line."""

    widget = UnfoldAdminExpandableTextareaWidget

    def prepare_value(self, value: Any) -> Any:
        return "\n".join(value) if isinstance(value, list) else value

    def to_python(self, value: Any) -> Any:
        return [line.strip() for line in (super().to_python(value) or "").splitlines() if line.strip()]


class TaskModels(Lines):
    """`task = model`, one in a line."""

    def prepare_value(self, value: Any) -> Any:
        return "\n".join(f"{task} = {name}" for task, name in value.items()) if isinstance(value, dict) else value

    def to_python(self, value: Any) -> Any:
        found = {}
        for line in super().to_python(value):
            task, equals, name = (part.strip() for part in line.partition("="))
            if not (task and equals and name):
                raise forms.ValidationError("A task, an equals sign and a model in each line, such as search = small.")
            found[task] = name
        return found


def _model(label: str, help_text: str = "") -> forms.ChoiceField:
    return forms.ChoiceField(label=label, required=False, widget=UnfoldAdminSelectWidget, help_text=help_text)


def _dollars(label: str, help_text: str) -> Decimals:
    return Decimals(
        label=label,
        required=False,
        min_value=0,
        max_digits=20,
        decimal_places=9,
        widget=UnfoldAdminDecimalFieldWidget,
        help_text=help_text,
    )


def _number(label: str, most: int, help_text: str) -> forms.IntegerField:
    return forms.IntegerField(
        label=label,
        required=False,
        min_value=1,
        max_value=most,
        widget=UnfoldAdminIntegerFieldWidget,
        help_text=help_text,
    )


class AgentForm(RowForm):
    service_names = {f"preferences.{name}": name for name in FIELDS}
    offered_models: ClassVar[Sequence[str]] = ()
    capabilities = Lines(required=False, help_text="What it says it can do, one in a line.")
    strategy = forms.ChoiceField(
        choices=[
            ("tenant_default", "as the tenant chooses"),
            ("fixed", "these models and no others"),
            ("cost", "the cheapest"),
            ("latency", "the quickest"),
            ("quality", "the best"),
        ],
        widget=UnfoldAdminSelectWidget,
        help_text="What comes behind the models named below.",
    )
    primary = _model("First")
    secondary = _model("Second")
    tertiary = _model("Third")
    task_models = TaskModels(
        label="Models of tasks",
        required=False,
        help_text="For requests with this task_type, before the first: task = model, one in a line.",
    )
    max_cost_per_request_usd = _dollars("USD a request", "Dearer models are left out. Empty: no bound of its own.")
    monthly_budget_usd = _dollars("USD a month", "Kept as a hard limit beside those under Limits; both hold.")
    max_latency_ms = _number("Milliseconds", 600_000, "Models that answer slower at present are left out.")
    required_dimensions = _number("Dimensions", 65_536, "Vectors of this width and no other.")
    required_space = forms.CharField(
        label="Vector space",
        required=False,
        max_length=200,
        widget=UnfoldAdminTextInputWidget,
        help_text="Vectors of this space and no other.",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        chosen = to_json(preferences_of(self.instance))
        self.initial.update(chosen)
        for slot in SLOTS:
            if slot in self.fields:
                names = sorted({*self.offered_models, *filter(None, [chosen[slot]])})
                self.fields[slot].choices = [("", "–"), *((name, name) for name in names)]  # type: ignore[attr-defined]

    @property
    def preferences(self) -> dict[str, Any]:
        """What the form says, as the service takes it."""
        return {name: self.cleaned_data[name] or None for name in FIELDS} | {
            name: self.cleaned_data[name] for name in ("max_cost_per_request_usd", "monthly_budget_usd")
        }


@admin.register(Agent)
class AgentAdmin(TenantScoped[Agent]):
    adds = changes = removes = True
    power = Power.AGENTS
    form = AgentForm
    list_display = ("shown_id", "name", "agent_type", "standing", "seen", "shown_primary", "budget")
    list_filter = (("status", ChoicesDropdownFilter),)
    search_fields = ("agent_id", "name")
    search_help_text = "Id or name of an agent"
    labels = {"agent_id": "Id", "agent_type": "Kind"}
    readonly_fields = ("shown_id", "seen", "created_at", "shown_preferences", "costs")
    _preferences = (
        ("Preference", {"fields": ("strategy", *SLOTS, "task_models")}),
        (
            "Bounds",
            {
                "fields": (
                    "max_cost_per_request_usd",
                    "monthly_budget_usd",
                    "max_latency_ms",
                    "required_dimensions",
                    "required_space",
                ),
                "description": "They only narrow what the tenant allows. Empty: no bound of the agent's own.",
            },
        ),
    )
    fieldsets = (
        (None, {"fields": ("shown_id", "name", "agent_type", "version", "status", "seen", "created_at")}),
        *_preferences,
        ("About it", {"fields": ("capabilities", "metadata")}),
        (f"Costs of the last {_SHOWN_DAYS} days", {"fields": ("costs",)}),
    )
    add_fieldsets = (
        (
            None,
            {
                "fields": ("agent_id", "name", "agent_type", "version"),
                "description": "Agents that connect by themselves appear here too. Bind a key to an agent under API "
                "keys.",
            },
        ),
        *_preferences,
    )

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        form = super().get_form(request, obj, change, **kwargs)
        tenant = self.owner(request, obj)
        names = configured_models(tenant.id).values_list("model__name", flat=True) if tenant else ()
        return type(form.__name__, (form,), {"offered_models": sorted(set(names))})

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        sets = super().get_fieldsets(request, obj)
        if obj is None or self.has_change_permission(request, obj):
            return sets
        # Who only reads gets no form, and what is no column would be shown as nothing.
        first, *rest = [each for each in sets if each not in self._preferences]
        return (first, ("Preferences", {"fields": ("shown_preferences",)}), *rest)

    @admin.display(description="preferences")
    def shown_preferences(self, row: Agent) -> str:
        said = {name: value for name, value in to_json(preferences_of(row)).items() if value}
        tasks = said.pop("task_models", {})
        rows = [(name.replace("_", " "), value) for name, value in said.items()]
        rows += [(f"task {task}", name) for task, name in tasks.items()]
        return table(("Preference", "Value"), rows, empty="None.")

    @admin.display(description="id", ordering="agent_id")
    def shown_id(self, row: Agent) -> str:
        return code(row.agent_id)

    @display(description="status", ordering="status", label=TONES)
    def standing(self, row: Agent) -> str:
        return row.status

    @admin.display(description="last seen", ordering="last_seen_at")
    def seen(self, row: Agent) -> str:
        return when(row.last_seen_at) if row.last_seen_at else "never connected"

    @admin.display(description="prefers")
    def shown_primary(self, row: Agent) -> str:
        own = preferences_of(row)
        return words(filter(None, (own.primary, own.secondary, own.tertiary)))

    @admin.display(description="own budget a month")
    def budget(self, row: Agent) -> str:
        nano = preferences_of(row).monthly_budget_nano
        return money(None if nano is None else usd_from_nano(nano))

    @admin.display(description="costs")
    def costs(self, row: Agent) -> str:
        now = utc_now()
        found = costs_of_agent(row.tenant_id, row.agent_id, since=now - timedelta(days=_SHOWN_DAYS), until=now)
        rows = [
            (each.of["model"], each.of["provider"], f"{each.requests:,}", f"{each.tokens:,}", money(each.cost_usd))
            for each in found
        ]
        return table(("Model", "Provider", "Requests", "Tokens", "Cost"), rows, empty="It used nothing in these days.")

    def add_row(self, request: HttpRequest, form: AgentForm) -> Agent:
        given = form.cleaned_data
        return services.add_agent(
            tenant_id=self.owner_id(request),
            agent_id=given["agent_id"],
            name=given["name"],
            agent_type=given["agent_type"],
            version=given["version"],
            preferences=form.preferences,
        )

    def change_row(self, request: HttpRequest, row: Agent, form: AgentForm) -> None:
        facts = form.changed(*_WORDS)
        if "metadata" in facts:
            facts["metadata"] = facts["metadata"] or {}  # an emptied field
        if form.changed(*FIELDS):
            facts["preferences"] = form.preferences
        services.change_agent(tenant_id=row.tenant_id, agent_id=row.agent_id, **facts)

    def remove_row(self, request: HttpRequest, row: Agent) -> None:
        services.remove_agent(tenant_id=row.tenant_id, agent_id=row.agent_id)
