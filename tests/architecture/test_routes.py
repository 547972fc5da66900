"""The control plane's routes as a whole: each has its scopes, a description, and speaks of errors in one way."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.conf import settings
from django.core.management import call_command
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver

from tenants.permissions import HasScope
from tenants.scopes import Scope
from tests.conftest import Party

OPEN = {"schema", "docs"}


def routes(resolver: URLResolver | None = None, prefix: str = "") -> list[tuple[str, URLPattern]]:
    found = []
    for each in (resolver or get_resolver()).url_patterns:
        path = prefix + str(each.pattern)
        found += routes(each, path) if isinstance(each, URLResolver) else [(path, each)]
    return found


API = [(path, each) for path, each in routes() if path.startswith("api/")]
CLOSED = [(path, each) for path, each in API if each.name not in OPEN]


@pytest.mark.parametrize(("path", "route"), CLOSED, ids=[f"{path}-{route.name}" for path, route in CLOSED])
def test_every_route_names_its_scopes(path: str, route: URLPattern) -> None:
    view: Any = route.callback.cls  # type: ignore[union-attr]
    initial: dict[str, Any] = route.callback.initkwargs  # type: ignore[union-attr]
    assert view.permission_classes == [HasScope]
    for name in ("read_scope", "write_scope"):
        assert Scope(initial.get(name) or getattr(view, name))


def test_every_route_refuses_a_caller_without_a_key(db: None) -> None:
    for path, _ in CLOSED:
        concrete = re.sub("<[^>]+>", "00000000-0000-4000-8000-000000000000", re.sub("<int:[^>]+>", "1", path))
        answer = Client().get(f"/{concrete}")
        assert (answer.status_code, answer.json()["code"]) == (401, "invalid_api_key"), concrete


def test_the_schema_is_valid_and_complete(tmp_path: Any) -> None:
    call_command("spectacular", "--fail-on-warn", "--validate", "--file", str(tmp_path / "schema.yml"))
    assert (tmp_path / "schema.yml").read_text().count("application/problem+json") > 50


def test_schema_and_page_need_no_key_and_no_network(db: None) -> None:
    assert Client().get("/api/schema").status_code == 200
    page = Client().get("/api/docs").content.decode()
    assert "swagger-ui" in page
    assert "https://" not in page
    for asset in ("swagger-ui.css", "swagger-ui-bundle.js"):
        assert f"{settings.STATIC_URL}drf_spectacular_sidecar/swagger-ui-dist/{asset}" in page


def test_an_unknown_path_is_a_problem_below_api_only(acme: Party) -> None:
    answer = acme.api.get("/api/v1/flights")
    assert (answer.status_code, answer["Content-Type"]) == (404, "application/problem+json")
    assert answer.json()["request_id"] == answer["X-Request-Id"]
    assert acme.api.get("/flights")["Content-Type"].startswith("text/html")


def test_a_defect_is_a_problem_that_tells_nothing_but_its_id(
    acme: Party, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: object) -> None:
        raise RuntimeError("the secret reason")

    monkeypatch.setattr("tenants.selectors.keys_of", broken)
    acme.api.raise_request_exception = False
    answer = acme.api.get("/api/v1/api-keys")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert "secret reason" not in answer.content.decode()
    assert "the secret reason" in caplog.text
