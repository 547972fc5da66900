"""`/api/v1/audit-events` and `/api/v1/audit-events/export`: who did what. Doors for reading."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any
from uuid import UUID

import django_filters
from django.db.models import Q, QuerySet
from django.http import StreamingHttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_field, extend_schema_view
from rest_framework import mixins, serializers
from rest_framework.generics import GenericAPIView
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet

from audit import selectors
from audit.actors import Kind
from audit.models import AuditEvent
from catalog.rest import BY_TIME, StrictFilters
from core.clock import utc_now
from core.errors import InvalidRequest, KeyNotPermitted, NotFound
from tenants.audit_exports import export
from tenants.authentication import caller, tenant_of


class ActorFields(serializers.Serializer[Any]):
    kind = serializers.ChoiceField([each.value for each in Kind], source="actor_kind")
    id = serializers.CharField(source="actor_id")
    name = serializers.CharField(source="actor", help_text="In words of the time.")


class SubjectFields(serializers.Serializer[Any]):
    kind = serializers.CharField(source="subject_kind")
    id = serializers.CharField(source="subject_id")


class AuditEventFields(serializers.ModelSerializer[AuditEvent]):
    tenant = serializers.UUIDField(source="tenant_id", allow_null=True, help_text="None: a matter of the platform's.")
    actor = ActorFields(source="*")
    subject = SubjectFields(source="*")
    before = serializers.SerializerMethodField(help_text="Of what changed; none: it is new.")
    after = serializers.SerializerMethodField(help_text="Of what changed; none: it is gone.")

    class Meta:
        model = AuditEvent
        fields = (
            "id",
            "created_at",
            "tenant",
            "actor",
            "action",
            "subject",
            "before",
            "after",
            "address",
            "request_id",
        )

    @extend_schema_field(serializers.DictField(allow_null=True))
    def get_before(self, row: AuditEvent) -> Any:
        return row.before

    @extend_schema_field(serializers.DictField(allow_null=True))
    def get_after(self, row: AuditEvent) -> Any:
        return row.after


class EventFilters(django_filters.FilterSet):
    action = django_filters.CharFilter(method="by_action", label="`api_key.revoked`, or `api_key` for all of its kind.")
    actor = django_filters.CharFilter(method="by_actor", label="Who: an id, or the name as it is shown.")
    subject = django_filters.CharFilter(field_name="subject_id", label="Id of what it was done to.")

    def by_action(self, found: QuerySet[AuditEvent], name: str, value: str) -> QuerySet[AuditEvent]:
        return found.filter(action=value) if "." in value else found.filter(action__startswith=f"{value}.")

    def by_actor(self, found: QuerySet[AuditEvent], name: str, value: str) -> QuerySet[AuditEvent]:
        return found.filter(Q(actor_id=value) | Q(actor=value))


# `from` is no name in Python.
EventFilters.base_filters["from"] = django_filters.IsoDateTimeFilter(
    field_name="created_at", lookup_expr="gte", label="From this moment on."
)
EventFilters.base_filters["to"] = django_filters.IsoDateTimeFilter(
    field_name="created_at", lookup_expr="lt", label="Before this moment."
)
_TENANT = OpenApiParameter(
    "tenant", UUID, description="For operators: whose events; without it everybody's and the platform's."
)


def _asked_tenant(request: Request) -> UUID | None:
    """Whose events are asked for; None (operators alone): everybody's."""
    text = request.query_params.get("tenant")
    try:
        asked = None if text is None else UUID(text)
    except ValueError as error:
        raise InvalidRequest("`tenant` must be the id of a tenant.", param="tenant") from error
    if caller(request).is_operator:
        return asked
    own = tenant_of(request).id
    if asked not in (None, own):
        raise KeyNotPermitted("Only an operator's key reads what was done for another tenant.", param="tenant")
    return own


def _events(request: Request) -> QuerySet[AuditEvent]:
    tenant_id = _asked_tenant(request)
    return selectors.all_events() if tenant_id is None else selectors.events_of(tenant_id)


@extend_schema_view(
    list=extend_schema(summary="What was done, the newest first", parameters=[_TENANT]),
    retrieve=extend_schema(summary="One thing that was done"),
)
class EventViews(mixins.ListModelMixin, GenericViewSet[AuditEvent]):
    """The audit log of the caller's tenant, or, for the platform's operator, of all."""

    read_scope = write_scope = "admin"
    serializer_class = AuditEventFields
    queryset = AuditEvent.objects.none()
    filterset_class = EventFilters
    filter_backends = (StrictFilters,)
    parameters = ("tenant",)
    orders = BY_TIME
    ordered_by = MappingProxyType({"created_at": "id"})  # which begins with the time
    ordering = ("-id",)
    lookup_value_converter = "uuid"

    def get_queryset(self) -> QuerySet[AuditEvent]:
        return _events(self.request)

    def retrieve(self, request: Request, pk: UUID) -> Response:
        row = _events(request).filter(id=pk).first()
        if row is None:
            raise NotFound(f"There is no event {pk}.")
        return Response(AuditEventFields(row).data)


class Lines(JSONRenderer):
    """For callers who accept nothing else; errors are problems all the same."""

    media_type = "application/x-ndjson"
    format = "ndjson"


class ExportEvents(GenericAPIView[AuditEvent]):
    """The same as a file."""

    read_scope = write_scope = "admin"
    renderer_classes = (JSONRenderer, Lines)
    serializer_class = AuditEventFields
    queryset = AuditEvent.objects.none()
    filterset_class = EventFilters
    filter_backends = (StrictFilters,)
    parameters = ("tenant",)
    pagination_class = None

    @extend_schema(
        summary="What was done, as JSON lines, the oldest first",
        description="Streamed, of any length, up to now. Each line is an event as the list shows it. That somebody "
        "took it is in the log afterwards. A stream that breaks off lacks its last chunk, so that clients notice.",
        parameters=[_TENANT],
        filters=True,
        responses={(200, "application/x-ndjson"): OpenApiTypes.STR},
    )
    def get(self, request: Request) -> StreamingHttpResponse:
        rows = self.filter_queryset(_events(request))
        by_operator = caller(request).is_operator
        lines = export(_asked_tenant(request), rows, asked=request.query_params.dict(), by_operator=by_operator)
        response = StreamingHttpResponse(lines, content_type="application/x-ndjson")
        response["Content-Disposition"] = f'attachment; filename="audit-{utc_now():%Y-%m-%d}.jsonl"'
        response["Cache-Control"] = "private, no-store"
        return response
