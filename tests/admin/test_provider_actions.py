"""Providers in the admin: addresses, credentials that never come back, the test by a worker."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from tests.admin.pages import fill, page, read
from tests.conftest import Party


def test_a_provider_and_its_credentials(chief: Any) -> None:
    from catalog.loading import open_credential
    from catalog.models import Provider

    add = page("catalog_provider_add")
    refused = fill(chief, add, slug="evil", kind="openai", base_url="http://169.254.169.254/")
    assert "link-local" in refused.content.decode()
    assert fill(chief, add, slug="eu", kind="bedrock", region="eu-central-1").status_code == 302
    row = Provider.objects.get(slug="eu")
    assert row.max_items == 96  # what the vendor takes, filled in by the service
    assert "already" in fill(chief, add, slug="eu", kind="openai").content.decode()
    url = page("catalog_provider_add_credential", row.pk)
    half = {"label": "main", "aws_access_key_id": "AKIAEXAMPLEEXAMPLE"}
    assert "The secret of a provider of kind bedrock is" in chief.post(url, half).content.decode()
    secret = {"aws_secret_access_key": "very-secret-indeed-0123"}
    assert chief.post(url, half | secret).status_code == 302
    credential = row.credentials.get()
    assert open_credential(credential) == {"aws_access_key_id": "AKIAEXAMPLEEXAMPLE", **secret}
    text = read(chief, page("catalog_provider_change", row.pk)).text
    assert "…MPLE" in text
    assert "AKIAEXAMPLE" not in text
    assert credential.sealed not in text
    fill(chief, page("catalog_provider_change", row.pk), rpm="500", is_enabled=None)
    row.refresh_from_db()
    assert (row.rpm, row.is_enabled) == (500, False)
    chief.post(page("catalog_provider_remove_credential", row.pk), {"credential": str(credential.id)})
    assert not row.credentials.exists()


def test_only_what_a_kind_takes_and_has_is_offered(chief: Any) -> None:
    from catalog.upstreams import add_provider

    local, empty = add_provider(slug="here", kind="local"), add_provider(slug="there", kind="openai")
    of_local, of_empty = (read(chief, page("catalog_provider_change", row.pk)).links for row in (local, empty))
    assert page("catalog_provider_add_credential", empty.pk) in of_empty
    assert not {page(f"catalog_provider_{action}_credential", local.pk) for action in ("add", "remove")} & of_local
    assert page("catalog_provider_remove_credential", empty.pk) not in of_empty


def test_a_provider_with_models_is_not_deleted(chief: Any, furnished: Party) -> None:
    from catalog.models import Provider

    row = Provider.objects.get()
    answer = chief.post(page("catalog_provider_delete", row.pk), {"post": "yes"}, follow=True)
    assert "delete those first" in answer.content.decode()


@pytest.fixture
def worker() -> Iterator[None]:
    """Tasks run as soon as they are sent."""
    from config.celery import app

    app.conf.task_always_eager = True
    yield
    app.conf.task_always_eager = False


def test_a_provider_is_tested_by_a_worker(
    chief: Any, furnished: Party, worker: None, committed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from catalog import connection_tests
    from catalog.models import Provider
    from providers.base import ListedModel

    async def listed(endpoint: Any) -> list[ListedModel]:
        return [ListedModel("vendor-small"), ListedModel("vendor-large")]

    monkeypatch.setattr(connection_tests, "_list", listed)
    row = Provider.objects.get()
    with committed():
        answer = chief.post(page("catalog_provider_test_connection", row.pk))
    shown = read(chief, answer.headers["Location"])
    poll = next(link for link in shown.links if link.endswith("/state/"))
    said = chief.get(poll).json()
    assert said["state"] == "done"
    assert [(each["is_ok"], each["names"]) for each in said["findings"]] == [(True, ["vendor-small", "vendor-large"])]


def test_what_a_provider_does_wrong_is_told(
    chief: Any, furnished: Party, worker: None, committed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from catalog import connection_tests
    from catalog.models import Provider
    from providers.base import EndpointRefused

    async def refused(endpoint: Any) -> list[Any]:
        raise EndpointRefused("vendor: no region was given")

    monkeypatch.setattr(connection_tests, "_list", refused)
    with committed():
        answer = chief.post(page("catalog_provider_test_connection", Provider.objects.get().pk))
    said = chief.get(f"{answer.headers['Location']}state/").json()
    assert [(each["is_ok"], each["detail"]) for each in said["findings"]] == [(False, "vendor: no region was given")]


def test_without_a_worker_the_page_says_so(chief: Any, furnished: Party, time_machine: Any) -> None:
    from catalog.models import Provider
    from core.clock import utc_now

    answer = chief.post(page("catalog_provider_test_connection", Provider.objects.get().pk))
    poll = f"{answer.headers['Location']}state/"
    assert chief.get(poll).json()["state"] == "waiting"
    time_machine.move_to(utc_now() + timedelta(seconds=20))
    assert chief.get(poll).json()["state"] == "late"
    time_machine.move_to(utc_now() - timedelta(seconds=20))


def test_a_test_that_never_was_is_forgotten(chief: Any, owner: Any, furnished: Party) -> None:
    from catalog.models import Provider

    url = page("catalog_provider_state", Provider.objects.get().pk, "7c9e6679-7425-40de-944b-e07fc1f90ae7")
    assert chief.get(url).json()["state"] == "forgotten"
    assert owner.get(url).status_code == 404
