"""What each role may do, and on whose behalf."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from django.db import transaction
from django.test import Client
from django.urls import reverse

from tenants.roles import POWERS, Power, may_manage
from tests.admin.pages import fill, read
from tests.admin.world import browser, furnish
from tests.conftest import Party

ROLES = ("owner", "admin", "billing", "viewer")


PAGES = {
    "tenants_tenantmodel_add": Power.MODELS,
    "tenants_apikey_add": Power.KEYS,
    "tenants_invitation_add": Power.PEOPLE,
    "billing_limit_add": Power.LIMITS,
    "catalog_embeddingmodel_add": None,
    "catalog_provider_add": None,
    "catalog_provider_changelist": None,
    "tenants_tenant_add": None,
    "tenants_user_changelist": None,
    "tenants_membership_add": None,
    "django_celery_beat_periodictask_changelist": None,
}
CHANGES = {
    ("tenants.TenantModel", "change"): Power.MODELS,
    ("tenants.TenantModel", "disable"): Power.MODELS,
    ("tenants.TenantModel", "delete"): Power.MODELS,
    ("tenants.ApiKey", "rotate"): Power.KEYS,
    ("tenants.ApiKey", "revoke"): Power.KEYS,
    ("tenants.Invitation", "revoke"): Power.PEOPLE,
    ("billing.Limit", "change"): Power.LIMITS,
    ("billing.Limit", "delete"): Power.LIMITS,
}


@pytest.fixture
def furnished(acme: Party, globex: Party, add_model: Callable[..., Any]) -> Party:
    model = add_model("small")
    add_model("large", dimensions=16)
    furnish(acme, model)
    furnish(globex, model)
    return acme


def as_role(role: str, slug: str = "acme") -> Client:
    from tenants.models import User

    return browser(User.objects.get(email=f"{role}@{slug}.example"))


def first(label: str, **which: Any) -> Any:
    from django.apps import apps

    return apps.get_model(label).objects.filter(**which).first()


def undone(act: Callable[[], Any]) -> Any:
    """What it returns; what it changed is taken back."""
    with transaction.atomic():
        found = act()
        transaction.set_rollback(True)
    return found


@pytest.mark.parametrize("role", ROLES)
def test_who_opens_what(furnished: Party, role: str) -> None:
    client = as_role(role)
    opened = {page: client.get(reverse(f"admin:{page}")).status_code for page in PAGES}
    assert opened == {page: 200 if power in POWERS[role] else 403 for page, power in PAGES.items()}


@pytest.mark.parametrize("role", ROLES)
def test_who_changes_what(furnished: Party, role: str) -> None:
    client = as_role(role)
    refused = set()
    for label, action in CHANGES:
        row = first(label, tenant_id=furnished.id)
        url = reverse(f"admin:{label.lower().replace('.', '_')}_{action}", args=[row.pk])
        body = {"post": "yes", "overlap_seconds": "0", "amount": "x", "priority": "x"}
        refused |= {(label, action)} if undone(partial(client.post, url, body)).status_code == 403 else set()
    assert refused == {change for change, power in CHANGES.items() if power not in POWERS[role]}


@pytest.mark.parametrize("role", ROLES)
def test_who_manages_whom(furnished: Party, role: str) -> None:
    client = as_role(role)

    def demoted(theirs: Any) -> tuple[bool, str]:
        url = reverse("admin:tenants_membership_change", args=[theirs.pk])
        answer = client.post(url, {"role": "viewer"})
        theirs.refresh_from_db()
        return answer.status_code != 403, theirs.role

    rows = {other: first("tenants.Membership", tenant_id=furnished.id, role=other) for other in ROLES}
    found = {other: undone(partial(demoted, row)) for other, row in rows.items()}
    # Nobody takes the last owner's role, not even the owner.
    ends = {other: other if other == "owner" or not may_manage(role, other) else "viewer" for other in ROLES}
    assert found == {other: (may_manage(role, other), ends[other]) for other in ROLES}


def test_who_may_not_is_told_so_inside_the_frame(furnished: Party) -> None:
    client = as_role("viewer")
    refused, unknown = client.get(reverse("admin:tenants_apikey_add")), client.get("/admin/no/such/page/")
    assert (refused.status_code, unknown.status_code) == (403, 404)
    assert "Your role does not permit this" in refused.content.decode()
    assert "There is no such page" in unknown.content.decode()


def test_the_last_owner_is_told_why(furnished: Party) -> None:
    own = first("tenants.Membership", tenant_id=furnished.id, role="owner")
    answer = fill(as_role("owner"), reverse("admin:tenants_membership_change", args=[own.pk]), role="viewer")
    assert answer.status_code == 200
    assert "last owner" in answer.content.decode()


def test_an_admin_is_offered_no_role_above_their_own(furnished: Party) -> None:
    text = read(as_role("admin"), reverse("admin:tenants_invitation_add")).text
    assert 'value="viewer"' in text
    assert 'value="owner"' not in text


def test_an_owner_sets_what_is_the_tenants_and_not_its_tier(furnished: Party) -> None:
    from tenants.models import Tenant

    url = reverse("admin:tenants_tenant_change", args=[furnished.id])
    answer = fill(
        as_role("owner"), url, name="Acme & Sons", unpriced_allowed="on", tier="enterprise", is_suspended="on"
    )
    assert answer.status_code == 302
    row = Tenant.objects.get(id=furnished.id)
    assert (row.name, row.settings) == ("Acme & Sons", {"unpriced_allowed": True})
    assert (row.tier, row.is_suspended) == ("standard", False)


def test_a_suspended_tenants_people_only_read(furnished: Party) -> None:
    from tenants.services import change_tenant

    change_tenant(tenant_id=furnished.id, is_suspended=True)
    client = as_role("owner")
    assert client.get(reverse("admin:tenants_apikey_changelist")).status_code == 200
    assert client.get(reverse("admin:tenants_apikey_add")).status_code == 403
    row = first("tenants.TenantModel", tenant_id=furnished.id)
    assert client.post(reverse("admin:tenants_tenantmodel_disable", args=[row.pk])).status_code == 403


def test_a_person_in_two_tenants_switches(furnished: Party, globex: Party) -> None:
    from tenants.members import add_member
    from tenants.models import Role, User

    user = User.objects.get(email="viewer@acme.example")
    add_member(tenant_id=globex.id, user=user, role=Role.OWNER)
    client = browser(user)
    keys = reverse("admin:tenants_apikey_changelist")
    assert "globex key" not in read(client, keys).text
    assert client.get(reverse("admin:switch")).status_code == 405
    assert client.post(reverse("admin:switch"), {"tenant": str(globex.id)}).status_code == 302
    text = read(client, keys).text
    assert "globex key" in text
    assert "acme key" not in text
    assert client.get(reverse("admin:tenants_apikey_add")).status_code == 200  # an owner here, a viewer there


def test_switching_needs_a_token_and_a_membership(furnished: Party, globex: Party) -> None:
    from tenants.models import User

    user = User.objects.get(email="owner@acme.example")
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(user)
    assert strict.post(reverse("admin:switch"), {"tenant": str(furnished.id)}).status_code == 403
    client = browser(user)
    for wrong in (str(globex.id), "", "nonsense"):
        assert client.post(reverse("admin:switch"), {"tenant": wrong}).status_code == 404


def test_a_removed_member_is_out_with_the_next_click(furnished: Party) -> None:
    from tenants.members import remove_member
    from tenants.models import User

    client, owner = as_role("viewer"), User.objects.get(email="owner@acme.example")
    assert client.get("/admin/").status_code == 200
    user = User.objects.get(email="viewer@acme.example")
    remove_member(tenant_id=furnished.id, user_id=user.pk, by=owner)
    assert client.get("/admin/").status_code == 302


def test_everybody_may_leave(furnished: Party) -> None:
    own = first("tenants.Membership", tenant_id=furnished.id, role="viewer")
    client = as_role("viewer")
    assert client.post(reverse("admin:tenants_membership_delete", args=[own.pk]), {"post": "yes"}).status_code == 302
    assert first("tenants.Membership", pk=own.pk) is None
