"""Invitations: who may invite whom, what a link is good for, and that it is good for it once."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.core.exceptions import ValidationError
from django.test import Client

from core.clock import utc_now
from core.errors import AlreadyExists, KeyNotPermitted, NotFound, RateLimitExceeded, TenantSuspended
from tenants import invitations
from tenants.invitations import accept, accept_as_new, find_open, invitations_of, invite, revoke, state_of
from tenants.members import change_role, find_member, remove_member
from tenants.models import Invitation, Membership, User
from tenants.services import change_tenant
from tests.admin.people import PASSWORD, Mailbox, is_in, person
from tests.conftest import Party, make_party

NEWCOMER = "newcomer@example.com"


@pytest.fixture
def owner(acme: Party) -> User:
    return person("owner@acme.test", **{str(acme.id): "owner"})


@pytest.fixture
def token(acme: Party, owner: User) -> str:
    """An open invitation of the newcomer's, as viewer."""
    return invite(tenant_id=acme.id, email=NEWCOMER, role="viewer", by=owner)[1]


def role_of(user: User, tenant_id: Any) -> str:
    return find_member(tenant_id, user.pk).role


def test_a_newcomer_comes_in_by_mail(acme: Party, owner: User, mailbox: Mailbox, client: Client) -> None:
    with mailbox.committed():
        row, token = invite(tenant_id=acme.id, email=" NewComer@Example.com", role="admin", by=owner)
        assert mailbox.smtp.mails == []  # not before the commit
    assert [mail["To"] for mail in mailbox.smtp.mails] == [NEWCOMER]
    assert "Acme" in mailbox.smtp.mails[0]["Subject"]
    link = mailbox.link_to(NEWCOMER)
    assert link == f"/invitations/{token}"
    page = client.get(link)
    assert page.status_code == 200
    assert (page["Referrer-Policy"], "no-store" in page["Cache-Control"]) == ("no-referrer", True)
    assert all(word in page.content.decode() for word in (NEWCOMER, "Acme", "admin"))
    answer = client.post(link, {"way": "sign_up", "name": "New Comer", "new_password": PASSWORD})
    assert (answer.status_code, answer["Location"]) == (302, "/admin/")
    assert is_in(client)
    user = User.objects.get(email=NEWCOMER)
    assert (user.name, role_of(user, acme.id), user.is_superuser) == ("New Comer", "admin", False)
    row.refresh_from_db()
    assert (state_of(row, utc_now()), row.accepted_by) == ("accepted", user)


def test_only_a_digest_is_kept(token: str) -> None:
    assert token.encode() not in bytes(Invitation.objects.get().digest)
    assert find_open(token).email == NEWCOMER


def test_without_mail_nothing_is_sent(acme: Party, owner: User, committed: Any) -> None:
    with committed() as callbacks:
        invite(tenant_id=acme.id, email=NEWCOMER, role="viewer", by=owner)
    assert callbacks == []


def test_a_mail_server_that_is_gone_harms_no_invitation(acme: Party, owner: User, mailbox: Mailbox) -> None:
    mailbox.smtp.refuse = True
    with mailbox.committed():
        _, token = invite(tenant_id=acme.id, email=NEWCOMER, role="viewer", by=owner)
    assert mailbox.smtp.mails == []
    assert find_open(token).email == NEWCOMER


def test_somebody_with_an_account_signs_in_on_the_page(acme: Party, token: str, client: Client) -> None:
    user = person(NEWCOMER)
    link = f"/invitations/{token}"
    wrong = client.post(link, {"way": "sign_in", "password": "not the password"})
    assert "This is not the password" in wrong.content.decode()
    assert not is_in(client)
    assert client.post(link, {"way": "sign_in", "password": PASSWORD})["Location"] == "/admin/"
    assert is_in(client)
    assert role_of(user, acme.id) == "viewer"


def test_somebody_who_is_signed_in_joins_with_a_click(acme: Party, token: str, client: Client) -> None:
    user = person(NEWCOMER)
    client.force_login(user)
    assert client.get(f"/invitations/{token}").status_code == 200
    assert not Membership.objects.filter(user=user).exists()  # looking changes nothing
    client.post(f"/invitations/{token}", {"way": "join"})
    assert role_of(user, acme.id) == "viewer"


def test_somebody_else_cannot_use_the_link(acme: Party, mallory: Party, token: str, client: Client) -> None:
    thief = person("mallory@mallory.test", **{str(mallory.id): "owner"})
    client.force_login(thief)
    link = f"/invitations/{token}"
    assert "somebody else" in client.get(link).content.decode()
    refused = client.post(link, {"way": "join"})
    assert f"This invitation is for {NEWCOMER}" in refused.content.decode()
    assert not Membership.objects.filter(tenant_id=acme.id, user=thief).exists()
    client.post(link, {"way": "leave"})
    assert not is_in(client)
    assert find_open(token)


def test_the_page_does_not_tell_whether_there_is_an_account(token: str, client: Client) -> None:
    def seen() -> str:
        lines = client.get(f"/invitations/{token}").content.decode().splitlines()
        return "\n".join(line for line in lines if "csrfmiddlewaretoken" not in line)

    before = seen()
    person(NEWCOMER)
    assert seen() == before


def test_an_account_is_not_taken_over_with_a_link(token: str, client: Client) -> None:
    user = person(NEWCOMER)
    answer = client.post(
        f"/invitations/{token}", {"way": "sign_up", "name": "Thief", "new_password": "some other password"}
    )
    assert "No account was made" in answer.content.decode()
    user.refresh_from_db()
    assert (user.name, user.check_password(PASSWORD), is_in(client)) == ("Newcomer", True, False)
    assert find_open(token)  # nothing happened: it can still be used


@pytest.mark.parametrize("password", ["short", "password1234", NEWCOMER])
def test_a_weak_password_makes_no_account(password: str, token: str, client: Client) -> None:
    answer = client.post(f"/invitations/{token}", {"way": "sign_up", "name": "N", "new_password": password})
    assert answer.status_code == 200
    assert not User.objects.filter(email=NEWCOMER).exists()
    with pytest.raises(ValidationError):
        accept_as_new(token=token, name="N", password=password)


def test_links_that_have_ended_are_all_refused_in_the_same_words(acme: Party, owner: User, client: Client) -> None:
    def invited(email: str) -> tuple[Invitation, str]:
        return invite(tenant_id=acme.id, email=email, role="viewer", by=owner)

    with time_machine.travel(utc_now() - timedelta(days=7, minutes=1)):
        expired = invited("late@example.com")[1]
    revoked_row, revoked = invited("unwanted@example.com")
    revoke(tenant_id=acme.id, invitation_id=revoked_row.id, by=owner)
    used = invited("quick@example.com")[1]
    accept_as_new(token=used, name="Quick", password=PASSWORD)
    replaced = invited("twice@example.com")[1]
    invited("twice@example.com")
    forged = f"{used.rpartition('.')[0]}.{'A' * 43}"
    for token in (expired, revoked, used, replaced, forged, "nonsense", invitations._signer.sign("unknown")):
        page = client.get(f"/invitations/{token}")
        assert (page.status_code, invitations.NOT_VALID in page.content.decode()) == (404, True)
        assert client.post(f"/invitations/{token}", {"way": "sign_up"}).status_code == 404
        with pytest.raises(NotFound, match="not valid"):
            accept_as_new(token=token, name="N", password=PASSWORD)


def test_a_made_up_token_costs_no_query(db: None, django_assert_num_queries: Any) -> None:
    with django_assert_num_queries(0), pytest.raises(NotFound):
        find_open("made.up")


@pytest.mark.parametrize(
    ("inviter", "role"),
    [("owner", "owner"), ("owner", "viewer"), ("admin", "admin"), ("admin", "billing"), ("admin", "viewer")],
)
def test_owners_and_admins_invite_up_to_their_own_role(inviter: str, role: str, acme: Party) -> None:
    by = person("inviter@acme.test", **{str(acme.id): inviter})
    assert invite(tenant_id=acme.id, email=NEWCOMER, role=role, by=by)[0].role == role


@pytest.mark.parametrize(("inviter", "role"), [("admin", "owner"), ("billing", "viewer"), ("viewer", "viewer")])
def test_nobody_invites_above_themselves(inviter: str, role: str, acme: Party) -> None:
    by = person("inviter@acme.test", **{str(acme.id): inviter})
    with pytest.raises(KeyNotPermitted):
        invite(tenant_id=acme.id, email=NEWCOMER, role=role, by=by)
    assert not Invitation.objects.exists()


def test_mallory_invites_nobody_to_acme_and_sees_no_invitation(acme: Party, mallory: Party, token: str) -> None:
    thief = person("mallory@mallory.test", **{str(mallory.id): "owner"})
    with pytest.raises(NotFound):
        invite(tenant_id=acme.id, email="friend@mallory.test", role="viewer", by=thief)
    row = find_open(token)
    with pytest.raises(NotFound):
        revoke(tenant_id=mallory.id, invitation_id=row.id, by=thief)
    with pytest.raises(NotFound):
        revoke(tenant_id=acme.id, invitation_id=row.id, by=thief)
    assert not invitations_of(mallory.id).exists()
    assert find_open(token)


def test_a_link_counts_no_longer_than_its_inviter(acme: Party, owner: User) -> None:
    admin = person("admin@acme.test", **{str(acme.id): "admin"})
    _, token = invite(tenant_id=acme.id, email=NEWCOMER, role="admin", by=admin)
    change_role(tenant_id=acme.id, user_id=admin.pk, role="viewer", by=owner)
    with pytest.raises(NotFound):
        find_open(token)
    change_role(tenant_id=acme.id, user_id=admin.pk, role="admin", by=owner)
    assert find_open(token)
    remove_member(tenant_id=acme.id, user_id=admin.pk, by=owner)
    with pytest.raises(NotFound):
        find_open(token)


def test_an_operator_invites_the_first_owner(acme: Party) -> None:
    operator = person("op@quiver.test", is_operator=True)
    _, token = invite(tenant_id=acme.id, email=NEWCOMER, role="owner", by=operator)
    assert accept_as_new(token=token, name="N", password=PASSWORD).role == "owner"


def test_members_of_a_suspended_tenant_invite_nobody(acme: Party, owner: User) -> None:
    change_tenant(tenant_id=acme.id, is_suspended=True)
    with pytest.raises(TenantSuspended):
        invite(tenant_id=acme.id, email=NEWCOMER, role="viewer", by=owner)


def test_a_member_is_not_invited_again(acme: Party, owner: User) -> None:
    with pytest.raises(AlreadyExists):
        invite(tenant_id=acme.id, email="OWNER@acme.test", role="viewer", by=owner)


def test_an_invitation_takes_no_role_away(acme: Party, owner: User, token: str) -> None:
    user = person(NEWCOMER, **{str(acme.id): "admin"})
    assert accept(token=token, user=user).role == "admin"


def test_a_tenant_does_not_fill_mailboxes(acme: Party, owner: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invitations, "MAX_A_DAY", 2)
    for number in range(2):
        invite(tenant_id=acme.id, email=f"{number}@example.com", role="viewer", by=owner)
    with pytest.raises(RateLimitExceeded):
        invite(tenant_id=acme.id, email="third@example.com", role="viewer", by=owner)


@pytest.mark.django_db(transaction=True)
def test_two_at_once_use_a_link_once(at_once: Any) -> None:
    acme = make_party("acme")
    owner = person("owner@acme.test", **{str(acme.id): "owner"})
    _, token = invite(tenant_id=acme.id, email=NEWCOMER, role="viewer", by=owner)
    outcomes = at_once(*[lambda: accept_as_new(token=token, name="N", password=PASSWORD)] * 4)
    assert sorted(type(each).__name__ for each in outcomes) == ["Membership", "NotFound", "NotFound", "NotFound"]
    assert User.objects.filter(email=NEWCOMER).count() == 1


@pytest.mark.django_db(transaction=True)
def test_two_links_of_two_tenants_at_once_make_one_account(at_once: Any) -> None:
    tokens = []
    for slug in ("acme", "globex"):
        party = make_party(slug)
        owner = person(f"owner@{slug}.test", **{str(party.id): "owner"})
        tokens.append(invite(tenant_id=party.id, email=NEWCOMER, role="viewer", by=owner)[1])
    outcomes = at_once(
        lambda: accept_as_new(token=tokens[0], name="N", password=PASSWORD),
        lambda: accept_as_new(token=tokens[1], name="N", password=PASSWORD),
    )
    assert sorted(type(each).__name__ for each in outcomes) == ["AlreadyExists", "Membership"]
    assert Membership.objects.filter(user__email=NEWCOMER).count() == 1
