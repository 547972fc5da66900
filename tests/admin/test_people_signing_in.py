"""Signing in: the session changes its key, guessing becomes slow, and nobody is locked out by others' guessing."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import ConnectionError as RedisGone

from core.errors import RateLimitExceeded
from tenants import throttle
from tenants.addresses import network_of
from tenants.delays import Rule, Tries, attempt, take_back
from tenants.models import User
from tenants.throttle import ACCOUNT, ADDRESS, Throttle
from tests.admin.people import is_in, person, sign_in
from tests.conftest import Party

WRONG = "not the password"
RULE = Rule(free=3, longest_s=30)


@pytest.fixture
def user(acme: Party) -> User:
    return person("owner@acme.test", **{str(acme.id): "owner"})


def shown(answer: Any) -> str:
    return answer.content.decode()


def guess(times: int, email: str, address: str = "203.0.113.{n}") -> Any:
    """Wrong passwords, from an address each; the last answer."""
    answers = [sign_in(Client(), email, WRONG, REMOTE_ADDR=address.format(n=n)) for n in range(times)]
    return answers[-1]


@pytest.mark.django_db
def test_who_came_to_the_sign_in_page_by_itself_is_led_to_the_dashboard(client: Client) -> None:
    person("ada@acme.example", is_operator=True)

    assert sign_in(client, "ada@acme.example").headers["Location"] == "/admin/"


def test_the_session_gets_a_new_key_and_safe_flags(user: User, client: Client) -> None:
    session = client.session
    session["planted"] = "before"
    session.save()
    planted = session.session_key
    answer = sign_in(client, user.email.upper())  # in any case
    assert answer.status_code == 302
    assert client.session.session_key not in (None, planted)
    cookie = answer.cookies["sessionid"]
    assert (cookie["httponly"], cookie["samesite"]) == (True, "Lax")
    assert Client(headers={"cookie": f"sessionid={planted}"}).get("/admin/").status_code != 200


def test_cookies_are_secure_behind_https(user: User, client: Client, settings: Any) -> None:
    settings.SESSION_COOKIE_SECURE = True  # what the settings make of a public address with https
    assert sign_in(client, user.email).cookies["sessionid"]["secure"] is True


def test_wrong_passwords_and_unknown_accounts_are_answered_alike(user: User) -> None:
    known, unknown = guess(1, user.email), guess(1, "nobody@acme.test")
    assert known.context["form"].non_field_errors() == unknown.context["form"].non_field_errors()
    # And both slow down alike.
    assert "Too many tries" in shown(guess(10, user.email))
    assert "Too many tries" in shown(guess(10, "nobody@acme.test"))


@pytest.mark.slow
def test_guessing_from_many_addresses_waits_at_most_half_a_minute(user: User, clock: Any) -> None:
    assert "Too many tries. Wait 1 second," in shown(guess(ACCOUNT.free + 1, user.email))
    for _ in range(12):
        clock.now += 3600 - 1
        guess(ACCOUNT.free + 1, user.email)
    assert "Wait 30 seconds" in shown(guess(1, user.email))
    clock.now += 31
    assert sign_in(Client(), user.email, REMOTE_ADDR="192.0.2.77").status_code == 302


def test_who_was_here_before_is_not_slowed_by_others(user: User) -> None:
    home = {"REMOTE_ADDR": "192.0.2.10"}
    assert sign_in(Client(), user.email, **home).status_code == 302
    assert "Too many tries" in shown(guess(20, user.email))
    assert "Too many tries" in shown(sign_in(Client(), user.email, REMOTE_ADDR="192.0.2.11"))
    assert sign_in(Client(), user.email, **home).status_code == 302


def test_an_address_that_tries_many_accounts_waits_longer_and_longer(db: None, clock: Any) -> None:
    thief = {"REMOTE_ADDR": "198.51.100.1"}
    for number in range(ADDRESS.free):
        sign_in(Client(), f"{number}@acme.test", WRONG, **thief)
    waits = []
    for number in range(12):
        clock.now += 0.5
        answer = shown(sign_in(Client(), f"x{number}@acme.test", WRONG, **thief))
        assert "Too many tries" in answer
        waits.append(answer)
        clock.now += 2.0**number
        sign_in(Client(), f"y{number}@acme.test", WRONG, **thief)
    assert "15 minutes" in waits[-1]


@pytest.mark.slow
def test_what_an_address_is_refused_does_not_count_against_the_account(user: User, throttles: Throttle) -> None:
    thief = {"REMOTE_ADDR": "198.51.100.1"}
    for number in range(ADDRESS.free):
        sign_in(Client(), f"{number}@acme.test", WRONG, **thief)
    for _ in range(50):
        sign_in(Client(), user.email, WRONG, **thief)
    assert sign_in(Client(), user.email).status_code == 302


def test_a_right_password_is_free(user: User) -> None:
    answers = [sign_in(Client(), user.email) for _ in range(ADDRESS.free + 5)]
    assert {each.status_code for each in answers} == {302}


def test_the_invitation_page_is_throttled_too(acme: Party, user: User) -> None:
    from tenants.invitations import invite

    _, token = invite(tenant_id=acme.id, email="newcomer@example.com", role="viewer", by=user)
    person("newcomer@example.com")
    words = {"way": "sign_in", "password": WRONG}
    answers = [Client().post(f"/invitations/{token}", words) for _ in range(ACCOUNT.free + 1)]
    assert "Too many tries" in shown(answers[-1])


def test_without_redis_people_get_in_and_guessing_is_still_slow(
    user: User, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(alias: str) -> Any:
        raise RedisGone("refused")

    monkeypatch.setattr(throttle, "get_redis_connection", gone)
    assert sign_in(client, user.email).status_code == 302
    assert is_in(client)
    answer = guess(ACCOUNT.free + 1, user.email)
    assert (answer.status_code, "Too many tries" in shown(answer)) == (200, True)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(alias: str) -> Any:
        raise RedisGone("refused")

    monkeypatch.setattr(throttle, "get_redis_connection", gone)
    monkeypatch.setattr(throttle, "_MOST_IN_MEMORY", 10)
    tried = Throttle("bounded")
    for number in range(100):
        tried.enter(address=f"198.51.100.{number}", account=f"{number}@acme.test")
    assert len(tried._memory) == 10


def test_many_at_once_are_not_all_free(at_once: Any, throttles: Throttle, transactional_db: None) -> None:
    def enter() -> str:
        throttles.enter(address="198.51.100.1", account="owner@acme.test")
        return "in"

    outcomes = at_once(*[enter] * 16)
    assert outcomes.count("in") == ACCOUNT.free
    assert all(isinstance(each, RateLimitExceeded) for each in outcomes if each != "in")


@given(st.lists(st.floats(min_value=0, max_value=500), max_size=200))
def test_waits_never_pass_the_longest_and_refusals_do_not_lengthen_them(pauses: list[float]) -> None:
    seen, now = Tries(), 1_000.0
    for pause in pauses:
        now += pause
        before = seen
        seen, wait = attempt(seen, RULE, now)
        assert 0 <= wait <= RULE.longest_s
        assert (seen == before) is (wait > 0)


def test_the_rule_in_numbers() -> None:
    seen, waits = Tries(), []
    for _ in range(9):
        seen, _ = attempt(seen, RULE, seen.until)
        waits.append(seen.until - seen.last)
    assert waits == [0, 0, 1, 2, 4, 8, 16, 30, 30]
    assert take_back(seen, RULE, seen.last).count == 8
    assert attempt(seen, RULE, seen.last + RULE.forget_s + 1)[0].count == 1


def test_a_subscriber_is_one_address() -> None:
    assert network_of("2001:db8:1:2:3:4:5:6") == network_of("2001:db8:1:2::9") != network_of("2001:db8:1:3::9")
    assert network_of("::ffff:192.0.2.1") == network_of("192.0.2.1") != network_of("192.0.2.2")
