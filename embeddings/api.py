"""`/api/v1/embedding-models/select` and `/api/v1/agents/{agent_id}/models`: which model would answer, and why. A door
of the control plane; it stands here because it needs selection. Nothing is embedded, held or charged.

What a chain rests on is read anew each time, in the request's own transaction; live latencies are those that the data
plane's processes wrote down.

Failure: Redis away → no latency is known, so that no model is left out or preferred for its own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any
from uuid import UUID

from drf_spectacular.utils import OpenApiExample, OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from billing.limit_terms import LimitTerms
from billing.loading import load_limits
from billing.room import room_for
from catalog.loading import load_catalog
from catalog.rest import StrictFields, refuse_unknown_parameters
from core.clock import utc_now
from core.errors import InvalidRequest, NotFound, QuiverError
from core.money import usd_text
from embeddings.breaker_control import BreakersAway, route_health
from embeddings.explaining import Explained, candidates_of, dropped_of, explain
from embeddings.finding import NO_WISHES
from embeddings.requests import EmbeddingRequest
from embeddings.selection import quickest, refusal
from embeddings.snapshot import TenantSnapshot, compose
from embeddings.tokens import Size
from tenants.authentication import caller, tenant_of
from tenants.loading import config_of
from tenants.models import Tenant
from tenants.preferences import Preferences
from tenants.rights import check_agent
from tenants.walls import as_platform

_STRATEGIES = ("priority", "cost", "latency", "quality")
_MOST_TOKENS = 300_000
# Of selection → of this door.
_NAMES = {"model": "requested_model", "dimensions": "required_dimensions"}


class Wanted(StrictFields):
    requested_model = serializers.CharField(
        max_length=264, required=False, help_text="As callers name it; left out or `auto`: Quiver's choice."
    )
    agent_id = serializers.CharField(max_length=200, required=False, trim_whitespace=False)
    task_type = serializers.CharField(max_length=100, required=False)
    token_estimate = serializers.IntegerField(
        min_value=1, max_value=_MOST_TOKENS, required=False, default=1, help_text="For one text; costs rest on it."
    )
    required_dimensions = serializers.IntegerField(min_value=1, max_value=65_536, required=False)
    optimize = serializers.ChoiceField(_STRATEGIES, required=False, default="priority")


class CandidateFields(serializers.Serializer[Any]):
    model = serializers.CharField()
    provider = serializers.CharField()
    space = serializers.CharField()
    dimensions = serializers.IntegerField()
    estimated_cost = serializers.CharField(help_text="USD, an upper bound.")
    reasons = serializers.ListField(child=serializers.CharField())


class DroppedFields(serializers.Serializer[Any]):
    model = serializers.CharField()
    provider = serializers.CharField(allow_null=True)
    reason = serializers.CharField()


class AgentModelsFields(serializers.Serializer[Any]):
    agent_id = serializers.CharField()
    task_type = serializers.CharField()
    candidates = CandidateFields(many=True)
    dropped = DroppedFields(many=True)


class MetadataFields(serializers.Serializer[Any]):
    is_default = serializers.BooleanField()
    priority = serializers.IntegerField()
    selected_at = serializers.DateTimeField()
    reason = serializers.CharField()


class SelectedFields(serializers.Serializer[Any]):
    model_id = serializers.UUIDField(help_text="The `id` of the row in the catalogue.")
    model = serializers.CharField()
    model_identifier = serializers.CharField()
    provider = serializers.CharField()
    space = serializers.CharField()
    dimensions = serializers.IntegerField()
    cost_per_million_tokens = serializers.CharField(allow_null=True, help_text="USD; null: unpriced.")
    estimated_cost = serializers.CharField(help_text="USD, an upper bound.")
    is_within_quota = serializers.BooleanField(help_text="By the ledger, now; nothing is held.")
    quota_remaining = serializers.IntegerField(allow_null=True, help_text="Tokens; null: no limit.")
    metadata = MetadataFields()
    candidates = CandidateFields(many=True)
    dropped = DroppedFields(many=True)


class AgentModels(APIView):
    """Which models an agent would get."""

    read_scope = write_scope = "models:read"
    parameters = ("task_type",)

    @extend_schema(
        summary="Which models an agent would get for a task, and why",
        parameters=[OpenApiParameter("task_type", str, description="As in a request; left out: none.")],
        responses=AgentModelsFields,
    )
    def get(self, request: Request, agent_id: str) -> Response:
        refuse_unknown_parameters(request, self)
        task_type = request.query_params.get("task_type", "")
        if len(task_type) > 100 or not task_type.isprintable():
            raise InvalidRequest("`task_type` is at most 100 printable characters.", param="task_type")
        asked = EmbeddingRequest(texts=[], tokens=[], model=None, task_type=task_type)
        snapshot = _snapshot(tenant_of(request))
        _, preferences = _agent(request, snapshot, agent_id)
        found = _explained(request, asked, snapshot, preferences, tokens=1)
        shown = {"agent_id": agent_id, "task_type": task_type, **_chain(found)}
        return Response(AgentModelsFields(shown).data)


class SelectModel(APIView):
    """Which model would answer a request."""

    read_scope = write_scope = "models:read"

    @extend_schema(
        summary="Which model would answer, and why",
        description="Calls no provider and holds nothing. Where none would answer, the error is the one that the "
        "request itself would get.",
        request=Wanted,
        responses=SelectedFields,
        examples=[
            OpenApiExample(
                "For an agent's task",
                {"agent_id": "crawler-1", "task_type": "search", "token_estimate": 2000},
                request_only=True,
            )
        ],
    )
    def post(self, request: Request) -> Response:
        fields = Wanted(data=request.data)
        fields.is_valid(raise_exception=True)
        wanted = fields.validated_data
        name = wanted.get("requested_model")
        asked = EmbeddingRequest(
            texts=[],
            tokens=[],
            model=None if name == "auto" else name,
            dimensions=wanted.get("required_dimensions"),
            task_type=wanted.get("task_type", ""),
            strategy=wanted["optimize"],
        )
        try:
            tenant = tenant_of(request)
            snapshot = _snapshot(tenant, load_limits(tenant.id))
            agent_id, preferences = _agent(request, snapshot, wanted.get("agent_id"))
            found = _explained(request, asked, snapshot, preferences, tokens=wanted["token_estimate"])
            if not found.chain.candidates:
                raise refusal(found.chain.dropped)
        except QuiverError as error:
            error.param = _NAMES.get(error.param or "", error.param)
            raise
        return Response(SelectedFields(_selected(request, found, snapshot, agent_id)).data)


def _snapshot(tenant: Tenant, limits: tuple[LimitTerms, ...] = ()) -> TenantSnapshot:
    """Of what the request's transaction sees; limits where somebody asks what is left of them."""
    with as_platform():  # it reads providers' secrets, which this door hands on to nobody
        catalog = load_catalog()
    return compose(catalog, config_of(tenant), limits)


def _agent(request: Request, snapshot: TenantSnapshot, agent_id: str | None) -> tuple[str, Preferences]:
    """The agent asked about, else the one that the key is bound to, which need not have introduced itself yet."""
    grant, agents = caller(request).grant, snapshot.config.agents
    if agent_id is None:
        return grant.agent_id, agents.get(grant.agent_id, NO_WISHES)
    check_agent(grant, agent_id)
    if agent_id not in agents:
        raise NotFound(f"There is no agent {agent_id[:200]!r}.", param="agent_id")
    return agent_id, agents[agent_id]


def _explained(
    request: Request, asked: EmbeddingRequest, snapshot: TenantSnapshot, preferences: Preferences, *, tokens: int
) -> Explained:
    def sizes(tokenizers: Collection[str]) -> Mapping[str, Size]:
        return dict.fromkeys(tokenizers, Size((tokens,), (tokens,), tokens))  # the caller's estimate, whatever counts

    return explain(
        asked,
        snapshot,
        sizes,
        preferences=preferences,
        allowed_models=caller(request).grant.models,
        latency_ms=_latencies(asked, snapshot, preferences),
        now=utc_now(),
    )


def _latencies(asked: EmbeddingRequest, snapshot: TenantSnapshot, preferences: Preferences) -> Mapping[UUID, float]:
    """Those that all processes have seen lately; only where the order or a bound rests on them."""
    if "latency" not in (asked.strategy, preferences.strategy) and preferences.max_latency_ms is None:
        return {}
    try:
        return quickest(snapshot.choices, {each.route: each.p50_ms for each in route_health() if each.p50_ms})
    except BreakersAway:  # as in a process that has seen no call yet
        return {}


def _chain(found: Explained) -> dict[str, Any]:
    return {"candidates": candidates_of(found), "dropped": dropped_of(found)}


def _selected(request: Request, found: Explained, snapshot: TenantSnapshot, agent_id: str) -> dict[str, Any]:
    chosen, now = found.chain.candidates[0], utc_now()
    deployment, configured = chosen.choice.deployment, chosen.choice.configured
    price = chosen.choice.price_at(now)
    limits = snapshot.limits_for(chosen.choice, agent_id=agent_id, key=caller(request).grant)
    room = room_for(snapshot.config.tenant_id, limits, now=now)
    return {
        "model_id": deployment.model_id,
        "model": deployment.name,
        "model_identifier": deployment.identifier,
        "provider": deployment.provider,
        "space": deployment.space,
        "dimensions": chosen.dimensions,
        "cost_per_million_tokens": None if price is None else usd_text(price),
        "estimated_cost": usd_text(chosen.held_nano),
        "is_within_quota": room.takes(tokens=chosen.held_tokens, nano=chosen.held_nano),
        "quota_remaining": room.tokens,
        "metadata": {
            "is_default": configured.is_default,
            "priority": configured.priority,
            "selected_at": now,
            "reason": ", ".join(filter(None, (chosen.reason, chosen.way))),
        },
        **_chain(found),
    }
