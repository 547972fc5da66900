"""One row for each thing that was done: who, what, of what it was and is, and nobody changes it afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from queue import Queue
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from celery.contrib.testing.worker import start_worker
from django.conf import settings
from django.db import connection, transaction

from audit.actors import Actor, Kind, acting, current
from audit.facts import HIDDEN, difference, is_secret
from audit.facts import facts as facts_of
from audit.models import AuditEvent
from audit.services import covering, forget_tenant, record
from config.celery import app
from config.up.postgres import SUPERUSER
from core.clock import utc_now
from core.ids import uuid7_time
from tests.conftest import owners_cursor
from tests.services import PASSWORD

pytestmark = pytest.mark.django_db
SECRETS = ["password", "secret", "aws_secret_access_key", "api_key", "apiKey", "X-API-Key", "sealed", "digest", "token"]
SECRETS += ["session_token", "service_account", "Authorization", "old_password", "credentials", "webhookSecret"]
HARMLESS = ["max_tokens", "daily_token_limit", "tokenizer", "key_id", "subject_key", "max_tokens_per_call", "scope"]
HARMLESS += ["cost_per_million_tokens", "prefix", "hint", "credential_id", "email"]
ANNA = Actor(Kind.PERSON, "7", "anna@acme.example", address="192.0.2.7", request_id="r-1")


def done(**words: Any) -> AuditEvent:
    record("thing.changed", **{"tenant_id": None, "subject": "thing", "subject_id": "t-1", **words})
    return AuditEvent.objects.get()


def test_a_row_says_who_did_what_from_where_and_what_changed() -> None:
    tenant = uuid4()
    with acting(lambda: ANNA):
        row = done(tenant_id=tenant, before={"name": "a", "size": 1}, after={"name": "b", "size": 1})

    assert (row.actor_kind, row.actor_id, row.actor) == ("person", "7", "anna@acme.example")
    assert (row.address, row.request_id) == ("192.0.2.7", "r-1")
    assert (row.action, row.subject_kind, row.subject_id, row.tenant_id) == ("thing.changed", "thing", "t-1", tenant)
    assert (row.before, row.after) == ({"name": "a"}, {"name": "b"})
    assert row.created_at == uuid7_time(row.id)


def test_what_nobody_let_in_is_the_command_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/srv/manage.py", "prices", "--password=s3cret"])
    row = done()
    assert (row.actor_kind, row.actor_id, row.address) == ("command", "manage.py prices", "")


def test_what_an_action_is_made_of_is_not_told_again() -> None:
    with covering():
        record("part.changed", tenant_id=None, subject="part", subject_id=1)
    assert done().action == "thing.changed"


def test_an_action_that_was_rolled_back_was_not_done() -> None:
    with transaction.atomic():
        done()
        transaction.set_rollback(True)
    assert not AuditEvent.objects.exists()


def test_what_was_done_for_an_erased_tenant_is_forgotten_and_nothing_else() -> None:
    tenant = uuid4()
    record("thing.added", tenant_id=tenant, subject="thing", subject_id=1)
    record("thing.added", tenant_id=uuid4(), subject="thing", subject_id=1)

    with owners_cursor() as owner:
        forget_tenant(tenant, people=[], owner=owner)
    assert AuditEvent.objects.get().tenant_id != tenant


@pytest.mark.parametrize(
    "name",
    [
        "password",
        "secret",
        "aws_secret_access_key",
        "api_key",
        "apiKey",
        "sealed",
        "digest",
        "session_token",
        "token",
        "service_account",
        "Authorization",
        "old_password",
        "credentials",
        "webhookSecret",
        "X-API-Key",
    ],
)
def test_secrets_are_known_by_their_names(name: str) -> None:
    assert is_secret(name)
    assert difference(None, {name: "s3cret", "inside": {name: "s3cret"}}) == (
        None,
        {name: HIDDEN, "inside": {name: HIDDEN}},
    )


@pytest.mark.parametrize(
    "name",
    [
        "max_tokens",
        "daily_token_limit",
        "tokenizer",
        "key_id",
        "subject_key",
        "max_tokens_per_call",
        "scope",
        "cost_per_million_tokens",
        "prefix",
        "hint",
        "credential_id",
        "email",
    ],
)
def test_what_only_sounds_like_a_secret_is_told(name: str) -> None:
    assert difference(None, {name: "x"}) == (None, {name: "x"})


def test_a_key_of_ours_is_hidden_wherever_it_stands(mint: Any, acme: Any) -> None:
    key = mint(acme.id, "embeddings")
    told = difference({"note": "none"}, {"note": f"use {key}, please", "list": [key]})
    assert told == ({"note": "none"}, {"note": f"use {HIDDEN}, please", "list": [HIDDEN]})


def test_the_columns_of_a_row_are_told_without_its_secrets(acme: Any) -> None:
    from tenants.models import ApiKey, User

    key = facts_of(ApiKey.objects.get(id=acme.key_id))
    person = facts_of(User.objects.create_user("a@b.example", "a-password-of-theirs"))

    assert key["name"] == "all"
    assert person["email"] == "a@b.example"
    assert not {"digest", "password", "created_at"} & {*key, *person}


def test_numbers_and_times_are_kept_as_they_are_written() -> None:
    row = done(after={"amount": Decimal("0.020"), "at": utc_now()})
    row.refresh_from_db()
    assert row.after is not None
    assert row.after["amount"] == "0.020"
    assert row.after["at"].endswith("Z")


class TestAppendOnly:
    @pytest.fixture
    def lesser(self) -> Iterator[psycopg.Connection]:
        """A role that is not the owner, granted whatever can be granted."""
        database = settings.DATABASES["default"]
        where = {"host": database["HOST"], "port": database["PORT"], "dbname": connection.settings_dict["NAME"]}
        with psycopg.connect(user=SUPERUSER, password=PASSWORD, **where) as open_one:
            open_one.execute("CREATE ROLE lesser BYPASSRLS")
            open_one.execute("GRANT ALL ON audit_auditevent TO lesser")
            open_one.execute("SET ROLE lesser")
            yield open_one
            open_one.rollback()

    @pytest.mark.parametrize(
        "statement",
        ["UPDATE audit_auditevent SET actor = 'nobody'", "DELETE FROM audit_auditevent", "TRUNCATE audit_auditevent"],
    )
    def test_nobody_but_the_owner_changes_a_row(self, lesser: psycopg.Connection, statement: str) -> None:
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="only ever added"):
            lesser.execute(statement.encode())

    def test_whoever_may_write_adds_and_reads(self, lesser: psycopg.Connection) -> None:
        columns = "id, created_at, actor_kind, actor_id, actor, action, subject_kind, subject_id, address, request_id"
        values = "gen_random_uuid(), now(), 'task', 'a', 'a', 'a.b', 'a', '', '', ''"
        lesser.execute(f"INSERT INTO audit_auditevent ({columns}) VALUES ({values})".encode())
        assert lesser.execute("SELECT count(*) FROM audit_auditevent").fetchone() == (1,)


class TestTasks:
    def test_a_task_that_nobody_asked_for_acts_itself(self) -> None:
        @app.task(name="tests.who")
        def who() -> Actor:
            return current()

        actor = who.apply().get()
        assert (actor.kind, actor.id) == (Kind.TASK, "tests.who")
        assert actor.request_id

    def test_a_task_is_the_doing_of_whoever_had_it_sent(self) -> None:
        """Over the broker, to a worker."""
        seen: Queue[Actor] = Queue()

        @app.task(name="tests.for_whom")
        def for_whom() -> None:
            seen.put(current())

        with acting(lambda: ANNA):
            for_whom.delay()
        with start_worker(app, perform_ping_check=False, shutdown_timeout=30):
            assert seen.get(timeout=30) == ANNA
