"""A tenant's own credentials over REST: what is taken, what is shown, who reaches them, who is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest

from core.changes import Change
from tests.conftest import Party
from tests.fakes.openai import FakeOpenAI

PATH = "/api/v1/provider-credentials"
SECRET = "sk-acmes-own-and-secret-key-7f3a"
Post = Callable[..., Any]


@pytest.fixture
def vendors(db: None) -> None:
    from catalog.upstreams import add_provider

    for slug, kind in {"vendor": "openai", "azure": "azure", "bedrock": "bedrock", "here": "local"}.items():
        add_provider(slug=slug, kind=kind)


def post(party: Party, path: str = PATH, **words: Any) -> Any:
    return party.api.post(path, {"provider": "vendor", "secret": {"api_key": SECRET}, **words}, format="json")


def test_a_secret_goes_in_and_never_comes_out(acme: Party, vendors: None) -> None:
    added = post(acme, label="ours")

    assert added.status_code == 201
    row = added.json()
    assert {name: row[name] for name in ("provider", "label", "use", "hint", "is_enabled")} == {
        "provider": "vendor",
        "label": "ours",
        "use": "only",
        "hint": "7f3a",
        "is_enabled": True,
    }
    listed = acme.api.get(PATH)
    assert listed.json()["results"] == [acme.api.get(f"{PATH}/{row['id']}").json()] == [row]
    assert SECRET not in added.content.decode() + listed.content.decode()


def test_the_secret_is_sealed_for_this_tenant_and_row(acme: Party, globex: Party, vendors: None) -> None:
    from core.sealing import SealBroken
    from tenants.loading import SEALED_AS, own_credential
    from tenants.loading import sealer as sealer_of
    from tenants.models import TenantCredential

    row = TenantCredential.objects.get(id=post(acme).json()["id"])

    assert SECRET not in row.sealed
    assert own_credential(row).secret == {"api_key": SECRET}
    with pytest.raises(SealBroken):
        sealer_of().open(row.sealed, tenant=str(globex.id), table=SEALED_AS, row=str(row.id))
    row.tenant_id = globex.id
    assert own_credential(row).secret is None


def test_it_is_in_this_tenants_configuration_alone_and_gone_when_it_is_deleted(
    acme: Party, globex: Party, vendors: None
) -> None:
    from tenants.loading import load_tenant

    def known(party: Party) -> list[tuple[str, str]]:
        config = load_tenant(party.id)
        assert config is not None
        return [(each.provider, each.use) for each in config.credentials]

    row = post(acme, use="first").json()

    assert (known(acme), known(globex)) == ([("vendor", "first")], [])
    assert acme.api.patch(f"{PATH}/{row['id']}", {"is_enabled": False}, format="json").status_code == 200
    assert known(acme) == []
    assert acme.api.delete(f"{PATH}/{row['id']}").status_code == 204
    assert acme.api.get(f"{PATH}/{row['id']}").status_code == 404


def test_every_change_is_told_to_the_data_plane(
    acme: Party, vendors: None, committed: Callable[[], Any], changes: Callable[[], list[Any]]
) -> None:
    with committed():
        row = post(acme).json()
    with committed():
        acme.api.patch(f"{PATH}/{row['id']}", {"use": "last"}, format="json")
    with committed():
        acme.api.delete(f"{PATH}/{row['id']}")

    assert changes() == [Change(acme.id)] * 3


def test_a_new_secret_takes_the_place_of_the_old_one_and_nothing_else_changes(acme: Party, vendors: None) -> None:
    row = post(acme, label="ours", use="last").json()

    changed = acme.api.patch(f"{PATH}/{row['id']}", {"secret": {"api_key": "sk-another-one-0123"}}, format="json")

    assert changed.json() == row | {"hint": "0123", "updated_at": changed.json()["updated_at"]}


def test_what_was_done_is_written_down_without_the_secret(acme: Party, vendors: None) -> None:
    from audit.models import AuditEvent

    one = f"{PATH}/{post(acme).json()['id']}"
    acme.api.patch(one, {"use": "last", "secret": {"api_key": "sk-another-one-0123"}}, format="json")
    acme.api.delete(one)

    events = AuditEvent.objects.filter(subject_kind="tenant_credential").order_by("id")
    assert [(each.tenant_id, each.action.partition(".")[2]) for each in events] == [
        (acme.id, "added"),
        (acme.id, "changed"),
        (acme.id, "removed"),
    ]
    assert events[1].before == {"use": "only", "hint": "7f3a"}
    assert events[1].after == {"use": "last", "hint": "0123", "secret": "(hidden)"}
    assert not any("sealed" in (each.after or {}) or SECRET in str(each.after) for each in events)


def test_a_change_by_what_is_old_is_refused(acme: Party, vendors: None) -> None:
    one = f"{PATH}/{post(acme).json()['id']}"
    read = acme.api.get(one)["ETag"]
    assert acme.api.patch(one, {"use": "last"}, format="json", headers={"If-Match": read}).status_code == 200

    late = acme.api.patch(one, {"label": "x"}, format="json", headers={"If-Match": read})

    assert late.status_code == 412


@pytest.mark.parametrize(
    ("words", "status", "param", "says"),
    [
        ({"provider": "nobody"}, 404, "provider", "no provider"),
        ({"provider": "here"}, 400, "provider", "take no credential"),
        ({"secret": {}}, 400, "secret", "is api_key"),
        ({"secret": {"api_key": "with a space"}}, 400, "secret.api_key", "copied whole"),
        ({"secret": {"service_account": "{}"}}, 400, "secret", "is api_key"),
        ({"use": "always"}, 400, "use", "not a valid choice"),
        ({"region": "eu-west-1"}, 400, "region", "takes no region"),
        ({"base_url": "http://127.0.0.1"}, 400, "base_url", "no such field"),
        ({"provider": "azure"}, 400, "resource", "belongs to a resource"),
        ({"provider": "azure", "resource": "evil.com/x"}, 400, "resource", "name alone"),
        ({"provider": "azure", "resource": "a@b"}, 400, "resource", "name alone"),
        ({"provider": "bedrock", "region": "evil.com#"}, 400, "region", "as the vendor writes it"),
        ({"provider": "bedrock", "secret": {"api_key": "bedrock-key"}}, 400, None, "needs a region"),
        ({"tenant": str(uuid4())}, 400, "tenant", "no such field"),
    ],
)
def test_what_cannot_be_is_refused_with_its_field(
    acme: Party, vendors: None, words: dict[str, Any], status: int, param: str | None, says: str
) -> None:
    refused = post(acme, **words)

    assert refused.status_code == status
    said = refused.json()
    assert says in (said["detail"] if param is None else " ".join(said["errors"][param]))


def test_a_tenant_cannot_send_us_to_an_address_of_its_own_for_tokens(acme: Party, db: None) -> None:
    from catalog.upstreams import add_provider
    from tests.fakes.vertex import FakeVertex

    add_provider(slug="vertex", kind="vertex", region="us-central1")
    with FakeVertex() as fake:  # its account asks for tokens on loopback
        refused = post(acme, provider="vertex", secret=fake.secret)

        assert refused.status_code == 400
        assert "only an operator" in refused.json()["detail"]
        assert fake.calls == []


def test_there_is_an_end_to_how_many_one_tenant_has(acme: Party, vendors: None) -> None:
    from tenants.own_credentials import MOST_CREDENTIALS

    for _ in range(MOST_CREDENTIALS):
        assert post(acme).status_code == 201

    assert post(acme).status_code == 409
    page = acme.api.get(f"{PATH}?limit=7").json()
    assert (len(page["results"]), page["next"] is not None) == (7, True)


def test_filters(acme: Party, vendors: None) -> None:
    post(acme)
    post(acme, provider="azure", resource="acme", use="last")

    assert [row["provider"] for row in acme.api.get(f"{PATH}?provider=azure").json()["results"]] == ["azure"]
    assert [row["provider"] for row in acme.api.get(f"{PATH}?use=only").json()["results"]] == ["vendor"]
    assert acme.api.get(f"{PATH}?providr=azure").json()["code"] == "unknown_field"


def test_writing_needs_all_rights_of_the_tenant(acme: Party, vendors: None, mint: Any, as_key: Any) -> None:
    row = post(acme).json()
    reader = as_key(mint(acme.id, "models:read", "models:write"))

    assert reader.get(f"{PATH}/{row['id']}").status_code == 200
    assert reader.delete(f"{PATH}/{row['id']}").status_code == 403
    assert reader.post(PATH, {}, format="json").status_code == 403


def test_mallory_sees_and_changes_nothing(acme: Party, mallory: Party, vendors: None) -> None:
    row = post(acme).json()
    one = f"{PATH}/{row['id']}"

    assert mallory.api.get(PATH).json()["results"] == []
    for answer in (
        mallory.api.get(one),
        mallory.api.patch(one, {"use": "last"}, format="json"),
        mallory.api.put(one, {"use": "last"}, format="json"),
        mallory.api.delete(one),
        mallory.api.post(f"{one}/test"),
        mallory.api.get(f"{one}/tests/{uuid4()}"),
    ):
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert acme.api.get(one).json() == row


# Tests of a credential


@pytest.fixture
def worker() -> Iterator[None]:
    """Tasks run as soon as they are sent."""
    from config.celery import app

    app.conf.task_always_eager = True
    yield
    app.conf.task_always_eager = False


@pytest.mark.parametrize(("secret", "is_ok"), [("sk-the-right-one-0123", True), ("sk-a-wrong-one-45678", False)])
def test_a_credential_is_tried_by_a_worker(
    acme: Party, mallory: Party, worker: None, committed: Any, secret: str, is_ok: bool
) -> None:
    from catalog.upstreams import add_provider

    with FakeOpenAI() as vendor:
        vendor.switch(key="sk-the-right-one-0123")
        add_provider(slug="vendor", kind="openai_compatible", base_url=vendor.base_url)
        one = f"{PATH}/{post(acme, secret={'api_key': secret}).json()['id']}"

        with committed():
            begun = acme.api.post(f"{one}/test")

        assert (begun.status_code, begun.json()["state"]) == (202, "waiting")
        told = acme.api.get(f"{one}/tests/{begun.json()['id']}").json()
        assert (told["state"], [each["is_ok"] for each in told["findings"]]) == ("done", [is_ok])
        assert secret not in str(told)
        theirs = post(mallory).json()["id"]
        assert mallory.api.get(f"{PATH}/{theirs}/tests/{begun.json()['id']}").status_code == 404
