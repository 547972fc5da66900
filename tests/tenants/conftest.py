"""What stories about tenants and their people share."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from ipaddress import ip_network
from typing import Any

import pytest

from core.clock import utc_now
from tests.admin.conftest import mailbox
from tests.conftest import Party

__all__ = ["mailbox"]


@pytest.fixture
def bound(acme: Party, mint: Callable[..., str], add_model: Callable[..., Any]) -> str:
    """A key of acme's that may mint keys, with every restriction there is."""
    add_model("small")
    add_model("large")
    return mint(
        acme.id,
        "keys:write",
        "embeddings",
        models=frozenset({"small"}),
        networks=(ip_network("127.0.0.0/8"),),
        agent_id="crawler",
        expires_at=utc_now() + timedelta(days=1),
    )
