"""Admin of people, memberships and invitations: doors. Accounts are the operator's; a tenant's people manage those of
their own tenant as far as their role reaches, which `tenants.members` decides.
"""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.auth.models import Group
from django.db.models import Count, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from unfold.contrib.filters.admin import ChoicesDropdownFilter
from unfold.decorators import action, display
from unfold.widgets import UnfoldBooleanSwitchWidget

from catalog.admin_base import Dialog, HouseAdmin, RowForm, is_operator
from catalog.admin_looks import TONES, when
from core.clock import utc_now
from tenants import invitations, members, passwords, services
from tenants.admin_scope import TenantScoped
from tenants.current import current_membership
from tenants.links import invitation_link
from tenants.mail import is_set_up
from tenants.models import Invitation, Membership, Role, User
from tenants.roles import Power, may_manage

admin.site.unregister(Group)  # rights come from memberships


class UserForm(RowForm):
    is_operator = forms.BooleanField(
        label="Operator of the platform",
        required=False,
        widget=UnfoldBooleanSwitchWidget,
        help_text="Sees and changes everything, of all tenants.",
    )


@admin.register(User)
class UserAdmin(HouseAdmin[User]):
    """Accounts, for operators. Nobody's password is seen or set here: a link lets people set their own."""

    adds = True
    form = UserForm
    list_display = ("email", "name", "standing", "shown_kind", "tenants_count", "last_seen", "created")
    list_filter = ("is_active", "is_superuser")
    search_fields = ("email", "name")
    search_help_text = "E-mail address or name"
    actions_detail = ("reset_password", "deactivate", "activate")
    ordering = ("email",)  # counting drops the rows' own
    fields = ("email", "name", "standing", "shown_kind", "last_login", "created_at")
    add_fieldsets = (
        (
            None,
            {
                "fields": ("email", "name", "is_operator"),
                "description": "For people of a tenant an invitation is the shorter way. An account made here has no "
                "password until its owner sets one by a link from the next page.",
            },
        ),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[User]:
        rows: QuerySet[User] = super().get_queryset(request)
        return rows.annotate(tenants_=Count("memberships"))

    @display(description="standing", ordering="is_active", label=TONES)
    def standing(self, row: User) -> str:
        return "active" if row.is_active else "deactivated"

    @display(description="kind", ordering="is_superuser", label={"operator": "primary"})
    def shown_kind(self, row: User) -> str:
        return "operator" if row.is_superuser else "person"

    @admin.display(description="tenants", ordering="tenants_")
    def tenants_count(self, row: Any) -> int:
        return int(row.tenants_)

    @admin.display(description="last signed in", ordering="last_login")
    def last_seen(self, row: User) -> str:
        return when(row.last_login)

    @admin.display(description="since", ordering="created_at")
    def created(self, row: User) -> str:
        return when(row.created_at)

    def add_row(self, request: HttpRequest, form: RowForm) -> User:
        given = form.cleaned_data
        return services.add_user(email=given["email"], name=given["name"], is_operator=given["is_operator"])

    def response_post_save_add(self, request: HttpRequest, obj: User) -> HttpResponse:
        return redirect(self.url("change", obj.pk))

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> Any:
        found = super().get_actions_detail(request, object_id)
        unfit = ("activate",) if self.get_object(request, object_id).is_active else ("deactivate", "reset_password")
        return [each for each in found if each.path not in unfit]

    @action(description="Link to a new password", icon="lock_reset", permissions=["view"])
    def reset_password(self, request: HttpRequest, object_id: str) -> HttpResponse:
        row = self.get_object(request, object_id)

        def act(given: dict[str, Any]) -> HttpResponse:
            link = passwords.make_reset_link(user_id=row.pk, by=_person(request), request=request)
            text = f"Pass this link on to {row.email}. It sets a new password, once, within a day."
            return self.show_once(request, row, title="Link to a new password", text=text, secret=link)

        dialog = Dialog(
            f"Make a link for {row.email}",
            "Whoever has the link can set a new password for this account. The old one works until then.",
            "Make link",
        )
        return self.ask(request, row, dialog, act)

    @action(description="Deactivate", icon="person_off", permissions=["view"])
    def deactivate(self, request: HttpRequest, object_id: str) -> HttpResponse:
        row = self.get_object(request, object_id)
        dialog = Dialog(
            f"Deactivate {row.email}",
            "They can no longer sign in, and are out with the next click. Keys that they made as a member of a tenant "
            "do nothing meanwhile; rotated by somebody else before, they live on.",
            "Deactivate",
            is_dangerous=True,
        )
        return self.ask(request, row, dialog, lambda _: self._set_active(request, row, False))

    @action(description="Activate", icon="person_check", permissions=["view"])
    def activate(self, request: HttpRequest, object_id: str) -> HttpResponse:
        row = self.get_object(request, object_id)
        dialog = Dialog(f"Activate {row.email}", "They can sign in again.", "Activate")
        return self.ask(request, row, dialog, lambda _: self._set_active(request, row, True))

    def _set_active(self, request: HttpRequest, row: User, is_active: bool) -> str:
        members.set_active(user_id=row.pk, is_active=is_active, by=_person(request))
        return f"{row.email} is {'active' if is_active else 'deactivated'} now."


@admin.register(Membership)
class MembershipAdmin(TenantScoped[Membership]):
    adds = changes = removes = True
    power = Power.PEOPLE
    list_display = ("email", "name", "shown_role", "standing", "created")
    list_filter = (("role", ChoicesDropdownFilter),)
    list_select_related = ("user",)
    search_fields = ("user__email", "user__name")
    search_help_text = "E-mail address or name"
    autocomplete_fields = ("user",)
    readonly_fields = ("email", "name", "standing", "created_at")
    fieldsets = (
        (
            None,
            {
                "fields": ("email", "name", "role", "standing", "created_at"),
                "description": "Owners do everything. Admins everything but manage owners. Billing sets limits and "
                "budgets and reads the rest. Viewers read.",
            },
        ),
    )
    add_fieldsets = ((None, {"fields": ("user", "role")}),)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return is_operator(request)  # members invite: they do not choose among all people of the platform

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_change_permission(request, obj) and self._reaches(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        is_own = isinstance(obj, Membership) and obj.user_id == request.user.pk
        return is_own or (super().has_delete_permission(request, obj) and self._reaches(request, obj))

    def _reaches(self, request: HttpRequest, obj: Any) -> bool:
        own = current_membership(request)
        return own is None or not isinstance(obj, Membership) or may_manage(own.role, obj.role)

    def formfield_for_choice_field(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        if db_field.name == "role":
            kwargs["choices"] = roles_to_give(request)
        return super().formfield_for_choice_field(db_field, request, **kwargs)

    @admin.display(description="e-mail", ordering="user__email")
    def email(self, row: Membership) -> str:
        return row.user.email

    @admin.display(description="name", ordering="user__name")
    def name(self, row: Membership) -> str:
        return row.user.name

    @display(description="role", ordering="role", label=TONES)
    def shown_role(self, row: Membership) -> str:
        return row.role

    @display(description="standing", label=TONES)
    def standing(self, row: Membership) -> str:
        return "active" if row.user.is_active else "deactivated"

    @admin.display(description="since", ordering="created_at")
    def created(self, row: Membership) -> str:
        return when(row.created_at)

    def add_row(self, request: HttpRequest, form: RowForm) -> Membership:
        given = form.cleaned_data
        return members.add_member(tenant_id=self.owner_id(request), user=given["user"], role=Role(given["role"]))

    def change_row(self, request: HttpRequest, row: Membership, form: RowForm) -> None:
        role = Role(form.cleaned_data["role"])
        members.change_role(tenant_id=row.tenant_id, user_id=row.user_id, role=role, by=_person(request))

    def remove_row(self, request: HttpRequest, row: Membership) -> None:
        members.remove_member(tenant_id=row.tenant_id, user_id=row.user_id, by=_person(request))


@admin.register(Invitation)
class InvitationAdmin(TenantScoped[Invitation]):
    adds = True
    power = Power.PEOPLE
    list_display = ("email", "shown_role", "state", "inviter", "created", "ends")
    list_filter = (("role", ChoicesDropdownFilter),)
    list_select_related = ("invited_by",)
    search_fields = ("email",)
    search_help_text = "E-mail address"
    actions_detail = ("revoke",)
    fieldsets = ((None, {"fields": ("email", "role", "state", "inviter", "created_at", "expires_at")}),)
    readonly_fields = ("state", "inviter", "created_at", "expires_at")
    add_fieldsets = (
        (
            None,
            {
                "fields": ("email", "role"),
                "description": "The next page shows a link, once. It makes whoever owns the address a member, within "
                "a week, and ends an earlier invitation to them.",
            },
        ),
    )

    def formfield_for_choice_field(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        kwargs["choices"] = roles_to_give(request)
        return super().formfield_for_choice_field(db_field, request, **kwargs)

    @display(description="role", ordering="role", label=TONES)
    def shown_role(self, row: Invitation) -> str:
        return row.role

    @display(description="state", label=TONES)
    def state(self, row: Invitation) -> str:
        return invitations.state_of(row, utc_now())

    @admin.display(description="invited by")
    def inviter(self, row: Invitation) -> str:
        if row.invited_by is None:
            return "a program" if row.invited_with_id else "–"
        return "the platform's operator" if row.invited_by.is_superuser else row.invited_by.email

    @admin.display(description="invited", ordering="created_at")
    def created(self, row: Invitation) -> str:
        return when(row.created_at)

    @admin.display(description="ends", ordering="expires_at")
    def ends(self, row: Invitation) -> str:
        return when(row.expires_at)

    def add_row(self, request: HttpRequest, form: RowForm) -> Invitation:
        given = form.cleaned_data
        row, token = invitations.invite(
            tenant_id=self.owner_id(request), email=given["email"], role=Role(given["role"]), by=_person(request)
        )
        request._quiver_link = invitation_link(token, request)  # type: ignore[attr-defined]
        return row

    def response_add(self, request: HttpRequest, obj: Invitation, post_url_continue: Any = None) -> HttpResponse:
        mailed = "It was mailed to them as well." if is_set_up() else "No mail is set up here: pass it on yourself."
        text = f"This link makes {obj.email} {obj.role} of {obj.tenant.name}. {mailed}"
        link = request._quiver_link  # type: ignore[attr-defined]
        return self.show_once(request, obj, title="Invitation", text=text, secret=link)

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> Any:
        row = self.get_object(request, object_id)
        is_open = invitations.state_of(row, utc_now()) == "open"
        return super().get_actions_detail(request, object_id) if is_open else []

    @action(description="Revoke", icon="link_off", permissions=["act"])
    def revoke(self, request: HttpRequest, object_id: str) -> HttpResponse:
        row = self.get_object(request, object_id)

        def act(given: dict[str, Any]) -> str:
            invitations.revoke(tenant_id=row.tenant_id, invitation_id=row.id, by=_person(request))
            return f"The invitation to {row.email} was revoked."

        dialog = Dialog(f"Revoke the invitation to {row.email}", "Its link ends at once.", "Revoke", is_dangerous=True)
        return self.ask(request, row, dialog, act)


def roles_to_give(request: HttpRequest) -> list[tuple[str, str]]:
    """The roles that this person may give."""
    own = current_membership(request)
    return [(role, label) for role, label in Role.choices if own is None or may_manage(own.role, role)]


def _person(request: HttpRequest) -> User:
    assert isinstance(request.user, User)
    return request.user
