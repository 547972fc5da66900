"""The pages of people who are not signed in yet: accepting an invitation, asking for and setting a new password. Doors.

None of them tells whether an address has an account, but to the holder of an invitation to it who tries to make one.
"""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.auth import authenticate, login, logout
from django.contrib.auth.forms import SetPasswordForm
from django.contrib.auth.views import PasswordResetCompleteView, PasswordResetConfirmView
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import reverse_lazy
from django.utils.decorators import method_decorator
from django.views import View
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.generic import FormView, TemplateView
from unfold.widgets import UnfoldAdminEmailInputWidget, UnfoldAdminPasswordWidget, UnfoldAdminTextInputWidget

from audit.actors import acting
from core.errors import NotFound, QuiverError
from tenants import invitations, mail, passwords, services
from tenants.acting import person
from tenants.addresses import network_of
from tenants.current import switch
from tenants.delays import Rule
from tenants.models import Invitation, Membership, User
from tenants.signing_in import trying
from tenants.throttle import Throttle

RESETS = Rule(free=3, longest_s=3600, forget_s=24 * 3600)  # of one address: nobody fills a mailbox with our mails
asked_resets = Throttle("password reset", account=RESETS)
_NEW, _CURRENT = {"autocomplete": "new-password"}, {"autocomplete": "current-password"}


class SignInForm(forms.Form):
    password = forms.CharField(label="Password", strip=False, widget=UnfoldAdminPasswordWidget(attrs=_CURRENT))


class SignUpForm(forms.Form):
    name = forms.CharField(label="Your name", max_length=200, widget=UnfoldAdminTextInputWidget())
    new_password = forms.CharField(
        label="A password",
        strip=False,
        widget=UnfoldAdminPasswordWidget(attrs=_NEW),
        help_text="At least 12 characters, not a common one, not like your name or address.",
    )


class ResetForm(forms.Form):
    email = forms.EmailField(
        label="E-mail address", max_length=254, widget=UnfoldAdminEmailInputWidget(attrs={"autocomplete": "email"})
    )


class NewPasswordForm(SetPasswordForm):
    """Django's, but the service writes."""

    def __init__(self, user: User, *args: Any, **kwargs: Any) -> None:
        super().__init__(user, *args, **kwargs)
        for field in self.fields.values():
            field.widget = UnfoldAdminPasswordWidget(attrs=_NEW)

    def save(self, commit: bool = True) -> User:
        services.set_password(user=self.user, password=self.cleaned_data["new_password1"])
        return self.user


@method_decorator([never_cache, sensitive_post_parameters()], name="dispatch")
class InvitationPage(View):
    """Shows who invites to what; joins on a click, after signing in or making an account."""

    def get(self, request: HttpRequest, token: str) -> HttpResponse:
        try:
            return _page(request, invitations.find_open(token))
        except NotFound as error:
            return _gone(request, error)

    def post(self, request: HttpRequest, token: str) -> HttpResponse:
        ways = {"join": _join, "sign_in": _sign_in, "sign_up": _sign_up, "leave": _leave}
        try:
            row = invitations.find_open(token)
            way = ways.get(request.POST.get("way", ""))
            return way(request, token, row) if way else _page(request, row)
        except NotFound as error:
            return _gone(request, error)
        except QuiverError as error:
            return _page(request, row, error=error.message)


def _join(request: HttpRequest, token: str, row: Invitation) -> HttpResponse:
    if not isinstance(request.user, User):
        return _page(request, row)
    return _welcome(request, invitations.accept(token=token, user=request.user))


def _sign_in(request: HttpRequest, token: str, row: Invitation) -> HttpResponse:
    form = SignInForm(request.POST)
    if not form.is_valid():
        return _page(request, row, sign_in=form)
    try:
        with trying(request, row.email):
            user = authenticate(request, username=row.email, password=form.cleaned_data["password"])
            if not isinstance(user, User):
                raise ValidationError("This is not the password, or there is no such account.")
    except ValidationError as error:
        form.add_error("password", error)
        return _page(request, row, sign_in=form)
    with acting(lambda: person(request, user)):
        membership = invitations.accept(token=token, user=user)
    login(request, user)
    return _welcome(request, membership)


def _sign_up(request: HttpRequest, token: str, row: Invitation) -> HttpResponse:
    form = SignUpForm(request.POST)
    if not form.is_valid():
        return _page(request, row, sign_up=form)
    name, password = form.cleaned_data["name"], form.cleaned_data["new_password"]
    try:
        membership = invitations.accept_as_new(token=token, name=name, password=password)
    except ValidationError as error:
        form.add_error("new_password", error)
        return _page(request, row, sign_up=form)
    login(request, membership.user)
    return _welcome(request, membership)


def _leave(request: HttpRequest, token: str, row: Invitation) -> HttpResponse:
    logout(request)
    return redirect("invitation", token=token)


def _welcome(request: HttpRequest, membership: Membership) -> HttpResponse:
    if not membership.user.is_superuser:
        switch(request, membership.tenant_id)
    messages.success(request, f"You belong to {membership.tenant.name} now, as {membership.role}.")
    return redirect("admin:index")


def _page(request: HttpRequest, row: Invitation, *, error: str = "", **used: forms.Form) -> HttpResponse:
    forms_shown = {"sign_in": SignInForm(), "sign_up": SignUpForm()} | used
    is_theirs = isinstance(request.user, User) and request.user.email == row.email
    context = {"title": "Invitation", "invitation": row, "is_theirs": is_theirs, "error": error, **forms_shown}
    return _answer(request, "people/invitation.html", context)


def _gone(request: HttpRequest, error: NotFound) -> HttpResponse:
    context = {"title": "Invitation", "error": error.message}
    return _answer(request, "people/invitation_gone.html", context, status=404)


def _answer(request: HttpRequest, template: str, context: dict[str, Any], status: int = 200) -> HttpResponse:
    response = TemplateResponse(request, template, admin.site.each_context(request) | context, status=status)
    response["Referrer-Policy"] = "no-referrer"  # the address holds the token
    return response


class _OfAdmin:
    """Pages that look like the admin's."""

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        return admin.site.each_context(self.request) | super().get_context_data(**kwargs)  # type: ignore[misc, attr-defined]


@method_decorator(never_cache, name="dispatch")
class AskReset(_OfAdmin, FormView):
    """Takes an address and always says the same; whether somebody has it is looked up by the task that mails."""

    form_class = ResetForm
    template_name = "registration/password_reset_form.html"
    success_url = reverse_lazy("password_reset_done")

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        return super().get_context_data(title="Forgotten password", has_mail=mail.is_set_up(), **kwargs)

    def form_valid(self, form: ResetForm) -> HttpResponse:
        email = form.cleaned_data["email"].lower()
        try:
            asked_resets.enter(address=network_of(self.request.META.get("REMOTE_ADDR", "")), account=email)
        except QuiverError as error:
            form.add_error(None, error.message)
            return self.form_invalid(form)
        passwords.ask_reset(email=email)
        return super().form_valid(form)


class ResetAsked(_OfAdmin, TemplateView):
    template_name = "registration/password_reset_done.html"
    extra_context = {"title": "Look into your mailbox"}


class SetNewPassword(_OfAdmin, PasswordResetConfirmView):
    form_class = NewPasswordForm
    template_name = "registration/password_reset_confirm.html"


class NewPasswordSet(_OfAdmin, PasswordResetCompleteView):
    template_name = "registration/password_reset_complete.html"
