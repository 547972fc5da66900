"""Admin of alerts and channels: doors. Alerts are only read and acknowledged; how each was told stands below it."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from unfold.contrib.filters.admin import ChoicesDropdownFilter
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminExpandableTextareaWidget

from alerts import services
from alerts.models import Alert, AlertChannel, Delivery
from alerts.signing import secret_of
from catalog.admin_base import Dialog, RowForm, ShownRows
from catalog.admin_looks import TONES, table, when
from tenants.admin_scope import TenantScoped
from tenants.mail import is_set_up
from tenants.models import User
from tenants.roles import Power

_SEVERITIES = {"info": "info", "warning": "warning", "critical": "danger"}
_STATES = {"open": "danger", "acknowledged": "warning", "resolved": "success"}
_DELIVERIES = {"pending": "info", "sending": "info", "sent": "success", "failed": "danger", "not set up": "warning"}


class DeliveryRows(ShownRows):
    model = Delivery
    fields = ("to", "shown_state", "attempts", "last_error", "when")
    readonly_fields = fields

    @admin.display(description="channel")
    def to(self, row: Delivery) -> str:
        if row.channel is None:
            return "those who look after it (no channel is set up)"
        return f"{row.channel.name}: {', '.join(row.channel.targets)}"

    @display(description="state", label=_DELIVERIES)
    def shown_state(self, row: Delivery) -> str:
        return row.state.replace("_", " ")

    @admin.display(description="when")
    def when(self, row: Delivery) -> str:
        return when(row.sent_at or row.created_at)


class AlertDeliveries(DeliveryRows):
    verbose_name_plural = "how it was told"


class ChannelDeliveries(DeliveryRows):
    """The newest ones."""

    verbose_name_plural = "what was last sent by it"
    fields = ("what", "shown_state", "attempts", "last_error", "when")
    readonly_fields = fields
    max_shown = 20

    def get_queryset(self, request: HttpRequest) -> Any:
        rows = super().get_queryset(request).select_related("alert", "channel")
        channel_id = request.resolver_match.kwargs.get("object_id") if request.resolver_match else None
        newest = Delivery.objects.filter(channel_id=channel_id).values("id")[: self.max_shown] if channel_id else []
        return rows.filter(id__in=newest)

    @admin.display(description="what")
    def what(self, row: Delivery) -> str:
        return "a test" if row.alert is None else row.alert.title


@admin.register(Alert)
class AlertAdmin(TenantScoped[Alert]):
    power = Power.LIMITS
    list_display = ("title", "shown_severity", "shown_state", "kind", "raised")
    list_filter = tuple((name, ChoicesDropdownFilter) for name in ("state", "severity", "kind"))
    search_fields = ("title", "=subject_key")
    search_help_text = "Words of the title, or what it is about: the id of a limit"
    inlines = (AlertDeliveries,)
    actions_detail = ("acknowledge",)
    fieldsets = (
        (None, {"fields": ("title", "shown_severity", "shown_state", "kind", "created_at")}),
        ("Figures", {"fields": ("figures", "threshold", "period_start", "subject_key")}),
        ("Since", {"fields": ("acknowledged_at", "acknowledged_by", "resolved_at", "resolved_by")}),
    )

    @display(description="severity", ordering="severity", label=_SEVERITIES)
    def shown_severity(self, row: Alert) -> str:
        return row.severity

    @display(description="state", ordering="state", label=_STATES)
    def shown_state(self, row: Alert) -> str:
        return row.state

    @admin.display(description="figures")
    def figures(self, row: Alert) -> str:
        rows = [(name.replace("_", " "), value) for name, value in row.detail.items()]
        return table(("", ""), rows, empty="None.")

    @admin.display(description="raised", ordering="created_at")
    def raised(self, row: Alert) -> str:
        return when(row.created_at)

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> Any:
        is_open = self.get_object(request, object_id).state == Alert.State.OPEN
        return super().get_actions_detail(request, object_id) if is_open else []

    @action(description="Acknowledge", icon="check", permissions=["act"])
    def acknowledge(self, request: HttpRequest, object_id: str) -> HttpResponse:
        row = self.get_object(request, object_id)

        def act(given: dict[str, Any]) -> str:
            assert isinstance(request.user, User)
            services.acknowledge(tenant_id=row.tenant_id, alert_id=row.id, by=request.user.email)
            return "The alert is acknowledged."

        text = "Others see that you have seen it. It is resolved by itself once what it tells of is over."
        return self.ask(request, row, Dialog(f"Acknowledge “{row.title}”", text, "Acknowledge"), act)


class Addresses(forms.CharField):
    """Addresses, one in a line; commas between are taken as well, but not within a webhook's."""

    def prepare_value(self, value: Any) -> Any:
        return "\n".join(value) if isinstance(value, list) else value

    def to_python(self, value: Any) -> Any:
        text = super().to_python(value) or ""
        return (text if "://" in text else text.replace(",", " ")).split()


class ChannelForm(RowForm):
    targets = Addresses(
        label="Addresses",
        widget=UnfoldAdminExpandableTextareaWidget,
        help_text="E-mail addresses, one in a line, or the one address of a webhook. Changing them makes the channel "
        "unverified until it is tested again.",
    )


@admin.register(AlertChannel)
class AlertChannelAdmin(TenantScoped[AlertChannel]):
    adds = changes = removes = True
    power = Power.LIMITS
    is_platforms_too = True
    form = ChannelForm
    labels = {"is_enabled": "Switched on", "minimum_severity": "From"}
    list_display = ("name", "kind", "shown_targets", "minimum_severity", "switch", "verified")
    list_filter = ("is_enabled",)
    search_fields = ("name",)
    search_help_text = "Name"
    inlines = (ChannelDeliveries,)
    actions_detail = ("test", "renew_secret")
    readonly_fields = ("kind", "verified", "created_at")
    _fields = ("name", "targets", "minimum_severity", "is_enabled")
    fieldsets = (
        (None, {"fields": ("kind", "verified", "created_at")}),
        ("Telling", {"fields": _fields}),
    )
    add_fieldsets = (
        (
            None,
            {
                "fields": ("kind", *_fields),
                "description": "While there is no channel, owners, admins and billing members are told by mail. From "
                "the first one on, only channels tell.",
            },
        ),
    )

    def get_inlines(self, request: HttpRequest, obj: Any) -> Any:
        return super().get_inlines(request, obj) if obj is not None else ()

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        found = super().get_readonly_fields(request, obj)
        return found if obj is not None else tuple(each for each in found if each != "kind")

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> Any:
        is_webhook = self.get_object(request, object_id).kind == AlertChannel.Kind.WEBHOOK
        found = super().get_actions_detail(request, object_id)
        return found if is_webhook else [each for each in found if each.path != "renew_secret"]

    @admin.display(description="addresses")
    def shown_targets(self, row: AlertChannel) -> str:
        first, *others = row.targets
        return f"{first} and {len(others)} more" if others else first

    @display(description="switch", ordering="is_enabled", label=TONES)
    def switch(self, row: AlertChannel) -> str:
        return "enabled" if row.is_enabled else "disabled"

    @admin.display(description="verified", ordering="verified_at")
    def verified(self, row: AlertChannel) -> str:
        return when(row.verified_at) if row.verified_at else "not yet; send a test"

    def add_row(self, request: HttpRequest, form: RowForm) -> AlertChannel:
        tenant = self.owner(request)
        given = {name: form.cleaned_data[name] for name in ("kind", *self._fields)}
        return services.add_channel(tenant_id=None if tenant is None else tenant.id, **given)

    def change_row(self, request: HttpRequest, row: AlertChannel, form: RowForm) -> None:
        services.change_channel(tenant_id=row.tenant_id, channel_id=row.id, **form.changed(*self._fields))

    def remove_row(self, request: HttpRequest, row: AlertChannel) -> None:
        services.remove_channel(tenant_id=row.tenant_id, channel_id=row.id)

    def response_add(self, request: HttpRequest, obj: AlertChannel, post_url_continue: Any = None) -> HttpResponse:
        if obj.kind == AlertChannel.Kind.WEBHOOK:
            return self._show_secret(request, obj, secret_of(obj))
        return super().response_add(request, obj, post_url_continue)

    @action(description="Renew secret", icon="key", permissions=["act"])
    def renew_secret(self, request: HttpRequest, object_id: str) -> HttpResponse:
        row = self.get_object(request, object_id)

        def act(given: dict[str, Any]) -> HttpResponse:
            secret = services.renew_secret(tenant_id=row.tenant_id, channel_id=row.id)
            return self._show_secret(request, row, secret)

        text = "Messages are signed with another secret from the next one on; the old one ends at once."
        return self.ask(request, row, Dialog(f"Renew the secret of {row.name}", text, "Renew"), act)

    def _show_secret(self, request: HttpRequest, row: AlertChannel, secret: str) -> HttpResponse:
        said = "Your program checks the signature of each message with it, as Standard Webhooks has it."
        return self.show_once(request, row, title=f"The secret of {row.name}", text=said, secret=secret)

    @action(description="Send a test", icon="send", permissions=["act"])
    def test(self, request: HttpRequest, object_id: str) -> HttpResponse:
        row = self.get_object(request, object_id)

        def act(given: dict[str, Any]) -> str:
            services.test_channel(tenant_id=row.tenant_id, channel_id=row.id)
            return "A test is on its way; how it went stands below in a moment."

        is_webhook = row.kind == AlertChannel.Kind.WEBHOOK
        text = f"A {'message' if is_webhook else 'mail'} goes to {', '.join(row.targets)}."
        if not is_webhook and not is_set_up():
            text = "Mail is not set up on this platform, so nothing can be sent yet."
        return self.ask(request, row, Dialog(f"Test {row.name}", text, "Send"), act)
