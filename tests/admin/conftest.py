"""Who acts in the admin's stories, a mail server, and throttles that nobody else has used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.admin.people import Mailbox
from tests.admin.world import browser, furnish
from tests.conftest import Party
from tests.fakes.smtp import FakeSmtp


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Page after page is rendered here, which takes minutes in all."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def throttles(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> Any:
    """Fresh ones, by a clock that the test moves; the sign-in's is returned."""
    from tenants import people, signing_in
    from tenants.throttle import Throttle

    fresh = Throttle(f"sign-in {uuid4()}", clock=clock)
    monkeypatch.setattr(signing_in, "sign_ins", fresh)
    monkeypatch.setattr(people, "asked_resets", Throttle(f"reset {uuid4()}", account=people.RESETS, clock=clock))
    return fresh


@pytest.fixture
def mailbox(settings: Any, committed: Callable[[], Any]) -> Iterator[Mailbox]:
    """Mail is set up, and tasks run as soon as they are sent."""
    from config.celery import app

    app.conf.task_always_eager = True
    with FakeSmtp() as smtp:
        settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
        settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", smtp.port
        settings.DEFAULT_FROM_EMAIL = "Quiver <quiver@example.com>"
        changes = {"smtp_url": f"smtp://127.0.0.1:{smtp.port}", "public_url": "https://quiver.example"}
        settings.QUIVER = settings.QUIVER.model_copy(update=changes)
        yield Mailbox(smtp, committed)
    app.conf.task_always_eager = False


@pytest.fixture
def furnished(acme: Party, add_model: Callable[..., Any]) -> Party:
    """A tenant with rows of every kind; another model is in the catalogue, and not configured."""
    furnish(acme, add_model("small"))
    add_model("large", dimensions=16)
    return acme


@pytest.fixture
def owner(furnished: Party) -> Any:
    """The tenant's owner, in a browser."""
    from tenants.models import User

    return browser(User.objects.get(email="owner@acme.example"))


@pytest.fixture
def chief(db: None) -> Any:
    """The platform's operator, in a browser."""
    from tenants.services import add_user

    return browser(add_user(email="operator@quiver.example", is_operator=True))
