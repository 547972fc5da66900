"""The encryption key is changed: everything is sealed anew, nothing is lost, also of what changes at that moment."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from django.apps import apps
from django.core.management import CommandError, call_command

from config import resealing
from core.sealing import SealBroken, Sealer
from tests.conftest import Party

OLD = f"tests:{base64.b64encode(bytes(32)).decode()}"
NEW = f"next:{base64.b64encode(bytes(range(32))).decode()}"
SECRET = {"api_key": "sk-acmes-own-secret-9d2e"}


@pytest.fixture
def rows(acme: Party, globex: Party) -> list[Any]:
    """Credentials of the platform and of two tenants, sealed by the old key."""
    from alerts.models import AlertChannel
    from alerts.services import add_channel
    from catalog.models import ProviderCredential
    from catalog.upstreams import add_credential, add_provider
    from tenants import own_credentials
    from tenants.models import TenantCredential

    add_provider(slug="vendor", kind="openai", secret={"api_key": "sk-of-the-platform-1"})
    add_credential(slug="vendor", secret={"api_key": "sk-of-the-platform-2"})
    for party in (acme, globex):
        own_credentials.add_credential(tenant_id=party.id, provider="vendor", secret=SECRET)
    for whose in (acme.id, None):
        add_channel(tenant_id=whose, name="hook", kind="webhook", targets=["https://hooks.example.com/"])
    return [*ProviderCredential.objects.all(), *TenantCredential.objects.all(), *AlertChannel.objects.all()]


def opened(row: Any, keys: str) -> dict[str, str]:
    """Its secret, by a process that has these keys."""
    row.refresh_from_db()
    [table] = [each for each in resealing.TABLES if isinstance(row, each.model)]
    return Sealer(keys).open(row.sealed, tenant=table.tenant(row), table=table.name, row=str(row.pk))


def test_every_secret_is_sealed_anew_and_opens_without_the_old_key(rows: list[Any]) -> None:
    before = [opened(row, OLD) for row in rows]

    found = resealing.reseal(Sealer(f"{NEW},{OLD}"))

    assert (found.done, found.broken) == (6, [])
    assert [opened(row, NEW) for row in rows] == before
    with pytest.raises(SealBroken):
        opened(rows[0], OLD)
    assert resealing.reseal(Sealer(f"{NEW},{OLD}")).done == 0


def test_one_that_does_not_open_is_named_and_left_and_the_others_go_on(rows: list[Any]) -> None:
    lost = rows[0]
    type(lost).objects.filter(pk=lost.pk).update(sealed=f"gone:{'A' * 40}")

    found = resealing.reseal(Sealer(f"{NEW},{OLD}"))

    assert found.done == 5
    assert [str(lost.pk) in line and "'gone'" in line for line in found.broken] == [True]
    lost.refresh_from_db()
    assert lost.sealed.startswith("gone:")


def test_what_somebody_changes_between_the_look_and_the_writing_stays(
    rows: list[Any], acme: Party, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tenants.models import TenantCredential
    from tenants.own_credentials import change_credential

    row = TenantCredential.objects.get(tenant_id=acme.id)
    seal, changed = Sealer.seal, []

    def slowly(self: Sealer, secret: Any, **bound: Any) -> str:
        sealed = seal(self, secret, **bound)
        if bound["row"] == str(row.id) and not changed:
            changed.append(True)
            change_credential(tenant_id=acme.id, credential_id=row.id, secret={"api_key": "sk-changed-meanwhile"})
        return sealed

    monkeypatch.setattr(Sealer, "seal", slowly)
    resealing.reseal(Sealer(f"{NEW},{OLD}"))

    assert opened(row, NEW) == {"api_key": "sk-changed-meanwhile"}


@pytest.mark.django_db(transaction=True)
def test_changes_at_the_same_moment_never_bring_back_what_the_old_key_sealed(rows: list[Any], at_once: Any) -> None:
    from tenants.models import TenantCredential
    from tenants.own_credentials import change_credential

    theirs = list(TenantCredential.objects.all())

    def rename() -> None:
        for number in range(20):
            for row in theirs:
                change_credential(tenant_id=row.tenant_id, credential_id=row.id, label=f"name {number}")

    results = at_once(rename, lambda: resealing.reseal(Sealer(f"{NEW},{OLD}")), rename)

    assert not [each for each in results if isinstance(each, Exception)]
    assert [opened(row, NEW) for row in theirs] == [SECRET] * 2
    assert {row.label for row in theirs} == {"name 19"}


def test_every_table_with_sealed_secrets_is_among_them() -> None:
    sealed = {model for model in apps.get_models() if any(each.name == "sealed" for each in model._meta.fields)}

    assert {each.model for each in resealing.TABLES} == sealed


def test_the_command(rows: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from config.management.commands import rotate_encryption_key as command

    monkeypatch.setattr(command, "sealer", lambda: Sealer(f"{NEW},{OLD}"))
    call_command("rotate_encryption_key", "--new-key")
    made = capsys.readouterr().out.strip()
    assert Sealer(made).writer == made.partition(":")[0]
    with pytest.raises(CommandError, match="2 of provider_credential, 2 of tenant_credential"):
        call_command("rotate_encryption_key", "--check")
    call_command("rotate_encryption_key")
    call_command("rotate_encryption_key", "--check")
    said = capsys.readouterr().out
    assert "6 secrets were sealed anew by next" in said
    assert "Every secret is sealed by next" in said
