"""Vertex service accounts: who may name a `token_uri`, which the web workers then call."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from catalog import upstreams
from core.errors import InvalidRequest
from providers.vertex_tokens import TOKEN_URI
from tests.conftest import Party
from tests.fakes.vertex import FakeVertex

PROVIDERS = "/api/v1/embedding-models/providers"
VERTEX = {"slug": "vertex", "kind": "vertex", "region": "us-central1"}
OWN = "http://127.0.0.1:9/token"
METADATA = "http://169.254.169.254/computeMetadata/v1/token"


def account(**changes: Any) -> str:
    """A service account's JSON with these changes; None leaves a field out."""
    fields = json.loads(FakeVertex().service_account) | changes
    return json.dumps({name: value for name, value in fields.items() if value is not None})


def test_an_operator_names_a_token_uri_in_every_way_that_there_is(operator: Any) -> None:
    secret = {"service_account": account(token_uri=OWN)}
    assert operator.post(PROVIDERS, VERTEX | {"secret": secret}).status_code == 201
    assert operator.patch(f"{PROVIDERS}/vertex", {"secret": secret}).status_code == 200
    assert operator.post(f"{PROVIDERS}/vertex/credentials", {"secret": secret}).status_code == 201


@pytest.mark.parametrize("token_uri", [METADATA, "http://metadata.google.internal/token", "file:///etc/passwd"])
def test_nobody_names_a_metadata_service(operator: Any, token_uri: str) -> None:
    secret = {"service_account": account(token_uri=token_uri)}
    refused = operator.post(PROVIDERS, VERTEX | {"secret": secret})
    assert (refused.status_code, list(refused.json()["errors"])) == (400, ["secret.service_account"])
    assert "`token_uri`" in refused.content.decode()
    assert operator.get(PROVIDERS).json()["results"] == []


def test_a_tenant_sends_no_service_account_at_all(operator: Any, mallory: Party) -> None:
    operator.post(PROVIDERS, VERTEX)
    secret = {"service_account": account(token_uri=OWN)}
    refused = [
        mallory.api.post(PROVIDERS, VERTEX | {"slug": "mine", "secret": secret}),
        mallory.api.patch(f"{PROVIDERS}/vertex", {"secret": secret}),
        mallory.api.post(f"{PROVIDERS}/vertex/credentials", {"secret": secret}),
    ]
    assert {each.status_code for each in refused} == {403}


@pytest.mark.django_db
@pytest.mark.parametrize(
    "write",
    [
        lambda secret: upstreams.add_provider(slug="other", kind="vertex", secret=secret),
        lambda secret: upstreams.change_provider(slug="vertex", secret=secret),
        lambda secret: upstreams.add_credential(slug="vertex", secret=secret),
    ],
)
def test_who_is_no_operator_has_googles_token_uri_or_none(write: Callable[[dict[str, str]], Any]) -> None:
    upstreams.add_provider(slug="vertex", kind="vertex")
    with pytest.raises(InvalidRequest, match="only an operator") as caught:
        write({"service_account": account(token_uri=OWN)})
    assert caught.value.param == "secret.service_account"
    write({"service_account": account(token_uri=None)})


@pytest.mark.django_db
def test_googles_own_token_uri_is_anybodys() -> None:
    secret = {"service_account": account(token_uri=TOKEN_URI)}
    assert upstreams.add_provider(slug="vertex", kind="vertex", secret=secret).credentials.count() == 1


@pytest.mark.parametrize(
    "text",
    [
        "not json",
        "[]",
        account(private_key=None),
        account(client_email=""),
        account(private_key="-----BEGIN PRIVATE KEY-----\nnonsense\n-----END PRIVATE KEY-----\n"),
        account(token_uri=7),
    ],
)
def test_what_is_no_service_account_is_refused_and_not_repeated(operator: Any, text: str) -> None:
    refused = operator.post(PROVIDERS, VERTEX | {"secret": {"service_account": text}})
    assert (refused.status_code, list(refused.json()["errors"])) == (400, ["secret.service_account"])
    assert "BEGIN" not in refused.content.decode()
