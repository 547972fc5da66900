"""`/api/v1/provider-credentials`: a door. Rules are in `tenants.own_credentials`."""

from __future__ import annotations

from uuid import UUID

import django_filters
from django.db.models import QuerySet
from drf_spectacular.utils import OpenApiExample, extend_schema, extend_schema_view
from rest_framework import mixins, serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet

from catalog.fields import SecretFields, TestFields
from catalog.rest import BY_TIME, StrictFilters, StrictRows, Versioned
from tenants import own_credentials, selectors
from tenants.authentication import tenant_of
from tenants.models import TenantCredential
from tenants.services import hold_tenant


class OwnCredentialFields(StrictRows):
    provider = serializers.CharField(source="provider.slug", read_only=True)
    secret = SecretFields(write_only=True, required=False, help_text="Takes the place of the one before.")

    class Meta:
        model = TenantCredential
        fields = (
            "id",
            "provider",
            "label",
            "use",
            "region",
            "project",
            "resource",
            "secret",
            "hint",
            "is_enabled",
            "created_at",
            "updated_at",
        )
        read_only_fields = ("id", "hint", "created_at", "updated_at")


class NewOwnCredential(OwnCredentialFields):
    provider = serializers.CharField(source="provider.slug", max_length=63, help_text="The slug of the provider.")
    secret = SecretFields(write_only=True)


class OwnCredentialFilters(django_filters.FilterSet):
    provider = django_filters.CharFilter(field_name="provider__slug")

    class Meta:
        model = TenantCredential
        fields = ("use", "is_enabled")


@extend_schema_view(
    list=extend_schema(summary="The tenant's own credentials at providers"),
    retrieve=extend_schema(summary="One of them"),
    create=extend_schema(
        summary="Add a credential of the tenant's own",
        description="Requests of this tenant alone are called with it, and the provider bills the tenant: they cost "
        "nothing here (`paid_by` is `tenant` in usage records), and count in limits of tokens and requests as ever. "
        "`use` says what else may serve: `only` nothing, `first` the platform's credentials when this one fails, at "
        "the platform's price, `last` this one when the platform's fail.",
        request=NewOwnCredential,
        responses={201: OwnCredentialFields},
        examples=[
            OpenApiExample(
                "Their own OpenAI key",
                {"provider": "openai", "label": "ours", "use": "only", "secret": {"api_key": "sk-…"}},
                request_only=True,
            ),
            OpenApiExample(
                "Azure",
                {"provider": "azure", "resource": "acme-embeddings", "secret": {"api_key": "…"}},
                request_only=True,
            ),
        ],
    ),
    update=extend_schema(summary="Replace what is said of a credential"),
    partial_update=extend_schema(summary="Change a credential, or give it another secret"),
    destroy=extend_schema(
        summary="Forget a credential",
        description="No request that begins a second later is called with it. Without any other of the tenant's own "
        "the platform's credentials serve, at the platform's price.",
    ),
)
class OwnCredentialViews(Versioned, mixins.ListModelMixin, GenericViewSet[TenantCredential]):
    """Keys that the caller's tenant has at providers itself."""

    read_scope, write_scope = "models:read", "admin"
    serializer_class = OwnCredentialFields
    queryset = TenantCredential.objects.none()
    filterset_class = OwnCredentialFilters
    orders = (*BY_TIME, "label", "-label")
    filter_backends = (StrictFilters,)
    lookup_value_converter = "uuid"

    def get_queryset(self) -> QuerySet[TenantCredential]:
        return selectors.own_credentials_of(tenant_of(self.request).id)

    def hold(self) -> None:
        hold_tenant(tenant_of(self.request).id)

    def retrieve(self, request: Request, pk: UUID) -> Response:
        return Response(OwnCredentialFields(selectors.find_own_credential(tenant_of(request).id, pk)).data)

    def create(self, request: Request) -> Response:
        fields = NewOwnCredential(data=request.data)
        fields.is_valid(raise_exception=True)
        given = dict(fields.validated_data)
        row = own_credentials.add_credential(
            tenant_id=tenant_of(request).id, provider=given.pop("provider")["slug"], **given
        )
        return Response(OwnCredentialFields(row).data, status=201)

    def update(self, request: Request, pk: UUID) -> Response:
        return self._change(request, pk, partial=False)

    def partial_update(self, request: Request, pk: UUID) -> Response:
        return self._change(request, pk, partial=True)

    def _change(self, request: Request, pk: UUID, *, partial: bool) -> Response:
        tenant_id = tenant_of(request).id
        row = selectors.find_own_credential(tenant_id, pk)
        fields = OwnCredentialFields(row, data=request.data, partial=partial)
        fields.is_valid(raise_exception=True)
        row = own_credentials.change_credential(tenant_id=tenant_id, credential_id=pk, **fields.validated_data)
        return Response(OwnCredentialFields(row).data)

    def destroy(self, request: Request, pk: UUID) -> Response:
        own_credentials.remove_credential(tenant_id=tenant_of(request).id, credential_id=pk)
        return Response(status=204)

    @extend_schema(
        summary="Test a credential",
        description="A worker asks the provider for its list of models with it: nothing is embedded and nothing is "
        "billed. How it went is told by a GET of this test, for an hour.",
        request=None,
        responses={202: TestFields},
    )
    @action(detail=True, methods=["post"])
    def test(self, request: Request, pk: UUID) -> Response:
        test = own_credentials.begin_test(tenant_id=tenant_of(request).id, credential_id=pk)
        return Response(TestFields(test).data, status=202)

    @extend_schema(summary="How a test of a credential went", responses=TestFields)
    @action(detail=True, methods=["get"], url_path="tests/<uuid:test_id>")
    def tested(self, request: Request, pk: UUID, test_id: UUID) -> Response:
        test = own_credentials.find_test(tenant_id=tenant_of(request).id, credential_id=pk, test_id=test_id)
        return Response(TestFields(test).data)
