"""`/api/v1/budgets`: the limits of money, with what is spent of them. A door; the rows are those of
`/api/v1/limits`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import django_filters
from django.db.models import QuerySet
from drf_spectacular.utils import OpenApiExample, extend_schema, extend_schema_view
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet

from billing import services
from billing.api.limits import Amount, LimitFields
from billing.models import Limit
from billing.standing import figure, standings_of
from catalog.rest import BY_TIME, StrictFilters, Versioned
from tenants.authentication import tenant_of
from tenants.services import hold_tenant


class BudgetFields(LimitFields):
    amount = Amount(min_value=0, help_text="USD.")
    used = Amount(read_only=True, help_text="USD, in the period under way.")
    held = Amount(read_only=True, help_text="USD, reserved by requests under way.")
    remaining = Amount(read_only=True, help_text="USD.")
    period_start = serializers.DateTimeField(read_only=True)
    resets_at = serializers.DateTimeField(read_only=True)

    class Meta(LimitFields.Meta):
        fields = (  # type: ignore[assignment]
            *(each for each in LimitFields.Meta.fields if each != "measure"),
            "used",
            "held",
            "remaining",
            "period_start",
            "resets_at",
        )


class ChangedBudget(BudgetFields):
    scope_id = serializers.CharField(read_only=True)

    class Meta(BudgetFields.Meta):
        read_only_fields = (*LimitFields.Meta.read_only_fields, "scope", "period")  # type: ignore[assignment]


class BudgetFilters(django_filters.FilterSet):
    class Meta:
        model = Limit
        fields = ("scope", "scope_id", "period", "mode", "origin")


@extend_schema_view(
    list=extend_schema(summary="The tenant's budgets, and what is left of them"),
    retrieve=extend_schema(summary="One budget", responses=BudgetFields),
    create=extend_schema(
        summary="Add a budget",
        description="The same as a limit with the measure `usd`.",
        responses={201: BudgetFields},
        examples=[
            OpenApiExample(
                "A month",
                {"scope": "tenant", "period": "month", "amount": "100", "thresholds": [80]},
                request_only=True,
            )
        ],
    ),
    partial_update=extend_schema(summary="Change a budget", request=ChangedBudget, responses=BudgetFields),
    destroy=extend_schema(summary="Forget a budget"),
)
class BudgetViews(Versioned, GenericViewSet[Limit]):
    """How much money the caller's tenant may spend."""

    read_scope, write_scope = "usage:read", "billing:write"
    serializer_class = BudgetFields
    queryset = Limit.objects.none()
    filterset_class = BudgetFilters
    filter_backends = (StrictFilters,)
    orders = (*BY_TIME, "amount", "-amount")
    lookup_value_converter = "uuid"
    volatile = frozenset({"used", "held", "remaining", "period_start", "resets_at"})

    def hold(self) -> None:
        hold_tenant(tenant_of(self.request).id)

    def get_queryset(self) -> QuerySet[Limit]:
        return Limit.objects.filter(tenant_id=tenant_of(self.request).id, measure=Limit.Measure.USD)

    def list(self, request: Request) -> Response:
        rows = self.paginate_queryset(self.filter_queryset(self.get_queryset())) or []
        return self.get_paginated_response(_shown(tenant_of(request).id, rows))

    def retrieve(self, request: Request, pk: UUID) -> Response:
        return _one(services.find_budget(tenant_of(request).id, pk))

    def create(self, request: Request) -> Response:
        fields = BudgetFields(data=request.data)
        fields.is_valid(raise_exception=True)
        row = services.add_limit(tenant_id=tenant_of(request).id, measure=Limit.Measure.USD, **fields.validated_data)
        return _one(row, status=201)

    def partial_update(self, request: Request, pk: UUID) -> Response:
        tenant_id = tenant_of(request).id
        row = services.find_budget(tenant_id, pk)
        fields = ChangedBudget(_with_standing(tenant_id, [row])[0], data=request.data, partial=True)
        fields.is_valid(raise_exception=True)
        return _one(services.change_limit(tenant_id=tenant_id, limit_id=pk, **fields.validated_data))

    def destroy(self, request: Request, pk: UUID) -> Response:
        tenant_id = tenant_of(request).id
        services.remove_limit(tenant_id=tenant_id, limit_id=services.find_budget(tenant_id, pk).id)
        return Response(status=204)


def _one(row: Limit, *, status: int = 200) -> Response:
    return Response(_shown(row.tenant_id, [row])[0], status=status)


def _shown(tenant_id: UUID, rows: Sequence[Limit]) -> list[dict[str, Any]]:
    return [dict(each) for each in BudgetFields(_with_standing(tenant_id, rows), many=True).data]


def _with_standing(tenant_id: UUID, rows: Sequence[Limit]) -> list[dict[str, Any]]:
    names = [name for name in LimitFields.Meta.fields if name != "measure"]
    return [
        {
            **{name: getattr(row, name) for name in names},
            **{name: figure(row.measure, getattr(each, name)) for name in ("used", "held", "remaining")},
            "period_start": each.period_start,
            "resets_at": each.resets_at,
        }
        for row, each in zip(rows, standings_of(tenant_id, rows), strict=True)
    ]
