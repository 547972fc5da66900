"""`/api/v1/alerts` and `/api/v1/alert-channels`: doors. An operator's key sees the platform's own."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import django_filters
from django.db.models import QuerySet
from drf_spectacular.utils import OpenApiExample, extend_schema, extend_schema_field, extend_schema_view
from rest_framework import mixins, serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet

from alerts import selectors, services
from alerts.kinds import Severity
from alerts.models import Alert, AlertChannel, Delivery
from alerts.signing import secret_of
from catalog.rest import BY_TIME, StrictFilters, StrictRows, Versioned
from tenants.authentication import caller, tenant_of


class DeliveryFields(serializers.ModelSerializer[Delivery]):
    channel = serializers.CharField(
        source="channel.name",
        default=None,
        allow_null=True,
        help_text="Null: those who are told while no channel is set up.",
    )
    state = serializers.ChoiceField(
        Delivery.State.choices, help_text="`not_set_up`: this platform has no mail server, and nothing was sent."
    )

    class Meta:
        model = Delivery
        fields = ("id", "channel", "state", "attempts", "last_error", "created_at", "sent_at")


class AlertFields(serializers.ModelSerializer[Alert]):
    subject = serializers.CharField(source="subject_key", help_text="What it is about, such as the id of a limit.")
    detail = serializers.DictField(help_text="The figures; which ones depends on the kind.")

    class Meta:
        model = Alert
        fields = (
            "id",
            "kind",
            "severity",
            "state",
            "title",
            "subject",
            "period_start",
            "threshold",
            "detail",
            "created_at",
            "acknowledged_at",
            "acknowledged_by",
            "resolved_at",
        )


class AlertWithDeliveries(AlertFields):
    deliveries = DeliveryFields(many=True)

    class Meta(AlertFields.Meta):
        fields = (*AlertFields.Meta.fields, "deliveries")  # type: ignore[assignment]


class AlertFilters(django_filters.FilterSet):
    class Meta:
        model = Alert
        fields = ("state", "kind", "severity")


@extend_schema_view(
    list=extend_schema(summary="What somebody was told, the newest first"),
    retrieve=extend_schema(summary="One alert, and how it was told", responses=AlertWithDeliveries),
    acknowledge=extend_schema(summary="Say that somebody has seen it", request=None, responses=AlertWithDeliveries),
)
class AlertViews(mixins.ListModelMixin, GenericViewSet[Alert]):
    """The alerts of the caller's tenant."""

    read_scope, write_scope = "usage:read", "billing:write"
    serializer_class = AlertFields
    queryset = Alert.objects.none()
    filterset_class = AlertFilters
    filter_backends = (StrictFilters,)
    orders = BY_TIME
    lookup_value_converter = "uuid"

    def get_queryset(self) -> QuerySet[Alert]:
        return selectors.alerts_of(_whose(self.request))

    def retrieve(self, request: Request, pk: UUID) -> Response:
        return Response(AlertWithDeliveries(selectors.find_alert(_whose(request), pk)).data)

    @action(detail=True, methods=["post"])
    def acknowledge(self, request: Request, pk: UUID) -> Response:
        by = f"key {caller(request).grant.key_id}"
        return Response(AlertWithDeliveries(services.acknowledge(tenant_id=_whose(request), alert_id=pk, by=by)).data)


class ChannelFields(StrictRows):
    targets = serializers.ListField(
        child=serializers.CharField(max_length=2000),
        allow_empty=False,
        max_length=services.MOST_TARGETS,
        help_text="E-mail addresses, or the one address (https://…) of a webhook.",
    )
    minimum_severity = serializers.ChoiceField(
        [(each.value, each.value) for each in Severity],
        required=False,
        help_text="What is less grave is not told here; `warning` unless said otherwise.",
    )

    class Meta:
        model = AlertChannel
        fields = (
            "id",
            "name",
            "kind",
            "targets",
            "minimum_severity",
            "is_enabled",
            "verified_at",
            "created_at",
            "updated_at",
        )
        read_only_fields = ("id", "verified_at", "created_at", "updated_at")
        validators = ()  # the tenant is no field, and a second one is a 409


class ChannelWithSecret(ChannelFields):
    secret = serializers.CharField(
        read_only=True, help_text="Of a webhook: what its messages are signed with, in this answer only."
    )

    class Meta(ChannelFields.Meta):
        fields = (*ChannelFields.Meta.fields, "secret")  # type: ignore[assignment]


class ChannelSecretFields(serializers.Serializer[Any]):
    secret = serializers.CharField(help_text="In this answer only.")


class ChannelWithTest(ChannelFields):
    last_test = serializers.SerializerMethodField()

    class Meta(ChannelFields.Meta):
        fields = (*ChannelFields.Meta.fields, "last_test")  # type: ignore[assignment]

    @extend_schema_field(DeliveryFields(allow_null=True))
    def get_last_test(self, row: AlertChannel) -> dict[str, Any] | None:
        found = selectors.last_test(row)
        return None if found is None else dict(DeliveryFields(found).data)


class ChannelFilters(django_filters.FilterSet):
    class Meta:
        model = AlertChannel
        fields = ("kind", "is_enabled", "minimum_severity")


@extend_schema_view(
    list=extend_schema(summary="The ways in which somebody is told"),
    retrieve=extend_schema(summary="One channel, and how its last test went", responses=ChannelWithTest),
    create=extend_schema(
        summary="Add a channel",
        description="While there is none, owners, admins and billing members are told by mail. A webhook gets a POST, "
        "signed as Standard Webhooks has it with the `secret` of this answer, and takes it with a 2xx; it must be on "
        "the internet, and redirects are not followed.",
        responses={201: ChannelWithSecret},
        examples=[
            OpenApiExample(
                "A mailing list",
                {"name": "on call", "targets": ["oncall@example.com"], "minimum_severity": "critical"},
                request_only=True,
            ),
            OpenApiExample(
                "A webhook",
                {"name": "pager", "kind": "webhook", "targets": ["https://hooks.example.com/quiver"]},
                request_only=True,
            ),
        ],
    ),
    update=extend_schema(summary="Replace a channel"),
    partial_update=extend_schema(summary="Change a channel"),
    destroy=extend_schema(summary="Forget a channel"),
    test=extend_schema(
        summary="Send a test",
        description="Sent in the background; the channel is verified once the mail server, or the webhook, took it.",
        request=None,
        responses={202: DeliveryFields},
    ),
)
class ChannelViews(Versioned, mixins.ListModelMixin, GenericViewSet[AlertChannel]):
    """The channels of the caller's tenant."""

    read_scope, write_scope = "usage:read", "billing:write"
    serializer_class = ChannelFields
    queryset = AlertChannel.objects.none()
    filterset_class = ChannelFilters
    orders = (*BY_TIME, "name", "-name")
    filter_backends = (StrictFilters,)
    volatile = frozenset({"last_test", "secret"})
    lookup_value_converter = "uuid"

    def get_queryset(self) -> QuerySet[AlertChannel]:
        return selectors.channels_of(_whose(self.request))

    def hold(self) -> None:
        services.held_channel(_whose(self.request), self.kwargs["pk"])

    def retrieve(self, request: Request, pk: UUID) -> Response:
        return Response(ChannelWithTest(selectors.find_channel(_whose(request), pk)).data)

    def create(self, request: Request) -> Response:
        fields = ChannelFields(data=request.data)
        fields.is_valid(raise_exception=True)
        row = services.add_channel(tenant_id=_whose(request), **fields.validated_data)
        shown = dict(ChannelFields(row).data)
        if row.sealed:
            shown["secret"] = secret_of(row)
        response = Response(shown, status=201)
        response["Cache-Control"] = "no-store"
        return response

    def update(self, request: Request, pk: UUID) -> Response:
        return self._change(request, pk, partial=False)

    def partial_update(self, request: Request, pk: UUID) -> Response:
        return self._change(request, pk, partial=True)

    def _change(self, request: Request, pk: UUID, *, partial: bool) -> Response:
        whose = _whose(request)
        fields = ChannelFields(selectors.find_channel(whose, pk), data=request.data, partial=partial)
        fields.is_valid(raise_exception=True)
        row = services.change_channel(tenant_id=whose, channel_id=pk, **fields.validated_data)
        return Response(ChannelFields(row).data)

    def destroy(self, request: Request, pk: UUID) -> Response:
        services.remove_channel(tenant_id=_whose(request), channel_id=pk)
        return Response(status=204)

    @action(detail=True, methods=["post"])
    def test(self, request: Request, pk: UUID) -> Response:
        delivery = services.test_channel(tenant_id=_whose(request), channel_id=pk)
        return Response(DeliveryFields(delivery).data, status=202)

    @extend_schema(
        summary="Give a webhook another secret",
        description="Messages are signed with it from the next one on. It is in this answer only.",
        request=None,
        responses=ChannelSecretFields,
    )
    @action(detail=True, methods=["post"], url_path="renew-secret")
    def renew_secret(self, request: Request, pk: UUID) -> Response:
        secret = services.renew_secret(tenant_id=_whose(request), channel_id=pk)
        response = Response(ChannelSecretFields({"secret": secret}).data)
        response["Cache-Control"] = "no-store"
        return response


def _whose(request: Request) -> UUID | None:
    return None if caller(request).is_operator else tenant_of(request).id
