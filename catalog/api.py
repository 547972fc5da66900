"""`/api/v1/embedding-models/catalog` and `/providers`: doors. Rules are in `catalog.services` and `catalog.upstreams`.

No view here runs in a transaction of its own: activating a model calls a provider, checking an address resolves a
name, and the services are transactions themselves.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.db import transaction
from django.utils.decorators import method_decorator
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, extend_schema, extend_schema_view
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet

from catalog import connection_tests, listing_cache, moves, services, upstreams, validating
from catalog.fields import (
    CatalogPage,
    ChangedModel,
    CheckFields,
    CredentialFields,
    EventFields,
    ModelFields,
    Move,
    NewCredential,
    NewProvider,
    PriceFields,
    PriceGlimpse,
    ProviderFields,
    ProviderGlimpse,
    SunsetFields,
    TestFields,
)
from catalog.models import EmbeddingModel, Price, Provider, State
from catalog.rest import (
    KeysetPagination,
    StrictFilters,
    Versioned,
    actor_of,
    page_number,
    refuse_unknown_parameters,
)
from catalog.selectors import SHOWN_TO_TENANTS, list_models
from core.errors import InvalidRequest, NotFound

_FIRST = {
    "provider": "openai",
    "model_name": "text-embedding-3-small",
    "model_identifier": "text-embedding-3-small",
    "dimensions": 1536,
    "tokenizer": "cl100k_base",
    "capabilities": ["dimensions", "matryoshka"],
    "cost_per_million_tokens": "0.02",
    "activate": True,
}


@extend_schema_view(
    list=extend_schema(
        summary="The catalogue, by pages",
        description="Tenants see what was released and is not removed.",
        parameters=[
            OpenApiParameter("provider", str, description="Slug of a provider."),
            OpenApiParameter("type", str, description="`model_type`, such as `text`."),
            OpenApiParameter("state", str, enum=State.values),
            OpenApiParameter("available_only", bool, default=True, description="Without effect beside `state`."),
            OpenApiParameter("q", str, description="Part of a name, an identifier or a space."),
            OpenApiParameter("page", int, default=1),
            OpenApiParameter("limit", int, default=50, description="At most 100."),
        ],
        responses=CatalogPage,
    ),
    retrieve=extend_schema(summary="One model of the catalogue"),
    create=extend_schema(
        summary="Add a model",
        description="A new row is a draft. `activate: true` embeds the probe texts and makes the model available; when "
        "one fails the answer is 422 with the probes that failed, and the draft stays.",
        responses={201: ModelFields},
        examples=[OpenApiExample("OpenAI's small model", _FIRST, request_only=True)],
    ),
    update=extend_schema(summary="Replace what is said about a model", request=ChangedModel, responses=ChangedModel),
    partial_update=extend_schema(summary="Change a model", request=ChangedModel, responses=ChangedModel),
    destroy=extend_schema(summary="Erase a draft, or retire a model that nobody has configured"),
)
@method_decorator(transaction.non_atomic_requests, name="dispatch")
class CatalogViews(Versioned, GenericViewSet[EmbeddingModel]):
    """The embedding models that exist, for all tenants."""

    read_scope, write_scope = "models:read", "operator"
    serializer_class = ModelFields
    queryset = EmbeddingModel.objects.all()
    pagination_class = None
    filter_backends = ()
    ordering = ("-effective_from", "-id")  # of prices; the catalogue has pages by number
    parameters = ("provider", "type", "state", "available_only", "q", "page")
    versions = {**Versioned.versions, "transition": "retrieve", "sunset": "retrieve"}
    lookup_value_converter = "uuid"

    def list(self, request: Request) -> Response:
        refuse_unknown_parameters(request, self)
        asked = request.query_params
        if asked.get("state", State.DRAFT) not in State.values:
            raise InvalidRequest(f"There is no such state; there are {', '.join(State.values)}.", param="state")
        page = page_number(request, "page", default=1, most=1_000_000)
        limit = page_number(request, "limit", default=50, most=100)
        wanted: dict[str, Any] = {
            "provider": asked.get("provider"),
            "model_type": asked.get("type"),
            "state": asked.get("state"),
            "available_only": _flag(request, "available_only", default=True),
            "q": asked.get("q", ""),
            "is_operators": _is_operator(request),
        }

        def read() -> dict[str, Any]:
            found = list_models(**wanted)
            total = found.count()
            rows = found[(page - 1) * limit : page * limit]
            pagination = {"page": page, "limit": limit, "total": total, "pages": -(-total // limit)}
            return {"models": list(ModelFields(rows, many=True).data), "pagination": pagination}

        return Response(listing_cache.page(wanted | {"page": page, "limit": limit}, read))

    def hold(self) -> None:
        moves.locked_model(self.kwargs["pk"])

    def retrieve(self, request: Request, pk: UUID) -> Response:
        return Response(ModelFields(_shown_model(request, pk)).data)

    def create(self, request: Request) -> Response:
        fields = ModelFields(data=request.data)
        fields.is_valid(raise_exception=True)
        facts = fields.facts
        activate = facts.pop("activate", False)
        row = services.add_model(**facts)
        if activate:
            validating.activate_model(model_id=row.id, actor=actor_of(request))
        return Response(ModelFields(services.find_model(row.id)).data, status=201)

    def update(self, request: Request, pk: UUID) -> Response:
        return self._change(request, pk, partial=False)

    def partial_update(self, request: Request, pk: UUID) -> Response:
        return self._change(request, pk, partial=True)

    def _change(self, request: Request, pk: UUID, *, partial: bool) -> Response:
        fields = ChangedModel(services.find_model(pk), data=request.data, partial=partial)
        fields.is_valid(raise_exception=True)
        facts = fields.facts
        activate = facts.pop("activate", False)
        with self.unchanged():
            services.change_model(model_id=pk, **facts)
        if activate:
            validating.activate_model(model_id=pk, actor=actor_of(request))
        return Response(ModelFields(services.find_model(pk)).data)

    def destroy(self, request: Request, pk: UUID) -> Response:
        with self.unchanged():
            services.remove_model(model_id=pk, actor=actor_of(request))
        return Response(status=204)

    @extend_schema(
        summary="Move a model along its lifecycle",
        request=Move,
        responses=ModelFields,
        examples=[OpenApiExample("Retire", {"to": "deprecated", "reason": "v2 is better"}, request_only=True)],
    )
    @action(detail=True, methods=["post"])
    def transition(self, request: Request, pk: UUID) -> Response:
        fields = Move(data=request.data)
        fields.is_valid(raise_exception=True)
        with self.unchanged():
            services.move_model(model_id=pk, actor=actor_of(request), **fields.validated_data)
        return Response(ModelFields(services.find_model(pk)).data)

    @extend_schema(
        summary="Give a deprecated model another end or successor", request=SunsetFields, responses=ModelFields
    )
    @action(detail=True, methods=["post"])
    def sunset(self, request: Request, pk: UUID) -> Response:
        fields = SunsetFields(data=request.data)
        fields.is_valid(raise_exception=True)
        with self.unchanged():
            moves.change_sunset(model_id=pk, actor=actor_of(request), **fields.validated_data)
        return Response(ModelFields(services.find_model(pk)).data)

    @extend_schema(
        summary="Run the probe texts now",
        description="At the platform's cost. A model in testing that passed may be made available. A released one "
        "whose vectors are not those of its space any more is taken out; one that was out for that comes back when it "
        "passes. Call it after each deploy of a server of your own.",
        request=None,
        responses=CheckFields,
    )
    @action(detail=True, methods=["post"])
    def validate(self, request: Request, pk: UUID) -> Response:
        if request.data:
            raise InvalidRequest("This takes no fields.", param=next(iter(request.data)))
        return Response(CheckFields(validating.validate_model(model_id=pk, actor=actor_of(request))).data)

    @extend_schema(
        summary="What happened to the model, the newest first", responses=EventFields(many=True), filters=False
    )
    @action(
        detail=True,
        methods=["get"],
        pagination_class=KeysetPagination,
        ordering=("-at", "-id"),
        read_scope="operator",
    )
    def events(self, request: Request, pk: UUID) -> Response:
        rows = self.paginate_queryset(services.find_model(pk).events.order_by(*self.ordering))  # type: ignore[arg-type]
        return self.get_paginated_response(EventFields(rows, many=True).data)

    @extend_schema(
        summary="All prices, the newest first",
        description="Tenants see no `source` and no `reason`.",
        responses=PriceFields(many=True),
        filters=False,
    )
    @action(detail=True, methods=["get"], pagination_class=KeysetPagination)
    def prices(self, request: Request, pk: UUID) -> Response:
        rows = self.paginate_queryset(_shown_model(request, pk).prices.order_by(*self.ordering))  # type: ignore[arg-type]
        shown_as: type[serializers.BaseSerializer[Any]] = PriceFields if _is_operator(request) else PriceGlimpse
        return self.get_paginated_response(shown_as(rows, many=True).data)

    @extend_schema(summary="Set the price from a moment on", request=PriceFields, responses={201: PriceFields})
    @prices.mapping.post
    def add_price(self, request: Request, pk: UUID) -> Response:
        fields = PriceFields(data=request.data)
        fields.is_valid(raise_exception=True)
        price: Price = services.add_price(model_id=pk, **fields.validated_data)
        return Response(PriceFields(price).data, status=201)


@extend_schema_view(
    list=extend_schema(summary="The providers", description="Tenants see no addresses and no credentials."),
    retrieve=extend_schema(summary="One provider"),
    create=extend_schema(
        summary="Add a provider",
        request=NewProvider,
        responses={201: ProviderFields},
        examples=[
            OpenApiExample(
                "OpenAI", {"slug": "openai-eu", "kind": "openai", "secret": {"api_key": "sk-…"}}, request_only=True
            ),
            OpenApiExample(
                "vLLM",
                {"slug": "vllm", "kind": "openai_compatible", "base_url": "http://vllm:8000/v1"},
                request_only=True,
            ),
        ],
    ),
    partial_update=extend_schema(summary="Change a provider", request=ProviderFields),
    destroy=extend_schema(summary="Erase a provider without models"),
)
@method_decorator(transaction.non_atomic_requests, name="dispatch")
class ProviderViews(Versioned, GenericViewSet[Provider]):
    """Who computes vectors, where, and with which credentials."""

    read_scope, write_scope = "models:read", "operator"
    serializer_class = ProviderFields
    queryset = Provider.objects.prefetch_related("credentials")
    ordering: tuple[str, ...] = ("slug",)
    filter_backends = (StrictFilters,)
    lookup_field = "slug"
    lookup_value_converter = "slug"

    def _shown_as(self, request: Request) -> type[serializers.BaseSerializer[Any]]:
        return ProviderFields if _is_operator(request) else ProviderGlimpse

    def list(self, request: Request) -> Response:
        rows = self.paginate_queryset(self.filter_queryset(self.get_queryset()))
        return self.get_paginated_response(self._shown_as(request)(rows, many=True).data)

    def hold(self) -> None:
        upstreams.held_provider(self.kwargs["slug"])

    def retrieve(self, request: Request, slug: str) -> Response:
        return Response(self._shown_as(request)(upstreams.find_provider(slug)).data)

    def create(self, request: Request) -> Response:
        fields = NewProvider(data=request.data)
        fields.is_valid(raise_exception=True)
        row = upstreams.add_provider(**fields.validated_data, by_operator=_is_operator(request))
        return Response(ProviderFields(upstreams.find_provider(row.slug)).data, status=201)

    def partial_update(self, request: Request, slug: str) -> Response:
        fields = ProviderFields(upstreams.find_provider(slug), data=request.data, partial=True)
        fields.is_valid(raise_exception=True)
        upstreams.change_provider(
            slug=slug, **fields.validated_data, by_operator=_is_operator(request), once_held=self.check_version
        )
        return Response(ProviderFields(upstreams.find_provider(slug)).data)

    def destroy(self, request: Request, slug: str) -> Response:
        with self.unchanged():
            upstreams.remove_provider(slug=slug)
        return Response(status=204)

    @extend_schema(summary="The platform's credentials there", responses=CredentialFields(many=True), filters=False)
    @action(detail=True, methods=["get"], read_scope="operator", ordering=("created_at", "id"))
    def credentials(self, request: Request, slug: str) -> Response:
        rows = self.paginate_queryset(upstreams.find_provider(slug).credentials.order_by(*self.ordering))  # type: ignore[arg-type]
        return self.get_paginated_response(CredentialFields(rows, many=True).data)

    @extend_schema(summary="Add a credential to rotate over", request=NewCredential, responses={201: CredentialFields})
    @credentials.mapping.post
    def add_credential(self, request: Request, slug: str) -> Response:
        fields = NewCredential(data=request.data)
        fields.is_valid(raise_exception=True)
        row = upstreams.add_credential(slug=slug, **fields.validated_data, by_operator=_is_operator(request))
        return Response(CredentialFields(row).data, status=201)

    @extend_schema(summary="Forget a credential", responses={204: None})
    @action(detail=True, methods=["delete"], url_path="credentials/<uuid:credential_id>")
    def remove_credential(self, request: Request, slug: str, credential_id: UUID) -> Response:
        upstreams.remove_credential(slug=slug, credential_id=credential_id)
        return Response(status=204)

    @extend_schema(
        summary="Test a provider",
        description="A worker asks the vendor for its list of models, once with each enabled credential of the "
        "platform: nothing is embedded and nothing is billed. How it went is told by a GET of this test, for an hour.",
        request=None,
        responses={202: TestFields},
    )
    @action(detail=True, methods=["post"])
    def test(self, request: Request, slug: str) -> Response:
        if request.data:
            raise InvalidRequest("This takes no fields.", param=next(iter(request.data)))
        return Response(TestFields(connection_tests.begin(upstreams.find_provider(slug))).data, status=202)

    @extend_schema(summary="How a test of a provider went", responses=TestFields)
    @action(detail=True, methods=["get"], url_path="tests/<uuid:test_id>", read_scope="operator")
    def tested(self, request: Request, slug: str, test_id: UUID) -> Response:
        return Response(TestFields(connection_tests.find_of(upstreams.find_provider(slug), test_id)).data)


def _shown_model(request: Request, model_id: UUID) -> EmbeddingModel:
    """The row, or `NotFound`; to tenants a draft and a model that is removed are not there."""
    row = services.find_model(model_id)
    if row.state not in SHOWN_TO_TENANTS and not _is_operator(request):
        raise NotFound(f"The catalogue has no model {model_id}.")
    return row


def _is_operator(request: Request) -> bool:
    return bool(request.user.is_operator)  # type: ignore[union-attr]


def _flag(request: Request, name: str, *, default: bool) -> bool:
    values = {"true": True, "1": True, "false": False, "0": False}
    text = request.query_params.get(name, str(default)).lower()
    if text not in values:
        raise InvalidRequest(f"`{name}` is true or false.", param=name)
    return values[text]
