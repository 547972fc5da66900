"""A forgotten password: by mail, or with a link from an operator. Nobody learns who has an account."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.test import Client, RequestFactory

from core.clock import utc_now
from core.errors import KeyNotPermitted, NotFound
from tenants.models import User
from tenants.passwords import make_reset_link
from tests.admin.people import PASSWORD, Mailbox, is_in, person, sign_in
from tests.conftest import Party

ASK = "/admin/password_reset/"
NEW = "another long password"


@pytest.fixture
def user(acme: Party) -> User:
    return person("owner@acme.test", **{str(acme.id): "owner"})


def ask(client: Client, email: str, **extra: Any) -> Any:
    return client.post(ASK, {"email": email}, **extra)


def follow(client: Client, link: str, password: str = NEW) -> Any:
    """Opens the link of a mail and sets the password on the page behind it."""
    page = client.get(link, follow=True)
    path = page.redirect_chain[-1][0] if page.redirect_chain else link
    return client.post(path, {"new_password1": password, "new_password2": password})


def test_a_forgotten_password_is_set_anew_by_mail(user: User, mailbox: Mailbox, client: Client) -> None:
    elsewhere = Client()
    sign_in(elsewhere, user.email)
    assert is_in(elsewhere)
    with mailbox.committed():
        ask(client, "Owner@acme.test", headers={"host": "evil.example"})
        assert mailbox.smtp.mails == []  # not before the commit
    link = mailbox.link_to(user.email)  # of the public address, whatever the Host header says
    assert follow(client, link)["Location"] == "/admin/reset/done/"
    assert client.get("/admin/reset/done/").status_code == 200
    assert not is_in(client)  # setting a password is not signing in
    assert not is_in(elsewhere)  # and ends every session
    assert sign_in(client, user.email).status_code == 200
    assert sign_in(client, user.email, NEW).status_code == 302
    assert "not valid" in Client().get(link, follow=True).content.decode()


def test_known_and_unknown_are_answered_alike(user: User, mailbox: Mailbox, client: Client) -> None:
    with mailbox.committed() as known:
        first = ask(client, user.email)
    with mailbox.committed() as unknown:
        second = ask(client, "nobody@acme.test")
    assert (first.status_code, first["Location"]) == (second.status_code, second["Location"])
    assert len(known) == len(unknown) == 1  # the same work: who has an account is looked up by the task
    assert [mail["To"] for mail in mailbox.smtp.mails] == [user.email]


def test_an_account_without_a_password_gets_one_a_deactivated_one_nothing(
    acme: Party, mailbox: Mailbox, client: Client
) -> None:
    without, gone = person("without@acme.test"), person("gone@acme.test")
    User.objects.filter(pk=without.pk).update(password="!")
    User.objects.filter(pk=gone.pk).update(is_active=False)
    with mailbox.committed():
        ask(client, without.email)
        ask(client, gone.email)
    assert [mail["To"] for mail in mailbox.smtp.mails] == [without.email]


def test_without_mail_the_page_says_so(user: User, client: Client, committed: Any) -> None:
    assert "sends no mail" in client.get(ASK).content.decode()
    with committed() as callbacks:
        ask(client, user.email)
    assert callbacks == []


def test_nobody_fills_a_mailbox(user: User, mailbox: Mailbox, client: Client) -> None:
    with mailbox.committed():
        answers = [ask(client, user.email, REMOTE_ADDR=f"198.51.100.{n}") for n in range(6)]
    assert [each.status_code for each in answers] == [302, 302, 302, 200, 200, 200]
    assert "Too many tries" in answers[-1].content.decode()
    assert len(mailbox.smtp.mails) == 3
    strangers = [ask(client, "nobody@acme.test", REMOTE_ADDR=f"198.51.100.{n}") for n in range(6)]
    assert [each.status_code for each in strangers] == [302, 302, 302, 200, 200, 200]


def test_an_operator_makes_a_link_that_works_once(user: User, client: Client) -> None:
    operator = person("op@quiver.test", is_operator=True)
    link = make_reset_link(user_id=user.pk, by=operator, request=RequestFactory().get("/"))
    assert link.startswith("http://testserver/admin/reset/")
    follow(client, link)
    user.refresh_from_db()
    assert user.check_password(NEW)
    follow(Client(), link, "a third long password")
    user.refresh_from_db()
    assert user.check_password(NEW)


def test_a_link_ends_after_a_day_and_with_the_next_login(user: User, client: Client) -> None:
    operator = person("op@quiver.test", is_operator=True)
    request = RequestFactory().get("/")
    with time_machine.travel(utc_now() - timedelta(hours=25)):
        old = make_reset_link(user_id=user.pk, by=operator, request=request)
    assert "not valid" in client.get(old, follow=True).content.decode()
    link = make_reset_link(user_id=user.pk, by=operator, request=request)
    sign_in(Client(), user.email)
    assert "not valid" in client.get(link, follow=True).content.decode()


def test_only_operators_make_links(acme: Party, user: User) -> None:
    other = person("other@acme.test", **{str(acme.id): "viewer"})
    with pytest.raises(KeyNotPermitted):
        make_reset_link(user_id=other.pk, by=user, request=RequestFactory().get("/"))
    operator = person("op@quiver.test", is_operator=True)
    with pytest.raises(NotFound):
        make_reset_link(user_id=0, by=operator, request=RequestFactory().get("/"))


@pytest.mark.parametrize("password", ["short", "password1234", "owner@acme.test"])
def test_a_weak_password_is_refused(password: str, user: User, client: Client) -> None:
    operator = person("op@quiver.test", is_operator=True)
    link = make_reset_link(user_id=user.pk, by=operator, request=RequestFactory().get("/"))
    assert follow(client, link, password).status_code == 200
    user.refresh_from_db()
    assert user.check_password(PASSWORD)


def test_a_changed_password_ends_all_other_sessions(user: User, client: Client) -> None:
    elsewhere = Client()
    sign_in(client, user.email)
    sign_in(elsewhere, user.email)
    words = {"old_password": PASSWORD, "new_password1": NEW, "new_password2": NEW}
    assert client.post("/admin/password_change/", words).status_code == 302
    assert (is_in(client), is_in(elsewhere)) == (True, False)
