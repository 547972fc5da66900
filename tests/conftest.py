"""What all tests share: the servers of the run, parties to tell stories about, and clients that speak for them.

Three tenants: acme, globex, and mallory, who has every right of her own and tries to reach what is others'.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from pytest_django import DjangoDbBlocker
from pytest_django.fixtures import DjangoCaptureOnCommitCallbacks

from tests.services import Services, WorkersValkey

_services: Services | WorkersValkey | None = None


def pytest_configure(config: pytest.Config) -> None:
    """Comes before pytest-django's own hook, which then finds settings that are loaded."""
    global _services
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    _services = Services() if worker is None else WorkersValkey()
    _services.start()
    os.environ.update(_services.environment())
    os.environ["DJANGO_SETTINGS_MODULE"] = "config.settings"
    import django
    from django.conf import settings

    settings.DATABASES["default"]["OPTIONS"].pop("pool")  # a database with pooled connections cannot be dropped
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    settings.INSTALLED_APPS = [*settings.INSTALLED_APPS, "tests"]  # for its `flush`
    settings.STATIC_ROOT = None  # whitenoise would warn of its absence at every client
    django.setup()
    if worker is None and config.getoption("numprocesses", None):
        # A worker that inherited it would load its settings before it has a Redis of its own.
        del os.environ["DJANGO_SETTINGS_MODULE"]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow files first, then the longest, so that no process is left alone with much when the others are done."""
    lengths = Counter(item.path for item in items)
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path not in slow, 0 if item.path in slow else -lengths[item.path]))


def pytest_collection_finish() -> None:
    """What was imported and collected is not looked at again and again for garbage."""
    from core.collector import calm_collector

    calm_collector()


def pytest_unconfigure(config: pytest.Config) -> None:
    if _services is not None:
        _services.stop()


@pytest.fixture(scope="session", autouse=True)
def static_files() -> Iterator[None]:
    """Found once; each client of Django's would look for them again."""
    from whitenoise.middleware import WhiteNoiseMiddleware

    found: dict[str, Any] = {}
    look = WhiteNoiseMiddleware.add_files_from_finders

    def add(self: Any) -> None:
        if not found:
            look(self)
            found.update(self.files)
        self.files.update(found)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WhiteNoiseMiddleware, "add_files_from_finders", add)
        yield


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """Tests run as the platform's role, as services do, and requests of tenants as the tenant's; made and migrated was
    the database as its owner."""
    from django.core.handlers.base import BaseHandler
    from django.db import connection
    from django.db.backends.signals import connection_created

    from tenants.walls import roles_of

    atomic = BaseHandler.make_view_atomic
    role = roles_of(connection.settings_dict["NAME"]).platform

    def become(connection: Any, **_: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT set_config('role', %s, false)", [role])

    def make_view_atomic(self: Any, view: Callable[..., Any]) -> Callable[..., Any]:
        # A request's transaction is a savepoint of the test's, and what is set locally would live on in that.
        def made(*args: Any, **kwargs: Any) -> Any:
            try:
                return atomic(self, view)(*args, **kwargs)
            finally:
                if connection.in_atomic_block and not connection.needs_rollback:
                    with connection.cursor() as cursor:
                        cursor.execute(
                            "SELECT set_config('role', %s, true), set_config('app.tenant', '', true)", [role]
                        )

        return made

    with django_db_blocker.unblock():
        become(connection)
    connection_created.connect(become)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("billing.partitions.owners_cursor", owners_cursor)
        patch.setattr(BaseHandler, "make_view_atomic", make_view_atomic)
        yield
    connection_created.disconnect(become)
    with django_db_blocker.unblock():
        connection.close()


@contextmanager
def owners_cursor() -> Iterator[Any]:
    """A cursor of the tables' owner, in the transaction of the test."""
    from django.db import connection, transaction

    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('role')")
        (role,) = cursor.fetchone()
        cursor.execute("SELECT set_config('role', 'none', true)")
        yield cursor
        cursor.execute("SELECT set_config('role', %s, true)", [role])


@dataclass(frozen=True)
class Party:
    """A tenant, its key with all of its rights, and a client that sends it."""

    id: UUID
    slug: str
    key: str
    key_id: UUID
    api: Any


def client(key: str | None) -> Any:
    """A client of `/api/v1` that sends this key."""
    from rest_framework.test import APIClient

    return APIClient(headers={"Authorization": f"Bearer {key}"} if key else {})


@pytest.fixture
def as_key() -> Callable[[str | None], Any]:
    return client


@pytest.fixture
def mint(db: None) -> Callable[..., str]:
    """Mints a key for a tenant (None: the platform) with these scopes and restrictions, and returns its text."""
    from tenants.minting import mint_key
    from tenants.rights import Rights

    def minted(tenant_id: UUID | None, *scopes: str, **restrictions: Any) -> str:
        return mint_key(tenant_id=tenant_id, name="a key", rights=Rights(frozenset(scopes), **restrictions))[1]

    return minted


def make_party(slug: str) -> Party:
    """A tenant with a key that has all of its rights."""
    from tenants.minting import mint_key
    from tenants.rights import Rights
    from tenants.services import add_tenant

    tenant = add_tenant(name=slug.title(), slug=slug)
    row, key = mint_key(tenant_id=tenant.id, name="all", rights=Rights(frozenset({"admin"})))
    return Party(tenant.id, slug, key, row.id, client(key))


@pytest.fixture
def acme(db: None) -> Party:
    return make_party("acme")


@pytest.fixture
def globex(db: None) -> Party:
    return make_party("globex")


@pytest.fixture
def mallory(db: None) -> Party:
    return make_party("mallory")


@pytest.fixture
def operator(mint: Callable[..., str]) -> Any:
    """A client of the platform's operator."""
    return client(mint(None, "operator"))


@pytest.fixture
def add_model(db: None) -> Callable[..., Any]:
    """Adds an available model of the provider `vendor`, priced unless told otherwise."""
    from catalog.lifecycle import Proof
    from catalog.models import Provider
    from catalog.services import add_model, find_model, move_model
    from catalog.upstreams import add_provider

    def added(name: str = "small", *, state: str = "available", **facts: Any) -> Any:
        provider = facts.pop("provider", "vendor")
        if not Provider.objects.filter(slug=provider).exists():
            add_provider(slug=provider, kind="openai", secret={"api_key": "sk-of-the-tests"})
        facts = {"identifier": name, "dimensions": 8, "cost_per_million_tokens": Decimal("0.02"), **facts}
        row = add_model(provider=provider, name=name, **facts)
        way = {"draft": (), "testing": ("testing",), "available": ("testing", "available")}
        for step in way.get(state, ("testing", "available", state)):
            move_model(model_id=row.id, to=step, proof=Proof.VOUCHED)
        return find_model(row.id)

    return added


@pytest.fixture
def committed(
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
) -> Callable[[], AbstractContextManager[list[Callable[[], Any]]]]:
    """Runs what is to happen after the commit, inside a test that never commits."""
    return lambda: django_capture_on_commit_callbacks(execute=True)


@pytest.fixture
def changes() -> Iterator[Callable[[], list[Any]]]:
    """What was published to the data planes since the last look."""
    from django_redis import get_redis_connection

    from core.changes import CHANNEL, decode

    with get_redis_connection("default").pubsub() as listener:
        listener.subscribe(CHANNEL)
        assert listener.get_message(timeout=5)["type"] == "subscribe"

        def heard() -> list[Any]:
            # A marker of our own ends the wait: what was published before it has arrived.
            get_redis_connection("default").publish(CHANNEL, b"end")
            found = []
            while (message := listener.get_message(timeout=5)) and message["data"] != b"end":
                found.append(decode(message["data"]))
            return found

        yield heard


@pytest.fixture
def at_once() -> Callable[..., list[Any]]:
    """Runs functions in threads of their own, released together; returns what each returned or raised."""
    from django.db import connection

    def run(*functions: Callable[[], Any]) -> list[Any]:
        barrier = threading.Barrier(len(functions))
        outcomes: list[Any] = [None] * len(functions)

        def one(index: int) -> None:
            connection.ensure_connection()  # connecting takes longer than what is raced for
            barrier.wait(30)
            try:
                outcomes[index] = functions[index]()
            except Exception as error:  # noqa: BLE001  # whatever it is, the test looks at it
                outcomes[index] = error
            finally:
                connection.close()

        threads = [threading.Thread(target=one, args=(index,)) for index in range(len(functions))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        return outcomes

    return run
