"""A tenant's own credentials in the admin: secrets that never come back, and whose they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.admin.pages import fill, page, read
from tests.admin.world import browser
from tests.conftest import Party

SECRET = "sk-acmes-own-secret-9d2e"


@pytest.fixture
def worker() -> Iterator[None]:
    """Tasks run as soon as they are sent."""
    from config.celery import app

    app.conf.task_always_eager = True
    yield
    app.conf.task_always_eager = False


def test_the_life_of_a_credential(owner: Any, furnished: Party) -> None:
    from catalog.models import Provider
    from tenants.loading import own_credential
    from tenants.models import TenantCredential

    TenantCredential.objects.all().delete()
    vendor = Provider.objects.get(slug="vendor").pk
    add = page("tenants_tenantcredential_add")

    missing = fill(owner, add, provider=vendor, label="ours")
    assert "The secret of a provider of kind openai is api_key" in missing.content.decode()
    assert fill(owner, add, provider=vendor, label="ours", use="first", api_key=SECRET).status_code == 302

    row = TenantCredential.objects.get()
    assert (row.tenant_id, row.use, own_credential(row).secret) == (furnished.id, "first", {"api_key": SECRET})
    shown = read(owner, page("tenants_tenantcredential_change", row.pk)).text
    assert "…9d2e" in shown
    assert SECRET not in shown
    assert row.sealed not in shown
    fill(owner, page("tenants_tenantcredential_change", row.pk), use="last", is_enabled=None)
    row.refresh_from_db()
    assert (row.use, row.is_enabled) == ("last", False)
    owner.post(page("tenants_tenantcredential_replace_secret", row.pk), {"api_key": "sk-another-own-0007"})
    row.refresh_from_db()
    assert (row.hint, own_credential(row).secret) == ("0007", {"api_key": "sk-another-own-0007"})
    owner.post(page("tenants_tenantcredential_delete", row.pk), {"post": "yes"})
    assert not TenantCredential.objects.exists()


def test_it_is_tested_by_a_worker(
    owner: Any, furnished: Party, worker: None, committed: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from catalog import connection_tests
    from providers.base import ListedModel
    from tenants.models import TenantCredential

    async def listed(endpoint: Any) -> list[ListedModel]:
        return [ListedModel(endpoint.credential_id)]

    monkeypatch.setattr(connection_tests, "_list", listed)
    row = TenantCredential.objects.get(tenant_id=furnished.id)
    with committed():
        answer = owner.post(page("tenants_tenantcredential_test_credential", row.pk))

    said = owner.get(f"{answer.headers['Location']}state/").json()
    assert (said["state"], said["findings"][0]["names"]) == ("done", [f"own:{row.id}"])


def test_another_tenants_people_find_nothing(furnished: Party, mallory: Party) -> None:
    from tenants.members import add_member
    from tenants.models import Role, TenantCredential
    from tenants.services import add_user

    person = add_user(email="mallory@example.com")
    add_member(tenant_id=mallory.id, user=person, role=Role.OWNER)
    theirs, row = browser(person), TenantCredential.objects.get(tenant_id=furnished.id)

    assert row.label not in theirs.get(page("tenants_tenantcredential_changelist")).content.decode()
    for name in ("change", "delete", "replace_secret", "test_credential"):
        assert theirs.get(page(f"tenants_tenantcredential_{name}", row.pk)).status_code == 404


def test_who_only_looks_changes_nothing(furnished: Party) -> None:
    from tenants.models import TenantCredential, User

    viewer = browser(User.objects.get(email="viewer@acme.example"))
    row = TenantCredential.objects.get(tenant_id=furnished.id)

    assert viewer.get(page("tenants_tenantcredential_change", row.pk)).status_code == 200
    assert viewer.post(page("tenants_tenantcredential_replace_secret", row.pk), {"api_key": "x" * 20}).status_code in (
        403,
        404,
    )
    assert viewer.get(page("tenants_tenantcredential_add")).status_code == 403
