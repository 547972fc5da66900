"""A real mail server, and rows of usage to be told of."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from tests.admin.conftest import mailbox
from tests.admin.people import person
from tests.conftest import Party

__all__ = ["mailbox"]


@pytest.fixture
def owner(acme: Party) -> Any:
    """Acme's owner, whom its alerts go to while there is no channel."""
    return person("owner@acme.test", **{str(acme.id): "owner"})


@pytest.fixture
def browser(owner: Any) -> Client:
    client = Client()
    client.force_login(owner)
    return client
