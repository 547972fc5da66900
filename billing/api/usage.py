"""`/api/v1/usage/records` and `/api/v1/usage/export.csv`: what was charged, request by request. Doors for reading."""

from __future__ import annotations

from uuid import UUID

import django_filters
from django.db.models import QuerySet
from django.http import StreamingHttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema, extend_schema_view
from rest_framework import mixins, serializers
from rest_framework.generics import GenericAPIView
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet

from billing import selectors
from billing.export import csv_of
from billing.models import ProviderCall, UsageRow
from billing.periods import start_of
from catalog.rest import BY_TIME, StrictFilters
from core.clock import utc_now
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
    model = django_filters.CharFilter(max_length=200)
    provider = django_filters.CharFilter(max_length=63)
    agent_id = django_filters.CharFilter(max_length=200, strip=False)
    key_id = django_filters.UUIDFilter()
    task_type = django_filters.CharFilter(max_length=100, strip=False)
    status = django_filters.CharFilter(max_length=40, label="`ok`, or the code of an error.")
    source = django_filters.CharFilter(max_length=20)

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
    list=extend_schema(
        summary="The tenant's requests, the newest first",
        description="As far back as single requests are kept: a tenant may set `retention_days`.",
    ),
    retrieve=extend_schema(summary="One request, with its calls to providers", responses=UsageWithCalls),
)
class UsageViews(mixins.ListModelMixin, GenericViewSet[UsageRow]):
    """What the caller's tenant used."""

    read_scope = write_scope = "usage:read"
    serializer_class = UsageFields
    queryset = UsageRow.objects.none()
    filterset_class = UsageFilters
    filter_backends = (StrictFilters,)
    orders = BY_TIME
    lookup_field = "request_id"
    lookup_value_converter = "uuid"

    def get_queryset(self) -> QuerySet[UsageRow]:
        return selectors.usage_rows(tenant_of(self.request).id)

    def retrieve(self, request: Request, request_id: UUID) -> Response:
        row, calls = selectors.find_usage(tenant_of(request).id, request_id)
        return Response({**UsageFields(row).data, "provider_calls": CallFields(calls, many=True).data})


class Csv(JSONRenderer):
    """For callers who accept nothing else; errors are problems all the same."""

    media_type = "text/csv"
    format = "csv"


class ExportView(GenericAPIView[UsageRow]):
    """What the caller's tenant used, as a file."""

    read_scope = write_scope = "usage:read"
    renderer_classes = (JSONRenderer, Csv)
    queryset = UsageRow.objects.none()
    filterset_class = UsageFilters
    filter_backends = (StrictFilters,)
    pagination_class = None

    @extend_schema(
        summary="The tenant's requests as CSV, the oldest first",
        description="Streamed, of any length, as far back as single requests are kept; of this month unless `from` is "
        "given, up to now unless `to` is. The first line names the columns, which are the fields of a record. A text "
        "that a spreadsheet would take for a formula begins with an apostrophe. A stream that breaks off lacks its "
        "last chunk, so that clients notice.",
        filters=True,
        responses={(200, "text/csv"): OpenApiTypes.STR},
    )
    def get(self, request: Request) -> StreamingHttpResponse:
        tenant_id, now = tenant_of(request).id, utc_now()
        rows = self.filter_queryset(selectors.usage_rows(tenant_id))
        if not request.query_params.get("from"):
            rows = rows.filter(created_at__gte=start_of("month", now))
        if not request.query_params.get("to"):
            rows = rows.filter(created_at__lt=now)
        columns = {name: {"request_id": "id"}.get(name, name) for name in UsageFields.Meta.fields}
        response = StreamingHttpResponse(csv_of(tenant_id, rows, columns), content_type="text/csv; charset=utf-8")
        response["Content-Disposition"] = f'attachment; filename="usage-{now:%Y-%m-%d}.csv"'
        response["Cache-Control"] = "private, no-store"
        return response
