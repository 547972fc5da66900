"""`/api/v1/embedding-models/providers/health` and `/providers/{slug}/breaker`: how routes are, and an operator's hold.

A door over `embeddings.breaker_control`, here because breakers are. What is told comes from real traffic alone:
nothing is called, and nobody is billed. Who set a hold is in the log.

Failure: Redis away → 503 `breakers_unavailable`, and the data plane goes on with what it knows.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

from drf_spectacular.utils import OpenApiExample, OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from catalog.rest import StrictFields, refuse_unknown_parameters
from catalog.upstreams import find_model_of, find_provider
from core.errors import BreakersUnavailable
from embeddings.breaker import Force
from embeddings.breaker_control import BreakersAway, RouteHealth, hold, route_health
from tenants.authentication import caller

log = logging.getLogger(__name__)
T = TypeVar("T")

AUTO = "auto"
_STATES = (*(force.value for force in Force), AUTO)


class HealthFields(serializers.Serializer[Any]):
    provider = serializers.CharField()
    model = serializers.CharField(help_text="The vendor's identifier.")
    region = serializers.CharField()
    credential_id = serializers.CharField()
    breaker = serializers.ChoiceField(("closed", "half_open", "open"))
    forced = serializers.ChoiceField(("open", "closed"), allow_null=True, help_text="Held so by an operator.")
    reason = serializers.CharField(help_text="Of the last change; empty where there was none.")
    changed_at = serializers.DateTimeField(allow_null=True)
    next_probe_at = serializers.DateTimeField(allow_null=True)
    no_capacity_until = serializers.DateTimeField(allow_null=True, help_text="As the provider's 429 asked for.")
    calls = serializers.IntegerField(help_text="In the breaker's rolling window; so are the rates.")
    error_rate = serializers.FloatField(allow_null=True)
    slow_rate = serializers.FloatField(allow_null=True)
    p50_ms = serializers.FloatField(allow_null=True, help_text="Of calls that succeeded in the last minute or two.")
    p95_ms = serializers.FloatField(allow_null=True)


class HealthPage(serializers.Serializer[Any]):
    results = HealthFields(many=True)
    next = serializers.CharField(allow_null=True)
    previous = serializers.CharField(allow_null=True)


class Held(StrictFields):
    state = serializers.ChoiceField(_STATES, help_text="`auto`: as the breaker itself decides.")
    model = serializers.CharField(
        max_length=264,
        required=False,
        help_text="A model of this provider, by its name or the vendor's identifier; left out: all of them.",
    )


class ProvidersHealth(APIView):
    """How every route to a provider is."""

    read_scope = write_scope = "operator"
    parameters = ("provider",)

    @extend_schema(
        summary="How providers are, from real traffic",
        description="One row for each route that was called in the last day: a model at a provider, with one "
        "credential, in one region. All of them are on one page.",
        parameters=[OpenApiParameter("provider", str, description="Slug of a provider.")],
        responses=HealthPage,
    )
    def get(self, request: Request) -> Response:
        refuse_unknown_parameters(request, self)
        slug = request.query_params.get("provider")
        if slug is not None:
            find_provider(slug)
        return Response(_page(slug))


class HoldBreakers(APIView):
    """An operator's hold on the breakers of a provider."""

    read_scope = write_scope = "operator"

    @extend_schema(
        summary="Hold a provider's breakers open or closed, or let go of them",
        description="Every process heeds it within a second, until it is taken back. Without `model` it holds all of "
        "the provider's models, and `auto` lets go of single ones as well. A provider's 429 is obeyed even then.",
        request=Held,
        responses=HealthPage,
        examples=[OpenApiExample("Call it no more", {"state": "open"}, request_only=True)],
    )
    def post(self, request: Request, slug: str) -> Response:
        fields = Held(data=request.data)
        fields.is_valid(raise_exception=True)
        name, word = fields.validated_data.get("model"), fields.validated_data["state"]
        find_provider(slug)
        identifier = None if name is None else find_model_of(slug, name).identifier
        state = None if word == AUTO else Force(word)
        asked(lambda: hold(provider=slug, identifier=identifier, state=state))
        log.warning("breaker: key %s set %s of %s to %s", caller(request).grant.key_id, name or "all", slug, word)
        return Response(_page(slug))


def asked(look: Callable[[], T]) -> T:
    """What the breakers say. Raises `BreakersUnavailable`."""
    try:
        return look()
    except BreakersAway as away:
        raise BreakersUnavailable("The breakers are shared through Redis, which does not answer.") from away


def _page(slug: str | None) -> dict[str, Any]:
    found = [_shown(each) for each in asked(route_health) if slug in (None, each.provider)]
    return {"results": HealthFields(found, many=True).data, "next": None, "previous": None}


def _shown(health: RouteHealth) -> dict[str, Any]:
    return {
        "provider": health.provider,
        "model": health.model,
        "region": health.region,
        "credential_id": health.credential_id,
        "breaker": health.state,
        "forced": health.forced,
        "reason": health.reason,
        "changed_at": _moment(health.changed_at_ms),
        "next_probe_at": _moment(health.next_probe_at_ms),
        "no_capacity_until": _moment(health.no_capacity_until_ms),
        "calls": health.calls,
        "error_rate": health.error_rate,
        "slow_rate": health.slow_rate,
        "p50_ms": health.p50_ms,
        "p95_ms": health.p95_ms,
    }


def _moment(ms: int | None) -> datetime | None:
    return None if ms is None else datetime.fromtimestamp(ms / 1000, UTC)
