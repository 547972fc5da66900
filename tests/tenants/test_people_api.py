"""`/api/v1/tenant`, `/members`, `/invitations`: a tenant's programs look after it as far as their makers could."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from core.changes import Change
from tenants.invitations import find_open
from tenants.loading import load_tenant
from tenants.members import change_role, find_member, remove_member
from tenants.minting import mint_key, revoke_key
from tenants.models import Invitation, Membership, Tenant, User
from tenants.rights import Rights
from tests.admin.people import Mailbox, person
from tests.conftest import Party, client

TENANT, MEMBERS, INVITATIONS = "/api/v1/tenant", "/api/v1/members", "/api/v1/invitations"
NEWCOMER = "newcomer@example.com"
ALL = Rights(frozenset({"admin"}))


@pytest.fixture
def owner(acme: Party) -> User:
    return person("owner@acme.test", **{str(acme.id): "owner"})


@pytest.fixture
def admin(acme: Party) -> User:
    return person("admin@acme.test", **{str(acme.id): "admin"})


@pytest.fixture
def admins(acme: Party, admin: User) -> Any:
    """A client with a key that the admin made."""
    return client(mint_key(tenant_id=acme.id, name="of the admin", rights=ALL, created_by=admin)[1])


def test_a_tenant_reads_and_changes_itself(acme: Party) -> None:
    shown = acme.api.get(TENANT).json()
    assert (shown["id"], shown["slug"], shown["tier"]) == (str(acme.id), "acme", "standard")
    answer = acme.api.patch(TENANT, {"name": "Acme Ltd", "settings": {"cache_ttl_s": 60}})
    assert (answer.status_code, answer.json()["name"]) == (200, "Acme Ltd")
    config = load_tenant(acme.id)
    assert config is not None
    assert config.settings.cache_ttl_s == 60
    assert acme.api.get(TENANT).json() == answer.json()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"tier": "enterprise"}, "tier"),
        ({"is_suspended": True}, "is_suspended"),
        ({"slug": "other"}, "slug"),
        ({"name": ""}, "name"),
        ({"settings": {"cache_ttl_s": 0}}, "settings"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_what_is_the_operators_stays_so(change: dict[str, Any], field: str, acme: Party) -> None:
    before = acme.api.get(TENANT).json()
    answer = acme.api.patch(TENANT, change)
    assert (answer.status_code, list(answer.json()["errors"])) == (400, [field])
    assert acme.api.get(TENANT).json() == before


def test_a_tenant_is_changed_only_as_it_was_read(acme: Party, operator: Any) -> None:
    first = acme.api.get(TENANT)["ETag"]
    operator.patch(f"/api/v1/tenants/{acme.id}", {"tier": "enterprise"})
    assert acme.api.patch(TENANT, {"name": "Acme Ltd"}, headers={"If-Match": first}).status_code == 412


def test_reading_needs_a_scope_and_changing_a_greater_one(acme: Party, mint: Callable[..., str]) -> None:
    api = client(mint(acme.id, "usage:read", "keys:write", "models:write", "billing:write", "agents:write"))
    assert api.get(TENANT).status_code == 200
    refused = [api.patch(TENANT, {"name": "x"}), api.get(MEMBERS), api.get(INVITATIONS), api.post(INVITATIONS, {})]
    assert {each.status_code for each in refused} == {403}


def test_a_key_of_the_platform_has_no_tenant_of_its_own(operator: Any) -> None:
    for url in (TENANT, MEMBERS, INVITATIONS):
        assert operator.get(url).json()["code"] == "key_not_permitted"


def test_members_are_listed_and_found(acme: Party, owner: User, admin: User) -> None:
    rows = acme.api.get(MEMBERS).json()["results"]
    assert {(each["email"], each["role"]) for each in rows} == {(owner.email, "owner"), (admin.email, "admin")}
    assert [each["email"] for each in acme.api.get(f"{MEMBERS}?role=admin").json()["results"]] == [admin.email]
    assert [each["email"] for each in acme.api.get(f"{MEMBERS}?q=OWNER").json()["results"]] == [owner.email]
    assert acme.api.get(f"{MEMBERS}/{owner.pk}").json()["name"] == owner.name
    assert acme.api.get(f"{MEMBERS}?role=king").status_code == 400
    assert acme.api.get(f"{MEMBERS}/999999").status_code == 404


def test_a_role_is_changed_and_somebody_taken_out(acme: Party, owner: User, admin: User) -> None:
    answer = acme.api.patch(f"{MEMBERS}/{admin.pk}", {"role": "billing"})
    assert (answer.status_code, answer.json()["role"]) == (200, "billing")
    assert acme.api.patch(f"{MEMBERS}/{admin.pk}", {"role": "king"}).json()["errors"].keys() == {"role"}
    assert acme.api.patch(f"{MEMBERS}/{admin.pk}", {"email": "x@y.z"}).status_code == 400
    assert acme.api.delete(f"{MEMBERS}/{admin.pk}").status_code == 204
    assert not Membership.objects.filter(user=admin).exists()


def test_the_last_owner_stays(acme: Party, owner: User) -> None:
    refused = [acme.api.patch(f"{MEMBERS}/{owner.pk}", {"role": "admin"}), acme.api.delete(f"{MEMBERS}/{owner.pk}")]
    assert {(each.status_code, each.json()["code"]) for each in refused} == {(409, "conflict")}
    assert find_member(acme.id, owner.pk).role == "owner"


def test_a_key_reaches_no_further_than_who_made_it(acme: Party, owner: User, admin: User, admins: Any) -> None:
    refused = [
        admins.patch(f"{MEMBERS}/{owner.pk}", {"role": "viewer"}),
        admins.delete(f"{MEMBERS}/{owner.pk}"),
        admins.patch(f"{MEMBERS}/{admin.pk}", {"role": "owner"}),
        admins.post(INVITATIONS, {"email": NEWCOMER, "role": "owner"}),
    ]
    assert {each.status_code for each in refused} == {403}
    child = admins.post("/api/v1/api-keys", {"name": "child", "scopes": ["admin"]}).json()["key"]
    assert client(child).post(INVITATIONS, {"email": NEWCOMER, "role": "owner"}).status_code == 403
    assert client(child).post(INVITATIONS, {"email": NEWCOMER, "role": "viewer"}).status_code == 201


def test_an_invitation_is_told_once_and_brings_somebody_in(acme: Party, client: Any) -> None:
    answer = acme.api.post(INVITATIONS, {"email": " NewComer@Example.com", "role": "viewer"})
    made = answer.json()
    assert answer.status_code == 201, made
    assert (answer["Cache-Control"], made["is_mailed"], made["email"]) == ("no-store", False, NEWCOMER)
    path = made["link"].removeprefix("http://testserver")
    assert path.startswith("/invitations/")
    told = acme.api.get(INVITATIONS).content + acme.api.get(f"{INVITATIONS}/{made['id']}").content
    assert path.encode() not in told
    words = {"way": "sign_up", "name": "New Comer", "new_password": "a long enough password"}
    assert client.post(path, words).status_code == 302
    assert acme.api.get(f"{INVITATIONS}/{made['id']}").json()["state"] == "accepted"
    assert [each["email"] for each in acme.api.get(MEMBERS).json()["results"]] == [NEWCOMER]


def test_an_invitation_is_mailed_where_mail_is_set_up(acme: Party, mailbox: Mailbox) -> None:
    with mailbox.committed():
        made = acme.api.post(INVITATIONS, {"email": NEWCOMER, "role": "viewer"}).json()
    assert made["is_mailed"] is True
    assert made["link"] == "https://quiver.example" + mailbox.link_to(NEWCOMER)
    assert "Acme invites you" in mailbox.smtp.mails[0].get_content()


def test_invitations_are_filtered_and_revoked(acme: Party) -> None:
    made = [acme.api.post(INVITATIONS, {"email": f"{n}@example.com", "role": "viewer"}).json() for n in range(2)]
    url = f"{INVITATIONS}/{made[0]['id']}"
    assert acme.api.delete(url).status_code == 204
    assert acme.api.get(url).json()["state"] == "revoked"
    by_state = {
        state: [each["email"] for each in acme.api.get(f"{INVITATIONS}?state={state}").json()["results"]]
        for state in ("open", "revoked", "accepted", "expired")
    }
    assert by_state == {"open": ["1@example.com"], "revoked": ["0@example.com"], "accepted": [], "expired": []}
    assert len(acme.api.get(f"{INVITATIONS}?email=1@EXAMPLE.com").json()["results"]) == 1


@pytest.mark.parametrize(
    ("change", "field"), [({"email": "nobody"}, "email"), ({"role": "king"}, "role"), ({"colour": "red"}, "colour")]
)
def test_bad_input_is_named(change: dict[str, str], field: str, acme: Party) -> None:
    answer = acme.api.post(INVITATIONS, {"email": NEWCOMER, "role": "viewer"} | change)
    assert (answer.status_code, list(answer.json()["errors"])) == (400, [field])


def test_who_is_in_already_is_not_invited(acme: Party, owner: User) -> None:
    answer = acme.api.post(INVITATIONS, {"email": owner.email, "role": "viewer"})
    assert (answer.status_code, answer.json()["code"]) == (409, "already_exists")


@pytest.mark.parametrize("way", ["revoked", "demoted", "removed"])
def test_a_link_ends_with_the_rights_of_the_key_that_made_it(
    way: str, acme: Party, owner: User, admin: User, admins: Any
) -> None:
    token = admins.post(INVITATIONS, {"email": NEWCOMER, "role": "viewer"}).json()["link"].rpartition("/")[2]
    assert find_open(token).email == NEWCOMER
    made_with = Invitation.objects.get(email=NEWCOMER).invited_with_id
    assert made_with is not None
    {
        "revoked": lambda: revoke_key(key_id=made_with, tenant_id=acme.id),
        "demoted": lambda: change_role(tenant_id=acme.id, user_id=admin.pk, role="viewer", by=owner),
        "removed": lambda: remove_member(tenant_id=acme.id, user_id=admin.pk, by=owner),
    }[way]()
    assert client(None).get(f"/invitations/{token}").status_code == 404


def test_a_change_of_people_reaches_the_data_plane(
    acme: Party, owner: User, admin: User, changes: Any, committed: Any
) -> None:
    before = Tenant.objects.get(id=acme.id).version
    with committed():
        acme.api.patch(f"{MEMBERS}/{admin.pk}", {"role": "viewer"})
        acme.api.delete(f"{MEMBERS}/{admin.pk}")
    assert changes() == [Change(acme.id), Change(acme.id)]
    assert Tenant.objects.get(id=acme.id).version == before + 2


def test_mallory_sees_and_moves_nobody_of_acmes(acme: Party, mallory: Party, owner: User) -> None:
    invitation = acme.api.post(INVITATIONS, {"email": NEWCOMER, "role": "viewer"}).json()["id"]
    assert mallory.api.get(TENANT).json()["slug"] == "mallory"
    assert mallory.api.get(MEMBERS).json()["results"] == []
    assert mallory.api.get(INVITATIONS).json()["results"] == []
    refused = [
        mallory.api.get(f"{MEMBERS}/{owner.pk}"),
        mallory.api.patch(f"{MEMBERS}/{owner.pk}", {"role": "viewer"}),
        mallory.api.delete(f"{MEMBERS}/{owner.pk}"),
        mallory.api.get(f"{INVITATIONS}/{invitation}"),
        mallory.api.delete(f"{INVITATIONS}/{invitation}"),
    ]
    assert {each.status_code for each in refused} == {404}
    assert Membership.objects.filter(user=owner, role="owner").exists()


def test_a_suspended_tenants_people_stay_as_they_are(acme: Party, operator: Any, owner: User) -> None:
    operator.patch(f"/api/v1/tenants/{acme.id}", {"is_suspended": True})
    refused = [acme.api.get(MEMBERS), acme.api.patch(TENANT, {"name": "x"}), acme.api.post(INVITATIONS, {})]
    assert {(each.status_code, each.json()["code"]) for each in refused} == {(403, "tenant_suspended")}
