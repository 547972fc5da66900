"""`/api/v1/usage/records`: what was charged, request by request. A door, for reading only."""

from __future__ import annotations

from uuid import UUID

import django_filters
from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema, extend_schema_view
from rest_framework import mixins, serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet

from billing import selectors
from billing.models import ProviderCall, UsageRow
from catalog.rest import StrictFilters
from tenants.authentication import tenant_of


class UsageFields(serializers.ModelSerializer[UsageRow]):
    request_id = serializers.UUIDField(source="id")

    class Meta:
        model = UsageRow
        fields = (
            "request_id",
            "created_at",
            "key_id",
            "agent_id",
            "model",
            "provider",
            "space",
            "dimensions",
            "items",
            "cached",
            "tokens",
            "estimated",
            "cost_usd",
            "source",
            "status",
            "task_type",
            "latency_ms",
            "provider_latency_ms",
            "attempts",
            "own_price",
            "paid_by",
            "corrects_day",
            "reason",
        )


class CallFields(serializers.ModelSerializer[ProviderCall]):
    class Meta:
        model = ProviderCall
        fields = (
            "id",
            "created_at",
            "model",
            "provider",
            "items",
            "tokens",
            "outcome",
            "status",
            "detail",
            "upstream_id",
            "latency_ms",
        )


class UsageWithCalls(UsageFields):
    provider_calls = CallFields(many=True)

    class Meta(UsageFields.Meta):
        fields = (*UsageFields.Meta.fields, "provider_calls")  # type: ignore[assignment]


class UsageFilters(django_filters.FilterSet):
    request_id = django_filters.UUIDFilter(method="at_request")
    model = django_filters.CharFilter()
    agent_id = django_filters.CharFilter()

    def at_request(self, found: QuerySet[UsageRow], name: str, value: UUID) -> QuerySet[UsageRow]:
        return selectors.at_request(found, value)


# `from` is no name in Python.
UsageFilters.base_filters["from"] = django_filters.IsoDateTimeFilter(
    field_name="created_at", lookup_expr="gte", label="From this moment on."
)
UsageFilters.base_filters["to"] = django_filters.IsoDateTimeFilter(
    field_name="created_at", lookup_expr="lt", label="Before this moment."
)


@extend_schema_view(
    list=extend_schema(summary="The tenant's requests, the newest first"),
    retrieve=extend_schema(summary="One request, with its calls to providers", responses=UsageWithCalls),
)
class UsageViews(mixins.ListModelMixin, GenericViewSet[UsageRow]):
    """What the caller's tenant used."""

    read_scope = write_scope = "usage:read"
    serializer_class = UsageFields
    queryset = UsageRow.objects.none()
    filterset_class = UsageFilters
    filter_backends = (StrictFilters,)
    lookup_field = "request_id"
    lookup_value_converter = "uuid"

    def get_queryset(self) -> QuerySet[UsageRow]:
        return selectors.usage_rows(tenant_of(self.request).id)

    def retrieve(self, request: Request, request_id: UUID) -> Response:
        row, calls = selectors.find_usage(tenant_of(request).id, request_id)
        return Response({**UsageFields(row).data, "provider_calls": CallFields(calls, many=True).data})
