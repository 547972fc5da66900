"""`/api/v1/embedding-models/discovery/runs`: a door. Rules are in `catalog.discovery_runs`."""

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

from catalog import discovery_runs
from catalog.models import DiscoveryRun
from catalog.rest import StrictFields, StrictFilters, StrictRows, actor_of
from core.errors import InvalidRequest

CHANGE_STATES = ["pending", "applied", "ignored"]


class ChangeFields(serializers.Serializer[Any]):
    """One difference between a vendor's list and the catalogue."""

    key = serializers.CharField(help_text="What `accept` and `ignore` take.")
    change = serializers.ChoiceField(["new", "changed", "deprecated", "gone"])
    identifier = serializers.CharField()
    model_id = serializers.UUIDField(allow_null=True)
    was = serializers.DictField()
    now = serializers.DictField()
    waits = serializers.CharField(help_text="Why it is not applied by itself; empty: the provider's rule says so.")
    state = serializers.ChoiceField(CHANGE_STATES)


class RunGlimpse(StrictRows):
    """A run without its difference."""

    provider = serializers.CharField(source="provider.slug", read_only=True)
    counts = serializers.SerializerMethodField(help_text="Changes by kind.")

    class Meta:
        model = DiscoveryRun
        fields: tuple[str, ...] = (
            "id",
            "provider",
            "state",
            "detail",
            "listed",
            "counts",
            "actor",
            "created_at",
            "ended_at",
        )
        read_only_fields = fields

    def get_counts(self, run: DiscoveryRun) -> dict[str, int]:
        kinds = [each["change"] for each in run.changes]
        return {kind: kinds.count(kind) for kind in sorted(set(kinds))}


class RunFields(RunGlimpse):
    """A run with its difference."""

    changes = ChangeFields(many=True, read_only=True)

    class Meta(RunGlimpse.Meta):
        fields = (*RunGlimpse.Meta.fields, "changes")
        read_only_fields = fields


class NewRuns(StrictFields):
    provider = serializers.CharField(required=False, help_text="A slug; without one, all that can be asked.")


class Decisions(StrictFields):
    accept = serializers.ListField(child=serializers.CharField(max_length=250), required=False, max_length=20_000)
    ignore = serializers.ListField(child=serializers.CharField(max_length=250), required=False, max_length=20_000)
    widths = serializers.DictField(
        child=serializers.IntegerField(min_value=1, max_value=65_536),
        required=False,
        help_text="Dimensions of accepted new models whose width nobody told, by key.",
    )


@extend_schema_view(
    list=extend_schema(
        summary="Looks at vendors' lists of models, the newest first",
        parameters=[
            OpenApiParameter("provider", str, description="Slug of a provider."),
            OpenApiParameter("state", str, enum=DiscoveryRun.State.values),
        ],
    ),
    retrieve=extend_schema(summary="One run with its difference", responses=RunFields),
    create=extend_schema(
        summary="Look now",
        description="Queues one run for each provider; a worker does them.",
        request=NewRuns,
        responses={202: RunGlimpse(many=True)},
    ),
)
@method_decorator(transaction.non_atomic_requests, name="dispatch")
class DiscoveryRunViews(GenericViewSet[DiscoveryRun]):
    """What vendors' lists of models would change in the catalogue."""

    read_scope = write_scope = "operator"
    serializer_class = RunGlimpse
    queryset = DiscoveryRun.objects.select_related("provider")
    filter_backends = (StrictFilters,)
    parameters = ("provider", "state")
    lookup_value_converter = "uuid"

    def list(self, request: Request) -> Response:
        rows, asked = self.filter_queryset(self.get_queryset()), request.query_params
        if asked.get("state", DiscoveryRun.State.QUEUED) not in DiscoveryRun.State.values:
            known = ", ".join(DiscoveryRun.State.values)
            raise InvalidRequest(f"There is no such state; there are {known}.", param="state")
        if "state" in asked:
            rows = rows.filter(state=asked["state"])
        if "provider" in asked:
            rows = rows.filter(provider__slug=asked["provider"])
        page = self.paginate_queryset(rows)
        return self.get_paginated_response(RunGlimpse(page, many=True).data)

    def retrieve(self, request: Request, pk: UUID) -> Response:
        return Response(RunFields(discovery_runs.find_run(pk)).data)

    def create(self, request: Request) -> Response:
        fields = NewRuns(data=request.data)
        fields.is_valid(raise_exception=True)
        runs = discovery_runs.begin_runs(slug=fields.validated_data.get("provider"), actor=actor_of(request))
        return Response({"results": RunGlimpse(runs, many=True).data}, status=202)

    @extend_schema(
        summary="Accept or ignore changes that wait",
        description="Accepted changes are applied all or none. A new model that is ignored is not offered again.",
        request=Decisions,
        responses=RunFields,
        examples=[OpenApiExample("One of them", {"accept": ["new:text-embedding-4"]}, request_only=True)],
    )
    @action(detail=True, methods=["post"])
    def apply(self, request: Request, pk: UUID) -> Response:
        fields = Decisions(data=request.data)
        fields.is_valid(raise_exception=True)
        given = fields.validated_data
        if not given.get("accept") and not given.get("ignore"):
            raise InvalidRequest("Name at least one change.", param="accept")
        with transaction.atomic():
            if given.get("ignore"):
                discovery_runs.ignore(run_id=pk, keys=given["ignore"])
            if given.get("accept"):
                discovery_runs.accept(
                    run_id=pk, keys=given["accept"], widths=given.get("widths"), actor=actor_of(request)
                )
        return Response(RunFields(discovery_runs.find_run(pk)).data)
