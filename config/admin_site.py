"""The admin's frame: the site, who may enter, the navigation, switching between tenants.

Each app's rows are in its own `admin`, which decides who may see them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from typing import Any, cast
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.views import PasswordChangeView
from django.core.exceptions import PermissionDenied
from django.db import ProgrammingError
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.decorators import method_decorator
from django.views.decorators.http import require_POST
from psycopg.errors import InsufficientPrivilege
from unfold.forms import AdminOwnPasswordChangeForm
from unfold.sites import UnfoldAdminSite

from core.errors import NotFound
from tenants import services
from tenants.current import current_tenant, may_read_log, memberships, switch
from tenants.models import Tenant, User
from tenants.walls import act_for

log = logging.getLogger(__name__)

_LOG = "audit_auditevent"  # the only rows of a tenant that not all of its people see
# Title, icon, app and model. A group without a link that this person may follow is left out.
_MEMBERS = (
    ("Models", (("Models", "hub", "tenants_tenantmodel"), ("Catalogue", "menu_book", "catalog_embeddingmodel"))),
    (
        "Usage",
        (
            ("Requests", "receipt_long", "billing_usagerow"),
            ("Provider calls", "swap_horiz", "billing_providercall"),
            ("Limits", "speed", "billing_limit"),
        ),
    ),
    (
        "Alerts",
        (
            ("Alerts", "notifications", "alerts_alert"),
            ("Channels", "campaign", "alerts_alertchannel"),
        ),
    ),
    (
        "Access",
        (
            ("API keys", "key", "tenants_apikey"),
            ("Provider credentials", "vpn_key", "tenants_tenantcredential"),
            ("Agents", "smart_toy", "tenants_agent"),
            ("Members", "group", "tenants_membership"),
            ("Invitations", "mail", "tenants_invitation"),
            ("Audit log", "policy", _LOG),
        ),
    ),
)
_OPERATORS = (
    (
        "Catalogue",
        (
            ("Models", "menu_book", "catalog_embeddingmodel"),
            ("Providers", "dns", "catalog_provider"),
            ("Prices", "payments", "catalog_price"),
            ("Proposed prices", "price_change", "catalog_priceproposal"),
            ("Vector spaces", "scatter_plot", "catalog_vectorspace"),
            ("Discovery", "travel_explore", "catalog_discoveryrun"),
            ("Checks", "rule", "catalog_modelcheck"),
            ("History of models", "history", "catalog_modelevent"),
        ),
    ),
    (
        "Tenants",
        (
            ("Tenants", "apartment", "tenants_tenant"),
            ("Their models", "hub", "tenants_tenantmodel"),
            ("Limits", "speed", "billing_limit"),
            ("API keys", "key", "tenants_apikey"),
            ("Provider credentials", "vpn_key", "tenants_tenantcredential"),
            ("Agents", "smart_toy", "tenants_agent"),
        ),
    ),
    (
        "Usage",
        (
            ("Requests", "receipt_long", "billing_usagerow"),
            ("Provider calls", "swap_horiz", "billing_providercall"),
        ),
    ),
    (
        "Alerts",
        (
            ("Alerts", "notifications", "alerts_alert"),
            ("Channels", "campaign", "alerts_alertchannel"),
        ),
    ),
    (
        "People",
        (
            ("Accounts", "person", "tenants_user"),
            ("Memberships", "group", "tenants_membership"),
            ("Invitations", "mail", "tenants_invitation"),
            ("Audit log", "policy", _LOG),
        ),
    ),
    (
        "Background work",
        (
            ("Timetable", "schedule", "django_celery_beat_periodictask"),
            ("Crontabs", "calendar_clock", "django_celery_beat_crontabschedule"),
            ("Intervals", "timer", "django_celery_beat_intervalschedule"),
        ),
    ),
)


def navigation(request: HttpRequest) -> list[dict[str, Any]]:
    """Unfold's hook: what this person can go to."""
    tenant = current_tenant(request)
    index = reverse("admin:index")
    first = {"title": "Dashboard", "icon": "dashboard", "link": index, "active": request.path == index}
    groups: list[dict[str, Any]] = [{"items": [first]}]
    for title, entries in _OPERATORS if tenant is None else _MEMBERS:
        shown = [entry for entry in entries if entry[2] != _LOG or may_read_log(request)]
        links = [(words, icon, f"admin:{model}_changelist") for words, icon, model in shown]
        items = [{"title": words, "icon": icon, "link": reverse(route)} for words, icon, route in links]
        groups.append({"title": title, "separator": True, "items": items})
    if tenant is not None:
        link = reverse("admin:tenants_tenant_change", args=[tenant.id])
        groups[-1]["items"].append({"title": "Tenant settings", "icon": "settings", "link": link})
    return groups


class OwnPasswordForm(AdminOwnPasswordChangeForm):
    """Unfold's, but the service writes."""

    def save(self, commit: bool = True) -> User:
        user: User = self.user
        services.set_password(user=user, password=self.cleaned_data["new_password1"])
        return user


class QuiverAdminSite(UnfoldAdminSite):
    """One admin for the platform's operator and for tenants' people."""

    def has_permission(self, request: HttpRequest) -> bool:
        """Operators, and members of a tenant; `is_staff` would ask the database each time."""
        user = request.user
        return bool(user.is_active and (getattr(user, "is_superuser", False) or memberships(request)))

    def admin_view(self, view: Callable[..., Any], cacheable: bool = False) -> Callable[..., Any]:
        """Every page goes through here: a member's is made as their tenant, but for what is about themselves alone
        (session, password), which belongs to no tenant."""
        own = (self.logout, self.password_change, self.password_change_done, self.switch, self.i18n_javascript)
        return cast(Callable[..., Any], super().admin_view(view if view in own else _as_tenant(view), cacheable))

    def each_context(self, request: HttpRequest) -> dict[str, Any]:
        context: dict[str, Any] = super().each_context(request)
        return context | {"current_tenant": current_tenant(request), "memberships": memberships(request)}

    def extra_urls(self) -> list[URLPattern]:
        return [path("switch/", self.admin_view(self.switch), name="switch")]

    @method_decorator(require_POST)
    def switch(self, request: HttpRequest) -> HttpResponse:
        """Goes to another of the person's tenants; always to its first page, for other pages are of this tenant."""
        try:
            tenant = switch(request, UUID(request.POST.get("tenant", "")))
        except (ValueError, NotFound) as error:
            raise Http404 from error
        messages.success(request, f"You act for {tenant.name} now.")
        return redirect("admin:index")

    def search(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        """Unfold keeps what one search found for five minutes, whichever tenant the person acts for by then."""
        raise Http404

    def password_change(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        request.current_app = self.name
        answer = PasswordChangeView.as_view(
            form_class=OwnPasswordForm,
            success_url=reverse("admin:password_change_done"),
            template_name="registration/password_change_form.html",
            extra_context={**self.each_context(request), **(extra_context or {})},
        )(request)
        return cast(HttpResponse, answer)


def _as_tenant(view: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(view)
    def made(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        tenant = current_tenant(request)
        if tenant is not None:
            act_for(tenant.id)
        try:
            answer = view(request, *args, **kwargs)
            # Django would render it after the request's transaction, as the platform again; lists read rows then.
            if tenant is not None and isinstance(answer, TemplateResponse):
                answer.render()
        except ProgrammingError as error:
            # Some of Django's pages look into a table before they ask whether somebody may.
            if tenant is None or not isinstance(error.__cause__, InsufficientPrivilege):
                raise
            log.warning("the second wall: %s at %s", str(error).partition("\n")[0], request.path)
            raise PermissionDenied from error
        return answer

    return made


def environment(request: HttpRequest) -> tuple[str, str] | None:
    """Unfold's hook: the label in the header warns of what keeps a person from changing anything."""
    tenant: Tenant | None = current_tenant(request)
    return ("suspended", "danger") if tenant is not None and tenant.is_suspended else None


def shows_history(request: HttpRequest) -> bool:
    """Unfold's hook: the log of changes carries no tenant, so it is for operators."""
    return bool(getattr(request.user, "is_superuser", False))
