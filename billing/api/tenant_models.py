"""`/api/v1/tenant-models`: which models a tenant uses, with their limits. A door; it stands here, not in the tenants'
app, because the limits are billing's rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from uuid import UUID

import django_filters
from django.db.models import QuerySet
from drf_spectacular.utils import OpenApiExample, extend_schema, extend_schema_view
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet

from billing import services
from billing.selectors import limits_of_models
from billing.services import MODEL_LIMITS
from catalog.rest import BY_TIME, TAKES_LISTS, StrictFields, StrictFilters, Versioned, checked_rows
from tenants import services as tenants
from tenants.authentication import tenant_of
from tenants.model_states import SERVING
from tenants.models import TenantModel
from tenants.selectors import configured_models

# What the column of an amount holds.
_MOST = 99_999_999_999


class Count(serializers.IntegerField):
    """A limit in tokens or requests; null: none."""

    def __init__(self, **options: Any) -> None:
        super().__init__(min_value=0, max_value=_MOST, required=False, allow_null=True, **options)


class Dollars(serializers.DecimalField):
    """USD as a decimal string; null: none."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            max_digits=20,
            decimal_places=9,
            min_value=0,
            required=False,
            allow_null=True,
            normalize_output=True,
            **options,
        )


class ConfiguredModelFields(StrictFields):
    id = serializers.UUIDField(read_only=True)
    model_id = serializers.UUIDField(help_text="The `id` of a row in the catalogue.")
    model_name = serializers.CharField(source="model.name", read_only=True)
    provider = serializers.CharField(source="model.provider.slug", read_only=True)
    is_enabled = serializers.BooleanField(required=False)
    state = serializers.ChoiceField(
        TenantModel.State.choices,
        read_only=True,
        help_text="`quota_exceeded`: switched on, with a hard limit of its own used up; it comes back by itself.",
    )
    is_default = serializers.BooleanField(
        required=False, help_text="A tenant's first model becomes its default unless this says otherwise."
    )
    priority = serializers.IntegerField(
        required=False, min_value=-(2**31), max_value=2**31 - 1, help_text="Higher is preferred."
    )
    daily_token_limit = Count()
    monthly_token_limit = Count()
    monthly_request_limit = Count()
    rate_limit_rpm = Count()
    rate_limit_tpm = Count()
    monthly_budget_usd = Dollars()
    custom_cost_per_million_tokens = Dollars(help_text="The tenant's own price; null: the catalogue's.")
    fallback_model_id = serializers.UUIDField(
        required=False, allow_null=True, help_text="A model of another space that may answer when this one cannot."
    )
    settings = serializers.DictField(required=False, help_text="Kept as it is, for your own use.")
    created_at = serializers.DateTimeField(read_only=True)
    updated_at = serializers.DateTimeField(read_only=True)


def wishes(sent: Mapping[str, Any]) -> dict[str, Any]:
    """What was sent, in the words of `billing.services`."""
    limits = {name: sent[name] for name in MODEL_LIMITS if name in sent}
    return {"limits": limits, **{name: value for name, value in sent.items() if name not in limits}}


class ChangedConfiguration(ConfiguredModelFields):
    model_id = serializers.UUIDField(read_only=True)


class TenantModelFilters(django_filters.FilterSet):
    enabled_only = django_filters.BooleanFilter(method="only_enabled", label="Leave out those switched off.")
    model_id = django_filters.UUIDFilter(label="The `id` of a row in the catalogue.")
    model = django_filters.CharFilter(field_name="model__name", max_length=200, label="As callers name it.")
    provider = django_filters.CharFilter(field_name="model__provider__slug", max_length=63)
    state = django_filters.ChoiceFilter(choices=TenantModel.State.choices)
    is_default = django_filters.BooleanFilter()

    def only_enabled(self, found: QuerySet[TenantModel], name: str, value: bool) -> QuerySet[TenantModel]:
        return found.filter(state__in=SERVING) if value else found


@extend_schema_view(
    list=extend_schema(summary="The tenant's models"),
    retrieve=extend_schema(summary="One of the tenant's models"),
    create=extend_schema(
        summary="Take a model of the catalogue into use, or a list of them",
        description="Of a list all are taken in their order, or none; an error names the row.",
        extensions=TAKES_LISTS,
        responses={201: ConfiguredModelFields},
        examples=[
            OpenApiExample(
                "With a budget",
                {
                    "model_id": "2b1f8f0e-8a53-4c57-9f0c-6a0c3f3e8f11",
                    "is_default": True,
                    "priority": 10,
                    "monthly_budget_usd": "50.00",
                },
                request_only=True,
            )
        ],
    ),
    update=extend_schema(
        summary="Replace a configuration", request=ChangedConfiguration, responses=ChangedConfiguration
    ),
    partial_update=extend_schema(
        summary="Change a configuration", request=ChangedConfiguration, responses=ChangedConfiguration
    ),
    destroy=extend_schema(summary="Take a model out of use"),
    set_default=extend_schema(summary="Make a model the default", request=None, responses=ConfiguredModelFields),
    enable=extend_schema(summary="Let a model answer again", request=None, responses=ConfiguredModelFields),
    disable=extend_schema(summary="Keep a model from answering", request=None, responses=ConfiguredModelFields),
)
class TenantModelViews(Versioned, GenericViewSet[TenantModel]):
    """The models that the caller's tenant uses."""

    read_scope, write_scope = "models:read", "models:write"
    serializer_class = ConfiguredModelFields
    queryset = TenantModel.objects.none()
    filterset_class = TenantModelFilters
    filter_backends = (StrictFilters,)
    ordering = ("-priority", "created_at", "id")
    orders = ("-priority", "priority", *BY_TIME)
    versions = {**Versioned.versions, **dict.fromkeys(("set_default", "enable", "disable"), "retrieve")}
    lookup_value_converter = "uuid"

    def get_queryset(self) -> QuerySet[TenantModel]:
        return configured_models(tenant_of(self.request).id)

    def list(self, request: Request) -> Response:
        rows = self.paginate_queryset(self.filter_queryset(self.get_queryset())) or []
        return self.get_paginated_response(_shown(tenant_of(request).id, rows))

    def hold(self) -> None:
        tenants.hold_tenant(tenant_of(self.request).id)

    def retrieve(self, request: Request, pk: UUID) -> Response:
        return _one(tenant_of(request).id, pk)

    def create(self, request: Request) -> Response:
        tenant_id = tenant_of(request).id
        if isinstance(request.data, list):
            sent = [wishes(each) for each in checked_rows(ConfiguredModelFields, request.data)]
            ids = [each.id for each in services.configure_models(tenant_id=tenant_id, rows=sent)]
            rows = configured_models(tenant_id).in_bulk(ids)
            return Response(_shown(tenant_id, [rows[each] for each in ids]), status=201)
        fields = ConfiguredModelFields(data=request.data)
        fields.is_valid(raise_exception=True)
        row = services.configure_model(tenant_id=tenant_id, **wishes(fields.validated_data))
        return _one(tenant_id, row.id, status=201)

    def update(self, request: Request, pk: UUID) -> Response:
        return self._change(request, pk, partial=False)

    def partial_update(self, request: Request, pk: UUID) -> Response:
        return self._change(request, pk, partial=True)

    def _change(self, request: Request, pk: UUID, *, partial: bool) -> Response:
        tenant_id = tenant_of(request).id
        row = tenants.find_configuration(tenant_id, pk)
        fields = ChangedConfiguration(_with_limits(tenant_id, [row])[0], data=request.data, partial=partial)
        fields.is_valid(raise_exception=True)
        services.change_configuration(tenant_id=tenant_id, tenant_model_id=pk, **wishes(fields.validated_data))
        return _one(tenant_id, pk)

    def destroy(self, request: Request, pk: UUID) -> Response:
        services.remove_configuration(tenant_id=tenant_of(request).id, tenant_model_id=pk)
        return Response(status=204)

    @action(detail=True, methods=["post"], url_path="set-default")
    def set_default(self, request: Request, pk: UUID) -> Response:
        tenant_id = tenant_of(request).id
        tenants.make_default(tenant_id=tenant_id, tenant_model_id=pk)
        return _one(tenant_id, pk)

    @action(detail=True, methods=["post"])
    def enable(self, request: Request, pk: UUID) -> Response:
        tenant_id = tenant_of(request).id
        tenants.enable_model(tenant_id=tenant_id, tenant_model_id=pk)
        return _one(tenant_id, pk)

    @action(detail=True, methods=["post"])
    def disable(self, request: Request, pk: UUID) -> Response:
        tenant_id = tenant_of(request).id
        tenants.disable_model(tenant_id=tenant_id, tenant_model_id=pk)
        return _one(tenant_id, pk)


def _one(tenant_id: UUID, tenant_model_id: UUID, *, status: int = 200) -> Response:
    return Response(_shown(tenant_id, [tenants.find_configuration(tenant_id, tenant_model_id)])[0], status=status)


def _shown(tenant_id: UUID, rows: Iterable[TenantModel]) -> list[dict[str, Any]]:
    return [dict(each) for each in ConfiguredModelFields(_with_limits(tenant_id, rows), many=True).data]


def _with_limits(tenant_id: UUID, rows: Iterable[TenantModel]) -> list[dict[str, Any]]:
    found = list(rows)
    limits = limits_of_models(tenant_id, [row.id for row in found])
    return [
        {
            "id": row.id,
            "model_id": row.model_id,
            "model": row.model,
            "is_enabled": row.is_enabled,
            "state": row.state,
            "is_default": row.is_default,
            "priority": row.priority,
            **dict.fromkeys(MODEL_LIMITS),
            **limits[row.id],
            "custom_cost_per_million_tokens": row.custom_cost_per_million_tokens,
            "fallback_model_id": row.fallback_model_id,
            "settings": row.settings,
            "created_at": row.created_at,
            "updated_at": row.updated_at,
        }
        for row in found
    ]
