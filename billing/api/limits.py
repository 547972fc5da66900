"""`/api/v1/limits`: a door. Limits given on a configured model are the same rows."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import django_filters
from django.db.models import QuerySet
from drf_spectacular.utils import OpenApiExample, extend_schema, extend_schema_view
from rest_framework import mixins, serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet

from billing import services
from billing.models import Limit
from catalog.rest import BY_TIME, TAKES_LISTS, StrictFilters, StrictRows, Versioned, checked_rows
from tenants.authentication import tenant_of
from tenants.services import hold_tenant


class Amount(serializers.DecimalField):
    """Without zeros at its end."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"max_digits": 20, "decimal_places": 9, "normalize_output": True, **options})


class LimitFields(StrictRows):
    scope_id = serializers.CharField(
        max_length=200,
        required=False,
        allow_blank=True,
        default="",
        help_text="Tenant model, agent or key. An agent may be one that keys name and that has not registered yet.",
    )
    amount = Amount(min_value=0)
    thresholds = serializers.ListField(
        child=serializers.IntegerField(min_value=1, max_value=100), required=False, max_length=20
    )

    class Meta:
        model = Limit
        fields = (
            "id",
            "scope",
            "scope_id",
            "measure",
            "period",
            "amount",
            "mode",
            "thresholds",
            "origin",
            "created_at",
            "updated_at",
        )
        read_only_fields = ("id", "origin", "created_at", "updated_at")
        validators = ()  # the tenant is no field, and a second one is a 409


class ChangedLimit(LimitFields):
    scope_id = serializers.CharField(read_only=True)

    class Meta(LimitFields.Meta):
        read_only_fields = (*LimitFields.Meta.read_only_fields, "scope", "measure", "period")  # type: ignore[assignment]


class LimitFilters(django_filters.FilterSet):
    class Meta:
        model = Limit
        fields = ("scope", "scope_id", "measure", "period", "mode", "origin")


@extend_schema_view(
    list=extend_schema(summary="The tenant's limits"),
    retrieve=extend_schema(summary="One limit"),
    create=extend_schema(
        summary="Add a limit, or a list of them",
        description="A `hard` limit refuses what would pass it: 402 per day and month, 429 per minute. A `soft` one "
        "lets it through and tells at its thresholds, a `shadow` one tells what it would have refused. Periods are "
        "calendar ones in UTC; a new limit counts what its day or month has used already, and takes effect within "
        "seconds. An amount of 0 allows nothing. A key's counts what its successors and the keys that it minted use as "
        "well. Of a list all are added or none; an error names the row.",
        extensions=TAKES_LISTS,
        responses={201: LimitFields},
        examples=[
            OpenApiExample(
                "A budget", {"scope": "tenant", "measure": "usd", "period": "month", "amount": "100"}, request_only=True
            )
        ],
    ),
    update=extend_schema(summary="Replace the terms of a limit", request=ChangedLimit, responses=ChangedLimit),
    partial_update=extend_schema(summary="Change the terms of a limit", request=ChangedLimit, responses=ChangedLimit),
    destroy=extend_schema(summary="Forget a limit"),
)
class LimitViews(Versioned, mixins.ListModelMixin, GenericViewSet[Limit]):
    """How much the caller's tenant may use."""

    read_scope, write_scope = "usage:read", "billing:write"
    serializer_class = LimitFields
    queryset = Limit.objects.none()
    filterset_class = LimitFilters
    filter_backends = (StrictFilters,)
    orders = (*BY_TIME, "amount", "-amount")
    lookup_value_converter = "uuid"

    def get_queryset(self) -> QuerySet[Limit]:
        return Limit.objects.filter(tenant_id=tenant_of(self.request).id)

    def hold(self) -> None:
        hold_tenant(tenant_of(self.request).id)

    def retrieve(self, request: Request, pk: UUID) -> Response:
        return Response(LimitFields(services.find_limit(tenant_of(request).id, pk)).data)

    def create(self, request: Request) -> Response:
        tenant_id = tenant_of(request).id
        if isinstance(request.data, list):
            rows = services.add_limits(tenant_id=tenant_id, rows=checked_rows(LimitFields, request.data))
            return Response(LimitFields(rows, many=True).data, status=201)
        fields = LimitFields(data=request.data)
        fields.is_valid(raise_exception=True)
        row = services.add_limit(tenant_id=tenant_id, **fields.validated_data)
        return Response(LimitFields(row).data, status=201)

    def update(self, request: Request, pk: UUID) -> Response:
        return self._change(request, pk, partial=False)

    def partial_update(self, request: Request, pk: UUID) -> Response:
        return self._change(request, pk, partial=True)

    def _change(self, request: Request, pk: UUID, *, partial: bool) -> Response:
        tenant_id = tenant_of(request).id
        fields = ChangedLimit(services.find_limit(tenant_id, pk), data=request.data, partial=partial)
        fields.is_valid(raise_exception=True)
        row = services.change_limit(tenant_id=tenant_id, limit_id=pk, **fields.validated_data)
        return Response(LimitFields(row).data)

    def destroy(self, request: Request, pk: UUID) -> Response:
        services.remove_limit(tenant_id=tenant_of(request).id, limit_id=pk)
        return Response(status=204)
