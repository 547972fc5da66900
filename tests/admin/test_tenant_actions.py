"""Tenants, accounts and invitations in the admin."""

from __future__ import annotations

import re
from typing import Any

from tests.admin.pages import fill, kept, page, read
from tests.conftest import Party


def test_suspending_and_lifting(chief: Any, furnished: Party) -> None:
    assert furnished.api.get("/api/v1/limits").status_code == 200
    assert chief.post(page("tenants_tenant_suspend", furnished.id)).status_code == 302
    assert furnished.api.get("/api/v1/limits").json()["code"] == "tenant_suspended"
    assert chief.post(page("tenants_tenant_unsuspend", furnished.id)).status_code == 302
    assert furnished.api.get("/api/v1/limits").status_code == 200


def test_a_tenant_is_added_once(chief: Any, furnished: Party) -> None:
    from tenants.models import Tenant

    wishes = {"name": "Initech", "slug": "initech", "tier": "free"}
    assert fill(chief, page("tenants_tenant_add"), **wishes).status_code == 302
    assert Tenant.objects.get(slug="initech").tier == "free"
    again = fill(chief, page("tenants_tenant_add"), **wishes)
    assert "already" in again.content.decode()


def test_an_account_and_the_link_to_its_password(chief: Any) -> None:
    from tenants.models import User

    assert fill(chief, page("tenants_user_add"), email="New@Example.com", name="New").status_code == 302
    row = User.objects.get(email="new@example.com")
    assert not row.has_usable_password()
    assert "already" in fill(chief, page("tenants_user_add"), email="new@example.com").content.decode()
    shown = chief.post(page("tenants_user_reset_password", row.pk)).content.decode()
    link = re.search(r"http://testserver(/admin/reset/[^<\s]+)", shown)
    assert link
    assert chief.get(link[1], follow=True).status_code == 200
    assert chief.post(page("tenants_user_deactivate", row.pk)).status_code == 302
    assert not User.objects.get(pk=row.pk).is_active
    assert chief.post(page("tenants_user_activate", row.pk)).status_code == 302


def test_an_invitation_is_shown_once(owner: Any, furnished: Party) -> None:
    from tenants.models import Invitation

    answer = fill(owner, page("tenants_invitation_add"), email="new@example.com", role="billing")
    link = re.search(r"http://testserver/invitations/[^<\s]+", answer.content.decode())
    assert link
    assert link[0] not in kept(owner)
    row = Invitation.objects.get(email="new@example.com")
    assert link[0] not in read(owner, page("tenants_invitation_change", row.pk)).text
    member = fill(owner, page("tenants_invitation_add"), email="viewer@acme.example", role="viewer")
    assert "belongs to this tenant already" in member.content.decode()
    assert owner.post(page("tenants_invitation_revoke", row.pk)).status_code == 302
    row.refresh_from_db()
    assert row.revoked_at is not None
