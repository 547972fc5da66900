"""`/api/v1/agents`: agents, what they prefer and what they cost. A door; it stands here, not in the tenants' app, for
an agent's own budget is a limit, and costs are the ledger's. Which models an agent gets is `embeddings.api`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import django_filters
from django.db.models import Q, QuerySet
from drf_spectacular.utils import (
    OpenApiExample,
    OpenApiParameter,
    extend_schema,
    extend_schema_field,
    extend_schema_view,
)
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet

from billing import agents as services
from billing.api.usage_sums import ByModel, shown
from billing.usage import costs_of_agent
from catalog.rest import BY_TIME, StrictFields, StrictFilters, Versioned, page_number, refuse_unknown_parameters
from core.clock import utc_now
from tenants.agents import find_agent, hold_agent, preferences_of
from tenants.authentication import caller, tenant_of
from tenants.models import Agent
from tenants.preferences import parse, to_json
from tenants.rights import check_agent
from tenants.selectors import agents_of

_MOST_DAYS = 366
_EXAMPLE = {
    "strategy": "tenant_default",
    "primary": "text-embedding-3-small",
    "task_models": {"search": "text-embedding-3-large"},
    "max_cost_per_request_usd": "0.01",
    "monthly_budget_usd": "25",
}


class PreferenceFields(serializers.Serializer[Any]):
    """The form of preferences, for the reference; `tenants.preferences` reads them."""

    strategy = serializers.ChoiceField(
        ("tenant_default", "fixed", "cost", "latency", "quality"),
        required=False,
        help_text="How to choose behind the models named here; `fixed`: among those alone.",
    )
    primary = serializers.CharField(required=False, allow_null=True, help_text="A model as callers name it.")
    secondary = serializers.CharField(required=False, allow_null=True)
    tertiary = serializers.CharField(required=False, allow_null=True)
    task_models = serializers.DictField(
        child=serializers.CharField(), required=False, help_text="`task_type` of a request → model."
    )
    max_cost_per_request_usd = serializers.DecimalField(
        max_digits=20, decimal_places=9, required=False, allow_null=True, help_text="Dearer models are left out."
    )
    monthly_budget_usd = serializers.DecimalField(
        max_digits=20,
        decimal_places=9,
        required=False,
        allow_null=True,
        help_text="Kept as a hard limit of the agent's own, beside those that the tenant set for it.",
    )
    max_latency_ms = serializers.IntegerField(
        required=False, allow_null=True, help_text="Models that answer slower at present are left out."
    )
    required_dimensions = serializers.IntegerField(required=False, allow_null=True)
    required_space = serializers.CharField(required=False, allow_null=True)


@extend_schema_field(PreferenceFields)
class Preferred(serializers.Field[Any, Any, Any, Any]):
    """Preferences as they come; the service reads them."""

    def to_internal_value(self, data: Any) -> Any:
        return data

    def to_representation(self, value: Any) -> Any:
        return to_json(parse(value))


class AgentFields(StrictFields):
    agent_id = serializers.CharField(
        max_length=200, trim_whitespace=False, help_text="What the agent calls itself; unique within the tenant."
    )
    agent_type = serializers.CharField(max_length=100, required=False, allow_blank=True)
    name = serializers.CharField(max_length=200, required=False, allow_blank=True)
    version = serializers.CharField(max_length=100, required=False, allow_blank=True)
    capabilities = serializers.ListField(
        child=serializers.CharField(max_length=100), required=False, max_length=100, help_text="Words of your own."
    )
    preferences = Preferred(required=False, help_text="Replaces all of them.")
    metadata = serializers.DictField(
        required=False, help_text="Kept as it is, for your own use; at most 16 KiB of JSON."
    )
    status = serializers.ChoiceField(Agent.Status.choices, required=False)
    last_seen_at = serializers.DateTimeField(read_only=True, allow_null=True)
    created_at = serializers.DateTimeField(read_only=True)
    updated_at = serializers.DateTimeField(read_only=True)


class ChangedAgent(AgentFields):
    agent_id = serializers.CharField(read_only=True)


class CostFields(serializers.Serializer[Any]):
    agent_id = serializers.CharField()
    period_days = serializers.IntegerField()
    start_time = serializers.DateTimeField()
    end_time = serializers.DateTimeField()
    total_tokens = serializers.IntegerField()
    total_requests = serializers.IntegerField()
    total_cost = serializers.DecimalField(max_digits=20, decimal_places=9)
    by_model = ByModel(many=True, help_text="The dearest first; requests that no model answered are not here.")


class AgentFilters(django_filters.FilterSet):
    q = django_filters.CharFilter(method="containing", label="Part of an id or a name.")

    class Meta:
        model = Agent
        fields = ("status", "agent_type")

    def containing(self, found: QuerySet[Agent], name: str, value: str) -> QuerySet[Agent]:
        return found.filter(Q(agent_id__icontains=value) | Q(name__icontains=value))


@extend_schema_view(
    list=extend_schema(summary="The tenant's agents, the newest first"),
    retrieve=extend_schema(summary="One agent"),
    create=extend_schema(
        summary="Add an agent",
        responses={201: AgentFields},
        examples=[
            OpenApiExample(
                "With preferences",
                {"agent_id": "crawler-1", "agent_type": "crawler", "preferences": _EXAMPLE},
                request_only=True,
            )
        ],
    ),
    partial_update=extend_schema(summary="Change an agent", request=ChangedAgent, responses=ChangedAgent),
    destroy=extend_schema(
        summary="Forget an agent", description="What it used stays in the ledger, limits set for it stay in force."
    ),
)
class AgentViews(Versioned, GenericViewSet[Agent]):
    """The agents of the caller's tenant. A key that is bound to an agent reaches that one alone."""

    read_scope = write_scope = "agents:write"
    serializer_class = AgentFields
    queryset = Agent.objects.none()
    filterset_class = AgentFilters
    filter_backends = (StrictFilters,)
    orders = (*BY_TIME, "agent_id", "-agent_id")
    parameters: tuple[str, ...] = ()
    versions = {**Versioned.versions, "preferences": "preferences", "set_preferences": "preferences"}
    volatile = frozenset({"last_seen_at", "status"})  # as the agent itself tells, at any moment
    lookup_field = "agent_id"

    def get_queryset(self) -> QuerySet[Agent]:
        bound = caller(self.request).grant.agent_id
        found = agents_of(tenant_of(self.request).id)
        return found.filter(agent_id=bound) if bound else found

    def list(self, request: Request) -> Response:
        rows = self.paginate_queryset(self.filter_queryset(self.get_queryset()))
        return self.get_paginated_response(AgentFields(rows, many=True).data)

    def hold(self) -> None:
        hold_agent(tenant_of(self.request).id, self.kwargs["agent_id"])

    def retrieve(self, request: Request, agent_id: str) -> Response:
        return Response(AgentFields(_found(request, agent_id)).data)

    def create(self, request: Request) -> Response:
        fields = AgentFields(data=request.data)
        fields.is_valid(raise_exception=True)
        check_agent(caller(request).grant, fields.validated_data["agent_id"])
        row = services.add_agent(tenant_id=tenant_of(request).id, **fields.validated_data)
        return Response(AgentFields(row).data, status=201)

    def partial_update(self, request: Request, agent_id: str) -> Response:
        fields = ChangedAgent(_found(request, agent_id), data=request.data, partial=True)
        fields.is_valid(raise_exception=True)
        row = services.change_agent(tenant_id=tenant_of(request).id, agent_id=agent_id, **fields.validated_data)
        return Response(AgentFields(row).data)

    def destroy(self, request: Request, agent_id: str) -> Response:
        check_agent(caller(request).grant, agent_id)
        services.remove_agent(tenant_id=tenant_of(request).id, agent_id=agent_id)
        return Response(status=204)

    @extend_schema(summary="What an agent prefers", responses=PreferenceFields, filters=False)
    @action(detail=True, methods=["get"])
    def preferences(self, request: Request, agent_id: str) -> Response:
        return _shown_preferences(_found(request, agent_id))

    @extend_schema(
        summary="Replace what an agent prefers",
        request=PreferenceFields,
        responses=PreferenceFields,
        examples=[OpenApiExample("Preferences", _EXAMPLE, request_only=True)],
    )
    @preferences.mapping.put
    def set_preferences(self, request: Request, agent_id: str) -> Response:
        check_agent(caller(request).grant, agent_id)
        row = services.set_preferences(tenant_id=tenant_of(request).id, agent_id=agent_id, preferences=request.data)
        return _shown_preferences(row)

    @extend_schema(
        summary="What an agent cost, by model",
        parameters=[OpenApiParameter("period_days", int, default=30, description=f"1 to {_MOST_DAYS}, up to now.")],
        responses=CostFields,
        filters=False,
    )
    @action(detail=True, methods=["get"], read_scope="usage:read", filterset_class=None, parameters=("period_days",))
    def costs(self, request: Request, agent_id: str) -> Response:
        refuse_unknown_parameters(request, self)
        days = page_number(request, "period_days", default=30, most=_MOST_DAYS)
        row, end = _found(request, agent_id), utc_now()
        start = end - timedelta(days=days)
        found = costs_of_agent(row.tenant_id, row.agent_id, since=start, until=end)
        total: Mapping[str, Any] = {
            "agent_id": row.agent_id,
            "period_days": days,
            "start_time": start,
            "end_time": end,
            "total_tokens": sum(each.tokens for each in found),
            "total_requests": sum(each.requests for each in found),
            "total_cost": sum(each.cost_usd for each in found),
            "by_model": [shown(each) for each in found],
        }
        return Response(CostFields(total).data)


def _found(request: Request, agent_id: str) -> Agent:
    check_agent(caller(request).grant, agent_id)
    return find_agent(tenant_of(request).id, agent_id)


def _shown_preferences(row: Agent) -> Response:
    return Response(to_json(preferences_of(row)))
