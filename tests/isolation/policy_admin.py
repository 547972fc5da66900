"""Who opens which page of the admin: a line for each kind of row, and one for each page that is of no row. A page
without one fails the build.

Whoever may not open a page is told 403, or 404 where even that it exists is not theirs to know. A row of another tenant
is not there, whatever the page.
"""

from __future__ import annotations

from dataclasses import dataclass

EVERYBODY, MEMBERS, POWERFUL, OPERATORS, NOBODY = "everybody", "members", "powerful", "operators", "nobody"


@dataclass(frozen=True)
class Rows:
    """The pages of one kind of row, by who opens them: every member, those with the power to (an owner has all of
    them), the platform's operators alone, nobody at all."""

    members: str = ""
    powerful: str = ""
    operators: str = ""
    nobody: str = ""
    is_tenants: bool = True

    @property
    def pages(self) -> dict[str, str]:
        told = {MEMBERS: self.members, POWERFUL: self.powerful, OPERATORS: self.operators, NOBODY: self.nobody}
        # Of every kind: the log of changes carries no tenant.
        return {"history": OPERATORS} | {page: who for who, pages in told.items() for page in pages.split()}


_LOOK = "changelist change"
ROWS = {
    "audit.auditevent": Rows(powerful=_LOOK, nobody="add delete"),
    "alerts.alert": Rows(_LOOK, "acknowledge", nobody="add delete"),
    "alerts.alertchannel": Rows(_LOOK, "add delete test renew_secret"),
    "billing.limit": Rows(_LOOK, "add delete"),
    "billing.providercall": Rows(_LOOK, nobody="add delete"),
    "billing.usagerow": Rows(_LOOK, nobody="add delete"),
    "tenants.agent": Rows(_LOOK, "add delete"),
    "tenants.apikey": Rows(_LOOK, "add rotate revoke", nobody="delete"),
    "tenants.invitation": Rows(_LOOK, "add revoke", nobody="delete"),
    "tenants.membership": Rows(_LOOK, "delete", operators="add"),
    "tenants.tenant": Rows(_LOOK, operators="add suspend unsuspend", nobody="delete"),
    "tenants.tenantcredential": Rows(_LOOK, "add delete test_credential tested state replace_secret"),
    "tenants.tenantmodel": Rows(_LOOK, "add delete set_default enable disable"),
    # The platform's.
    "catalog.discoveryrun": Rows(operators=f"{_LOOK} look accept ignore", nobody="add delete", is_tenants=False),
    "catalog.embeddingmodel": Rows(
        _LOOK, operators="add delete move change_sunset validate add_price", is_tenants=False
    ),
    "catalog.modelcheck": Rows(operators=_LOOK, nobody="add delete", is_tenants=False),
    "catalog.modelevent": Rows(operators=_LOOK, nobody="add delete", is_tenants=False),
    "catalog.price": Rows(operators=_LOOK, nobody="add delete", is_tenants=False),
    "catalog.priceproposal": Rows(operators=f"{_LOOK} upload approve refuse", nobody="add delete", is_tenants=False),
    "catalog.provider": Rows(
        operators=f"{_LOOK} add delete test_connection tested state add_credential remove_credential breakers",
        is_tenants=False,
    ),
    "catalog.vectorspace": Rows(operators=_LOOK, nobody="add delete", is_tenants=False),
    "django_celery_beat.crontabschedule": Rows(operators=f"{_LOOK} add delete", is_tenants=False),
    "django_celery_beat.intervalschedule": Rows(operators=f"{_LOOK} add delete", is_tenants=False),
    "django_celery_beat.periodictask": Rows(operators=f"{_LOOK} add delete", is_tenants=False),
    "tenants.user": Rows(
        operators=f"{_LOOK} add reset_password deactivate activate", nobody="delete", is_tenants=False
    ),
}
# What is of no row, by the route: the statuses of nobody, a viewer, an owner and an operator who look at it.
_SIGNED_IN, _POSTED = (302, 200, 200, 200), (302, 405, 405, 405)
SITE = {
    "admin/": _SIGNED_IN,
    "admin/<app_label>/": _SIGNED_IN,
    "admin/<url>": (302, 404, 404, 404),  # whatever there is not
    "admin/autocomplete/": (302, 403, 403, 403),  # asked for nothing
    "admin/jsi18n/": _SIGNED_IN,
    "admin/login/": (200, 302, 302, 302),
    "admin/logout/": _POSTED,
    "admin/password_change/": _SIGNED_IN,
    "admin/password_change/done/": _SIGNED_IN,
    "admin/password_reset/": (200, 200, 200, 200),
    "admin/password_reset/done/": (200, 200, 200, 200),
    "admin/r/<path:content_type_id>/<path:object_id>/": (302, 403, 403, 404),
    "admin/reset/<uidb64>/<token>/": (200, 200, 200, 200),
    "admin/reset/done/": (200, 200, 200, 200),
    "admin/search/": (302, 404, 404, 404),
    "admin/switch/": _POSTED,
    "invitations/<str:token>": (404, 404, 404, 404),  # without a token that was sent to somebody
}
