"""`/api/v1/embedding-models/providers/health` and `/breaker`, and the same on the provider's page of the admin."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.test import Client
from django_redis import get_redis_connection

from config.up.ports import free_port
from core.clock import unix_ms
from embeddings import breaker_wire as wire
from embeddings.breaker import Force, Outcome
from embeddings.breaker_control import forces
from tests.admin.people import person, sign_in
from tests.conftest import Party, make_party
from tests.embeddings.boards import Clock, processes

PROVIDERS = "/api/v1/embedding-models/providers"
HEALTH, BREAKER = f"{PROVIDERS}/health", f"{PROVIDERS}/vendor/breaker"
SMALL, OTHER = "vendor|c1|vendor.small|eu", "other|c2|large|"


@pytest.fixture(autouse=True)
def models(db: None, add_model: Callable[..., Any]) -> Iterator[None]:
    for provider, name in (("vendor", "small"), ("other", "large")):
        add_model(name, provider=provider, identifier=f"{provider}.{name}")
    get_redis_connection("default").delete(wire.KEY, wire.FIGURES_KEY)
    yield
    get_redis_connection("default").delete(wire.KEY, wire.FIGURES_KEY)


@pytest.fixture
def mallory(db: None) -> Party:
    return make_party("mallory")


@pytest.fixture
def traffic() -> None:
    """A route that answers, and one that has just died."""

    async def calls() -> None:
        async with processes(os.environ["REDIS_URL"], 1, Clock(unix_ms())) as (process,):
            process.board.report(OTHER, Outcome.OK, 100)
            await process.fails(10, SMALL)
            await process.board.poll()
            await process.board.flush()

    asyncio.run(calls())


def test_health_tells_breaker_rates_and_times_of_every_route(operator: Any, traffic: None) -> None:
    answer = operator.get(HEALTH)
    assert (answer.status_code, answer.json()["next"]) == (200, None)
    other, small = answer.json()["results"]
    assert (small["provider"], small["model"], small["region"]) == ("vendor", "vendor.small", "eu")
    assert (small["breaker"], small["reason"]) == ("open", "10 of the last 10 calls failed")
    assert small["next_probe_at"].endswith("Z")
    assert (other["breaker"], other["calls"], other["error_rate"]) == ("closed", 1, 0.0)
    assert (other["p50_ms"], other["p95_ms"]) == (pytest.approx(100, rel=0.1), pytest.approx(100, rel=0.1))


def test_health_of_one_provider_and_of_none_that_was_called(operator: Any, traffic: None) -> None:
    assert [each["provider"] for each in operator.get(f"{HEALTH}?provider=vendor").json()["results"]] == ["vendor"]
    get_redis_connection("default").delete(wire.KEY, wire.FIGURES_KEY)
    assert operator.get(HEALTH).json()["results"] == []


def test_what_health_does_not_know_is_refused(operator: Any) -> None:
    unknown, typo = operator.get(f"{HEALTH}?provider=nobody"), operator.get(f"{HEALTH}?slug=vendor")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "not_found")
    assert (typo.status_code, typo.json()["code"]) == (400, "unknown_field")


def test_a_hold_is_set_shown_and_taken_back(operator: Any, traffic: None) -> None:
    held = operator.post(BREAKER, {"state": "closed"})
    assert (held.status_code, [(each["breaker"], each["forced"]) for each in held.json()["results"]]) == (
        200,
        [("closed", "closed")],
    )
    freed = operator.post(BREAKER, {"state": "auto"})
    assert [(each["breaker"], each["forced"]) for each in freed.json()["results"]] == [("open", None)]
    assert forces() == {}


def test_one_model_is_held_by_its_name_or_its_identifier(operator: Any) -> None:
    assert operator.post(BREAKER, {"state": "open", "model": "small"}).status_code == 200
    assert operator.post(BREAKER, {"state": "closed", "model": "vendor.small"}).status_code == 200
    assert forces() == {"vendor|*|vendor.small|*": Force.CLOSED}


def test_letting_go_of_a_provider_lets_go_of_its_models_and_of_nobody_elses(operator: Any) -> None:
    operator.post(BREAKER, {"state": "open", "model": "small"})
    operator.post(f"{PROVIDERS}/other/breaker", {"state": "open"})
    operator.post(BREAKER, {"state": "auto"})
    assert forces() == {"other|*|*|*": Force.OPEN}


@pytest.mark.parametrize(
    ("url", "body", "status", "code"),
    [
        (BREAKER, {"state": "ajar"}, 400, "invalid_request"),
        (BREAKER, {}, 400, "invalid_request"),
        (BREAKER, {"state": "open", "modle": "small"}, 400, "unknown_field"),
        (BREAKER, {"state": "open", "model": "large"}, 404, "not_found"),
        (f"{PROVIDERS}/nobody/breaker", {"state": "open"}, 404, "not_found"),
    ],
)
def test_a_hold_that_says_nothing_is_refused(operator: Any, url: str, body: Any, status: int, code: str) -> None:
    answer = operator.post(url, body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert forces() == {}


def test_without_redis_it_says_so(operator: Any, settings: Any) -> None:
    settings.CACHES = {"default": settings.CACHES["default"] | {"LOCATION": f"redis://127.0.0.1:{free_port()}/0"}}
    for answer in (operator.get(HEALTH), operator.post(BREAKER, {"state": "open"})):
        assert (answer.status_code, answer.json()["code"]) == (503, "breakers_unavailable")


def test_mallory_sees_and_holds_nothing(mallory: Party, traffic: None) -> None:
    """Health tells how much others call and with which credentials; a hold would stop them all."""
    assert mallory.api.get(HEALTH).status_code == 403
    assert mallory.api.post(BREAKER, {"state": "open"}).status_code == 403
    assert forces() == {}


def test_an_operator_sees_and_holds_breakers_on_the_providers_page(traffic: None) -> None:
    from catalog.models import Provider

    browser = Client()
    person("op@quiver.test", is_operator=True)
    sign_in(browser, "op@quiver.test")
    url = f"/admin/catalog/provider/{Provider.objects.get(slug='vendor').pk}/breakers/"
    page = browser.get(url).content.decode()
    assert "vendor.small in eu is open (10 of the last 10 calls failed)" in page
    assert browser.post(url, {"model": "vendor.small", "state": "closed"}).status_code == 302
    assert forces() == {"vendor|*|vendor.small|*": Force.CLOSED}
    assert browser.post(url, {"model": "large", "state": "open"}).status_code == 200  # asked again: not its model
    assert browser.post(url, {"model": "", "state": "auto"}).status_code == 302
    assert forces() == {}


def test_mallory_has_no_such_page(mallory: Party) -> None:
    from catalog.models import Provider

    browser = Client()
    person("owner@mallory.test", **{str(mallory.id): "owner"})
    sign_in(browser, "owner@mallory.test")
    url = f"/admin/catalog/provider/{Provider.objects.get(slug='vendor').pk}/breakers/"
    assert browser.post(url, {"model": "", "state": "open"}).status_code in (302, 403, 404)
    assert forces() == {}
