"""A credential that was taken away is refused everywhere within five seconds, on both planes and in every worker."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.scenarios.platform import Platform

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
MOST_SECONDS = 5.0
names = itertools.count()


@dataclass
class Asking:
    """Somebody who asks without a pause until they were refused for a while; connections reach any worker."""

    ask: Callable[[], int]
    began: float = 0.0  # the last request that was accepted
    statuses: set[int] = field(default_factory=set)

    def run(self, deadline: float) -> None:
        refused_since = None
        while (now := time.monotonic()) < deadline and (refused_since is None or now - refused_since < 3):
            status = self.ask()
            self.statuses.add(status)
            if status == 200:
                self.began, refused_since = now, None
            elif refused_since is None:
                refused_since = now


def last_accepted_after(platform: Platform, key: str, take_away: Callable[[], Any]) -> tuple[float, list[Asking]]:
    """How long after `take_away` was done the last request was accepted that began, and who asked."""
    asking = [
        Asking(lambda: platform.embed(key, input="hello", Cache_Control="no-cache").status),
        Asking(lambda: platform.ask("GET", "/v1/models", key=key).status),
        Asking(lambda: platform.ask("GET", "/api/v1/tenant-models", key=key).status),
    ]
    with ThreadPoolExecutor(len(asking)) as threads:
        running = [threads.submit(each.run, time.monotonic() + 60) for each in asking]
        while not all(each.began for each in asking) and not any(each.done() for each in running):
            time.sleep(0.01)
        take_away()
        done = time.monotonic()
        for each in running:
            each.result()
    return max(each.began for each in asking) - done, asking


@pytest.fixture
def tenant(crowded: Platform) -> tuple[str, str]:
    tenant_id, key = crowded.add_tenant(f"revoked-{next(names)}")
    crowded.configure(key, crowded.model_id)  # type: ignore[attr-defined]
    return tenant_id, key


def test_a_revoked_key_is_refused_everywhere(crowded: Platform, tenant: tuple[str, str]) -> None:
    made = crowded.mint(tenant[0], "embeddings", "models:read")
    late, asking = last_accepted_after(
        crowded, made["key"], lambda: crowded.operate("DELETE", f"/api-keys/{made['id']}", key=tenant[1])
    )
    assert late <= MOST_SECONDS
    assert [each.statuses for each in asking] == [{200, 401}] * 3


def test_a_key_ends_with_the_one_that_minted_it(crowded: Platform, tenant: tuple[str, str]) -> None:
    parent = crowded.mint(tenant[0], "keys:write", "embeddings", "models:read")
    child = crowded.operate("POST", "/api-keys", {"name": "c", "scopes": ["embeddings", "models:read"]}, parent["key"])
    late, asking = last_accepted_after(
        crowded, child["key"], lambda: crowded.operate("DELETE", f"/api-keys/{parent['id']}", key=tenant[1])
    )
    assert late <= MOST_SECONDS
    assert [each.statuses for each in asking] == [{200, 401}] * 3


def test_a_suspended_tenant_is_refused_everywhere_and_comes_back(crowded: Platform, tenant: tuple[str, str]) -> None:
    tenant_id, key = tenant
    late, asking = last_accepted_after(
        crowded, key, lambda: crowded.operate("PATCH", f"/tenants/{tenant_id}", {"is_suspended": True})
    )
    assert late <= MOST_SECONDS
    assert [each.statuses for each in asking] == [{200, 403}] * 3
    refused = [crowded.embed(key, input="hello").json["error"], crowded.ask("GET", "/api/v1/limits", key=key).json]
    assert [each["code"] for each in refused] == ["tenant_suspended"] * 2
    crowded.operate("PATCH", f"/tenants/{tenant_id}", {"is_suspended": False})
    assert crowded.operate("GET", "/tenant-models", key=key)["results"] != []
