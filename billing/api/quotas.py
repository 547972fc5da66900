"""`/api/v1/tenant-models/quotas`: how much of its limits a tenant and its models have used. A door for reading."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from billing.models import Limit
from billing.standing import LimitStanding, figure, standings
from catalog.rest import refuse_unknown_parameters
from tenants.authentication import tenant_of
from tenants.models import TenantModel
from tenants.selectors import configured_models


@extend_schema_field({"oneOf": [{"type": "integer"}, {"type": "string", "format": "decimal"}]})
class Figure(serializers.Field[Any, Any, Any, Any]):
    """A whole number, or USD as a decimal string."""

    def to_representation(self, value: int | str) -> int | str:
        return value


class QuotaFields(serializers.Serializer[Any]):
    limit_id = serializers.UUIDField()
    measure = serializers.ChoiceField(Limit.Measure.choices)
    period = serializers.ChoiceField(Limit.Period.choices)
    mode = serializers.ChoiceField(Limit.Mode.choices)
    limit = Figure()
    used = Figure()
    held = Figure(help_text="Reserved by requests under way.")
    remaining = Figure()
    period_start = serializers.DateTimeField()
    resets_at = serializers.DateTimeField()


class ModelQuotas(serializers.Serializer[Any]):
    tenant_model_id = serializers.UUIDField()
    model_id = serializers.UUIDField()
    model_name = serializers.CharField()
    provider = serializers.CharField()
    state = serializers.ChoiceField(TenantModel.State.choices)
    limits = QuotaFields(many=True)


class Quotas(serializers.Serializer[Any]):
    tenant = QuotaFields(many=True, help_text="Limits of the tenant as a whole.")
    models = ModelQuotas(many=True, help_text="All configured models; one without limits has an empty list.")


class QuotaView(APIView):
    """What is left to the caller's tenant."""

    read_scope = write_scope = "usage:read"

    @extend_schema(
        summary="What is left of the limits of the tenant and its models",
        description="Tokens and requests are whole numbers, USD are decimal strings. Limits of agents and keys are "
        "not here.",
        responses=Quotas,
    )
    def get(self, request: Request) -> Response:
        refuse_unknown_parameters(request, self)
        tenant_id = tenant_of(request).id
        found = standings(tenant_id)
        body = {
            "tenant": _shown(each for each in found if each.scope == Limit.Scope.TENANT),
            "models": [
                {
                    "tenant_model_id": row.id,
                    "model_id": row.model_id,
                    "model_name": row.model.name,
                    "provider": row.model.provider.slug,
                    "state": row.state,
                    "limits": _shown(
                        each for each in found if (each.scope, each.scope_id) == (Limit.Scope.MODEL, str(row.id))
                    ),
                }
                for row in configured_models(tenant_id)
            ],
        }
        return Response(Quotas(body).data)


def _shown(found: Iterable[LimitStanding]) -> list[dict[str, Any]]:
    return [
        {
            "limit_id": each.limit_id,
            "measure": each.measure,
            "period": each.period,
            "mode": each.mode,
            "limit": figure(each.measure, each.amount),
            "used": figure(each.measure, each.used),
            "held": figure(each.measure, each.held),
            "remaining": figure(each.measure, each.remaining),
            "period_start": each.period_start,
            "resets_at": each.resets_at,
        }
        for each in found
    ]
