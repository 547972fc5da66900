"""`/api/v1/tenant`, `/members` and `/invitations`: the caller's own tenant and its people. Doors. Rules are in
`tenants.services`, `tenants.members` and `tenants.invitations`.

A key acts among people as who made it: one that an admin made manages no owners.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

import django_filters
from django.db.models import Q, QuerySet
from drf_spectacular.utils import OpenApiExample, extend_schema, extend_schema_view
from rest_framework import mixins, serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet

from catalog.rest import BY_TIME, StrictFields, StrictFilters, Versioned
from core.clock import utc_now
from tenants import invitations, mail, members, selectors, services
from tenants.api import TenantFields
from tenants.authentication import caller, tenant_of
from tenants.links import invitation_link
from tenants.models import Invitation, Membership, Role, Tenant


class OwnTenant(TenantFields):
    class Meta(TenantFields.Meta):
        read_only_fields = (*TenantFields.Meta.read_only_fields, "tier", "is_suspended")  # type: ignore[assignment]


@extend_schema_view(
    retrieve=extend_schema(summary="The tenant that the key belongs to", responses=OwnTenant),
    partial_update=extend_schema(
        summary="Change its name or its settings",
        description="Of `settings`, what is sent; the others stay. The tier is the operator's to set.",
        request=OwnTenant,
        responses=OwnTenant,
        examples=[OpenApiExample("A shorter memory", {"settings": {"cache_ttl_s": 600}}, request_only=True)],
    ),
)
class OwnTenantView(Versioned, GenericViewSet[Tenant]):
    """The caller's own tenant."""

    read_scope, write_scope = "usage:read", "admin"
    serializer_class = OwnTenant
    queryset = Tenant.objects.none()

    def hold(self) -> None:
        services.hold_tenant(tenant_of(self.request).id)

    def retrieve(self, request: Request) -> Response:
        return Response(OwnTenant(selectors.find_tenant(tenant_of(request).id)).data)

    def partial_update(self, request: Request) -> Response:
        tenant = tenant_of(request)
        fields = OwnTenant(tenant, data=request.data, partial=True)
        fields.is_valid(raise_exception=True)
        return Response(OwnTenant(services.change_tenant(tenant_id=tenant.id, **fields.validated_data)).data)


class MemberFields(StrictFields):
    id = serializers.IntegerField(source="user_id", read_only=True, help_text="Of the person.")
    email = serializers.EmailField(source="user.email", read_only=True)
    name = serializers.CharField(source="user.name", read_only=True)
    role = serializers.ChoiceField(Role.choices)
    is_active = serializers.BooleanField(
        source="user.is_active", read_only=True, help_text="False: the operator lets them in no longer."
    )
    created_at = serializers.DateTimeField(read_only=True)


class MemberFilters(django_filters.FilterSet):
    q = django_filters.CharFilter(method="containing", label="Part of an e-mail address or a name.")

    class Meta:
        model = Membership
        fields = ("role",)

    def containing(self, found: QuerySet[Membership], name: str, value: str) -> QuerySet[Membership]:
        return found.filter(Q(user__email__icontains=value) | Q(user__name__icontains=value))


@extend_schema_view(
    list=extend_schema(summary="The tenant's people"),
    retrieve=extend_schema(summary="One of them"),
    partial_update=extend_schema(
        summary="Give somebody another role",
        description="A role, and somebody who has it, is in reach of those who have it or more. The last owner stays "
        "one. Keys that somebody made do no more than their role allows from then on.",
        request=MemberFields,
        examples=[OpenApiExample("Make an admin", {"role": "admin"}, request_only=True)],
    ),
    destroy=extend_schema(
        summary="Take somebody out of the tenant",
        description="Not the last owner. Keys that they made do nothing any more; rotated by somebody else before, "
        "they live on.",
    ),
)
class MemberViews(Versioned, mixins.ListModelMixin, GenericViewSet[Membership]):
    """The people of the caller's tenant. Who is not there yet is invited."""

    read_scope = write_scope = "admin"
    serializer_class = MemberFields
    queryset = Membership.objects.none()
    filterset_class = MemberFilters
    orders = BY_TIME
    filter_backends = (StrictFilters,)
    lookup_value_converter = "int"

    def get_queryset(self) -> QuerySet[Membership]:
        return selectors.members_of(tenant_of(self.request).id)

    def hold(self) -> None:
        services.hold_tenant(tenant_of(self.request).id)

    def retrieve(self, request: Request, pk: int) -> Response:
        return Response(MemberFields(members.find_member(tenant_of(request).id, pk)).data)

    def partial_update(self, request: Request, pk: int) -> Response:
        tenant_id = tenant_of(request).id
        fields = MemberFields(members.find_member(tenant_id, pk), data=request.data, partial=True)
        fields.is_valid(raise_exception=True)
        if "role" in fields.validated_data:
            role = Role(fields.validated_data["role"])
            members.change_role(tenant_id=tenant_id, user_id=pk, role=role, by=caller(request).grant)
        return self.retrieve(request, pk)

    def destroy(self, request: Request, pk: int) -> Response:
        members.remove_member(tenant_id=tenant_of(request).id, user_id=pk, by=caller(request).grant)
        return Response(status=204)


class InvitationFields(StrictFields):
    id = serializers.UUIDField(read_only=True)
    email = serializers.EmailField(max_length=254)
    role = serializers.ChoiceField(Role.choices)
    state = serializers.SerializerMethodField()
    invited_by = serializers.EmailField(
        source="invited_by.email", read_only=True, default=None, help_text="Null: a program that nobody stands behind."
    )
    created_at = serializers.DateTimeField(read_only=True)
    expires_at = serializers.DateTimeField(read_only=True)
    accepted_at = serializers.DateTimeField(read_only=True, allow_null=True)
    revoked_at = serializers.DateTimeField(read_only=True, allow_null=True)

    def get_state(self, row: Invitation) -> str:
        return invitations.state_of(row, utc_now())


class MadeInvitation(InvitationFields):
    link = serializers.CharField(read_only=True, help_text="Where it is accepted; in this answer only.")
    is_mailed = serializers.BooleanField(
        read_only=True, help_text="False: no mail is set up here, so pass the link on yourself."
    )


class InvitationFilters(django_filters.FilterSet):
    state = django_filters.ChoiceFilter(
        choices=[(each, each) for each in ("open", "accepted", "revoked", "expired")], method="being"
    )
    email = django_filters.CharFilter(field_name="email", lookup_expr="iexact")

    class Meta:
        model = Invitation
        fields = ("role",)

    def being(self, found: QuerySet[Invitation], name: str, value: str) -> QuerySet[Invitation]:
        return invitations.in_state(found, value, utc_now())


@extend_schema_view(
    list=extend_schema(summary="Who was invited, the newest first"),
    retrieve=extend_schema(summary="One invitation"),
    create=extend_schema(
        summary="Invite somebody",
        description="The link makes whoever owns the address a member, once, within a week, and ends an earlier "
        "invitation to them. It is in this answer only, and mailed where mail is set up.",
        request=InvitationFields,
        responses={201: MadeInvitation},
        examples=[
            OpenApiExample("A colleague", {"email": "jo@example.com", "role": "viewer"}, request_only=True),
        ],
    ),
    destroy=extend_schema(summary="Revoke an invitation", description="Its link ends at once; the row stays."),
)
class InvitationViews(Versioned, mixins.ListModelMixin, GenericViewSet[Invitation]):
    """Roles in the caller's tenant that were offered to somebody."""

    read_scope = write_scope = "admin"
    serializer_class = InvitationFields
    queryset = Invitation.objects.none()
    filterset_class = InvitationFilters
    orders = (*BY_TIME, "email", "-email")
    filter_backends = (StrictFilters,)
    volatile = frozenset({"link", "is_mailed"})  # told once
    lookup_value_converter = "uuid"

    def get_queryset(self) -> QuerySet[Invitation]:
        return invitations.invitations_of(tenant_of(self.request).id).select_related("invited_by")

    def hold(self) -> None:
        services.hold_tenant(tenant_of(self.request).id)

    def retrieve(self, request: Request, pk: UUID) -> Response:
        return Response(InvitationFields(invitations.find_invitation(tenant_of(request).id, pk)).data)

    def create(self, request: Request) -> Response:
        fields = InvitationFields(data=request.data)
        fields.is_valid(raise_exception=True)
        row, token = invitations.invite(
            tenant_id=tenant_of(request).id,
            email=fields.validated_data["email"],
            role=Role(fields.validated_data["role"]),
            by=caller(request).grant,
        )
        told: dict[str, Any] = {"link": invitation_link(token, request), "is_mailed": mail.is_set_up()}
        response = Response(InvitationFields(row).data | told, status=201)
        response["Cache-Control"] = "no-store"
        return response

    def destroy(self, request: Request, pk: UUID) -> Response:
        invitations.revoke(tenant_id=tenant_of(request).id, invitation_id=pk, by=caller(request).grant)
        return Response(status=204)
