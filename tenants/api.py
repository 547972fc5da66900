"""`/api/v1/tenants` (operator) and `/api/v1/api-keys`: doors. Rules are in `tenants.services` and `tenants.minting`."""

from __future__ import annotations

from datetime import timedelta
from ipaddress import ip_network
from typing import Any
from uuid import UUID

import django_filters
from django.db.models import Q, QuerySet
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, extend_schema, extend_schema_view
from rest_framework import mixins, serializers
from rest_framework.decorators import action
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet

from catalog.models import slug_rule
from catalog.rest import BY_TIME, StrictFields, StrictFilters, StrictRows, Versioned
from core.clock import utc_now
from core.errors import InvalidRequest, KeyNotPermitted
from tenants import minting, selectors, services
from tenants.authentication import caller, tenant_of
from tenants.models import ApiKey, Tenant
from tenants.rights import Rights
from tenants.scopes import Scope


class TenantFields(StrictRows):
    settings = serializers.DictField(
        required=False,
        help_text="`unpriced_allowed`: models without a price may be used. `fallback` (auto, space or none): that of "
        "requests which say nothing of it. `cache_enabled` (true) and `cache_ttl_s` (3600; at most 30 days): answer "
        "from vectors computed before. `cache_hit_cost_per_million_tokens` (0): USD for what is answered from them. "
        "`thresholds`: percentages of a limit at which somebody is told (80, 90, 95, 100), where the limit itself "
        "names none. `retention_days` (null; 62 to 3650): single requests that are older are deleted each night with "
        "their calls to providers, for good; sums of usage by the hour and longer stay, and prices that are corrected "
        "later no longer correct them. Null: they are kept as long as the platform keeps them.",
    )

    class Meta:
        model = Tenant
        fields = ("id", "name", "slug", "tier", "is_suspended", "settings", "created_at", "updated_at")
        read_only_fields = ("id", "slug", "created_at", "updated_at")


class NewTenant(StrictRows):
    slug = serializers.CharField(max_length=63, validators=[slug_rule])

    class Meta:
        model = Tenant
        fields = ("name", "slug", "tier")


class TenantFilters(django_filters.FilterSet):
    q = django_filters.CharFilter(method="containing", label="Part of a name or a slug.")

    class Meta:
        model = Tenant
        fields = ("tier", "is_suspended")

    def containing(self, found: QuerySet[Tenant], name: str, value: str) -> QuerySet[Tenant]:
        return found.filter(Q(name__icontains=value) | Q(slug__icontains=value))


@extend_schema_view(
    list=extend_schema(summary="All tenants"),
    retrieve=extend_schema(summary="One tenant"),
    create=extend_schema(
        summary="Add a tenant",
        request=NewTenant,
        responses={201: TenantFields},
        examples=[OpenApiExample("A tenant", {"name": "Acme", "slug": "acme", "tier": "standard"}, request_only=True)],
    ),
    partial_update=extend_schema(summary="Change a tenant, or suspend it", request=TenantFields),
)
class TenantViews(Versioned, mixins.ListModelMixin, GenericViewSet[Tenant]):
    """The platform's tenants, for its operator."""

    read_scope = write_scope = "operator"
    serializer_class = TenantFields
    queryset = Tenant.objects.all()
    filterset_class = TenantFilters
    orders = ("slug", "-slug", *BY_TIME)
    ordering = ("slug",)
    filter_backends = (StrictFilters,)
    lookup_value_converter = "uuid"

    def hold(self) -> None:
        services.hold_tenant(self.kwargs["pk"])

    def retrieve(self, request: Request, pk: UUID) -> Response:
        return Response(TenantFields(selectors.find_tenant(pk)).data)

    def create(self, request: Request) -> Response:
        fields = NewTenant(data=request.data)
        fields.is_valid(raise_exception=True)
        return Response(TenantFields(services.add_tenant(**fields.validated_data)).data, status=201)

    def partial_update(self, request: Request, pk: UUID) -> Response:
        fields = TenantFields(selectors.find_tenant(pk), data=request.data, partial=True)
        fields.is_valid(raise_exception=True)
        return Response(TenantFields(services.change_tenant(tenant_id=pk, **fields.validated_data)).data)


class KeyFields(StrictFields):
    """A key as it is shown: recognised by its prefix, never readable."""

    id = serializers.UUIDField(read_only=True)
    tenant = serializers.UUIDField(source="tenant_id", read_only=True, allow_null=True)
    name = serializers.CharField(read_only=True)
    prefix = serializers.CharField(read_only=True)
    scopes = serializers.ListField(child=serializers.CharField(), read_only=True)
    models = serializers.ListField(source="models_allowed", child=serializers.CharField(), read_only=True)
    networks = serializers.ListField(child=serializers.CharField(), read_only=True)
    agent_id = serializers.CharField(read_only=True)
    created_by = serializers.EmailField(
        source="created_by.email", read_only=True, default=None, help_text="The person who made it; null: a program."
    )
    created_with = serializers.UUIDField(
        source="created_with_id", read_only=True, allow_null=True, help_text="The key that minted it."
    )
    rotated_from = serializers.UUIDField(
        source="rotated_from_id",
        read_only=True,
        allow_null=True,
        help_text="The key that made it of itself, as its successor, and that it ends with.",
    )
    expires_at = serializers.DateTimeField(read_only=True, allow_null=True)
    revoked_at = serializers.DateTimeField(read_only=True, allow_null=True)
    last_used_at = serializers.DateTimeField(
        read_only=True, allow_null=True, help_text="Written about every half minute."
    )
    created_at = serializers.DateTimeField(read_only=True)
    updated_at = serializers.DateTimeField(read_only=True)


class MintedKey(KeyFields):
    key = serializers.CharField(read_only=True, help_text="The key itself, in this answer only.")


class Network(serializers.CharField):
    """An address or a range, as `10.0.0.0/8`."""

    def to_internal_value(self, data: Any) -> Any:
        try:
            return ip_network(super().to_internal_value(data))
        except ValueError as error:
            raise ValidationError(f"{error}; write an address or a range such as 10.0.0.0/8.") from error


class NewKey(StrictFields):
    name = serializers.CharField(max_length=200)
    scopes = serializers.ListField(child=serializers.ChoiceField([s.value for s in Scope]), allow_empty=False)
    expires_at = serializers.DateTimeField(required=False, allow_null=True, default=None)
    models = serializers.ListField(
        child=serializers.CharField(max_length=200), default=list, help_text="Empty: all of the tenant's."
    )
    networks = serializers.ListField(child=Network(), default=list, help_text="Empty: from anywhere.")
    agent_id = serializers.CharField(max_length=200, default="", allow_blank=True)
    tenant = serializers.UUIDField(required=False, help_text="For operators: whom the key is for.")


class ChangedKey(KeyFields):
    """What may be changed: never the scopes, never the agent."""

    name = serializers.CharField(max_length=200, required=False)
    models = serializers.ListField(
        source="models_allowed",
        child=serializers.CharField(max_length=200),
        required=False,
        help_text="Empty: all of the tenant's, or those of the key that asks.",
    )
    networks = serializers.ListField(
        child=Network(), required=False, help_text="Empty: from anywhere, or from where the key that asks may be used."
    )
    expires_at = serializers.DateTimeField(required=False, allow_null=True)

    @property
    def changes(self) -> dict[str, Any]:
        """What was sent, in the words of `tenants.minting`."""
        sent = dict(self.validated_data)
        if "models_allowed" in sent:
            sent["models"] = sent.pop("models_allowed")
        return sent


class KeyFilters(django_filters.FilterSet):
    q = django_filters.CharFilter(method="containing", label="Part of the name, or the beginning of the key.")
    standing = django_filters.ChoiceFilter(
        choices=[("active", "active"), ("expired", "expired"), ("revoked", "revoked")], method="standing_as"
    )
    scope = django_filters.ChoiceFilter(choices=[(each.value, each.value) for each in Scope], method="having")

    class Meta:
        model = ApiKey
        fields = ("agent_id",)

    def containing(self, found: QuerySet[ApiKey], name: str, value: str) -> QuerySet[ApiKey]:
        return found.filter(Q(name__icontains=value) | Q(prefix__startswith=value))

    def standing_as(self, found: QuerySet[ApiKey], name: str, value: str) -> QuerySet[ApiKey]:
        is_expired = Q(expires_at__lte=utc_now())
        if value == "revoked":
            return found.exclude(revoked_at=None)
        return found.filter(is_expired if value == "expired" else ~is_expired, revoked_at=None)

    def having(self, found: QuerySet[ApiKey], name: str, value: str) -> QuerySet[ApiKey]:
        return found.filter(scopes__contains=[value])


class Overlap(StrictFields):
    overlap_seconds = serializers.IntegerField(
        min_value=0, default=0, help_text="How long the old key lives on; 0: it ends at once."
    )


_TENANT = OpenApiParameter("tenant", UUID, description="For operators: whose keys; without it the platform's own.")


@extend_schema_view(
    list=extend_schema(summary="The tenant's keys", parameters=[_TENANT]),
    retrieve=extend_schema(summary="One key"),
    create=extend_schema(
        summary="Mint a key",
        description="What is not restricted is inherited from the key that asks; more than that is refused. What the "
        "new key uses counts on the limits of the key that asks as well. The key itself is in this answer only.",
        request=NewKey,
        responses={201: MintedKey},
        examples=[
            OpenApiExample("For a search service", {"name": "search", "scopes": ["embeddings"]}, request_only=True)
        ],
    ),
    destroy=extend_schema(
        summary="Revoke a key",
        description="Ends the key, the keys that it minted for its own tenant, and the successors that it made of "
        "itself. A successor that asks goes on: so a program that has changed over ends its old key early. Whoever "
        "else wants to end the old key alone sets its `expires_at`.",
    ),
)
class ApiKeyViews(Versioned, mixins.ListModelMixin, GenericViewSet[ApiKey]):
    """API keys: a tenant's own, or, for the platform's operator, anybody's."""

    read_scope = write_scope = "keys:write"
    serializer_class = KeyFields
    queryset = ApiKey.objects.none()
    filterset_class = KeyFilters
    filter_backends = (StrictFilters,)
    parameters = ("tenant",)
    orders = (*BY_TIME, "name", "-name")
    volatile = frozenset({"key", "last_used_at"})
    lookup_value_converter = "uuid"

    def get_queryset(self) -> QuerySet[ApiKey]:
        asked = self.request.query_params.get("tenant")
        found = selectors.keys_of(_whose(self.request, None if asked is None else _uuid(asked)))
        return found.select_related("created_by")

    def hold(self) -> None:
        minting.hold_key(key_id=self.kwargs["pk"], tenant_id=_reach(self.request))

    def retrieve(self, request: Request, pk: UUID) -> Response:
        return Response(KeyFields(selectors.find_key_row(_reach(request), pk)).data)

    def create(self, request: Request) -> Response:
        fields = NewKey(data=request.data)
        fields.is_valid(raise_exception=True)
        asked = fields.validated_data
        rights = Rights(
            scopes=frozenset(asked["scopes"]),
            models=frozenset(asked["models"]),
            networks=tuple(asked["networks"]),
            agent_id=asked["agent_id"],
            expires_at=asked["expires_at"],
        )
        row, text = minting.mint_key(
            tenant_id=_whose(request, asked.get("tenant")),
            name=asked["name"],
            rights=rights,
            creator=caller(request).grant,
        )
        return _minted(row, text)

    @extend_schema(
        summary="Change a key's name, end, models or networks",
        description="The key that asks must have all that this one has, before and after.",
        request=ChangedKey,
        responses=KeyFields,
    )
    def partial_update(self, request: Request, pk: UUID) -> Response:
        fields = ChangedKey(selectors.find_key_row(_reach(request), pk), data=request.data, partial=True)
        fields.is_valid(raise_exception=True)
        row = minting.change_key(key_id=pk, tenant_id=_reach(request), by=caller(request).grant, **fields.changes)
        return Response(KeyFields(row).data)

    @extend_schema(
        summary="Replace a key by a new one",
        description="With the same rights. Its limits hold on, for both keys together, and are found at the new one.",
        request=Overlap,
        responses={201: MintedKey},
    )
    @action(detail=True, methods=["post"])
    def rotate(self, request: Request, pk: UUID) -> Response:
        fields = Overlap(data=request.data)
        fields.is_valid(raise_exception=True)
        row, text = minting.rotate_key(
            key_id=pk,
            tenant_id=_reach(request),
            overlap=timedelta(seconds=fields.validated_data["overlap_seconds"]),
            by=caller(request).grant,
        )
        return _minted(row, text)

    def destroy(self, request: Request, pk: UUID) -> Response:
        minting.revoke_key(key_id=pk, tenant_id=_reach(request), by=caller(request).grant)
        return Response(status=204)


def _whose(request: Request, asked: UUID | None) -> UUID | None:
    if caller(request).is_operator:
        return asked
    own = tenant_of(request).id
    if asked not in (None, own):
        raise KeyNotPermitted("Only an operator's key works for another tenant.", param="tenant")
    return own


def _reach(request: Request) -> UUID | None:
    return None if caller(request).is_operator else tenant_of(request).id


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        raise InvalidRequest("`tenant` must be the id of a tenant.", param="tenant") from error


def _minted(row: ApiKey, text: str) -> Response:
    response = Response(KeyFields(row).data | {"key": text}, status=201)
    response["Cache-Control"] = "no-store"
    return response
