"""Whether a provider knows us, over REST: asked by the operator, tried by a worker with each credential, told once."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from audit.models import AuditEvent
from tests.conftest import Party
from tests.fakes.openai import FakeOpenAI

PROVIDERS = "/api/v1/embedding-models/providers"
WRONG = "sk-a-wrong-one-of-the-tests"


def test_each_credential_is_tried_by_a_worker(operator: Any, vendor: FakeOpenAI, worker: None, committed: Any) -> None:
    vendor.switch(key=vendor.key)  # from now on it asks for it
    operator.post(f"{PROVIDERS}/vendor/credentials", {"secret": {"api_key": WRONG}, "label": "old"})

    with committed():
        begun = operator.post(f"{PROVIDERS}/vendor/test")

    assert (begun.status_code, begun.json()["state"], begun.json()["findings"]) == (202, "waiting", [])
    told = operator.get(f"{PROVIDERS}/vendor/tests/{begun.json()['id']}")
    good, bad = told.json()["findings"]
    assert told.json()["state"] == "done"
    assert (good["is_ok"], "text-embedding-3-small" in good["names"]) == (True, True)
    assert (bad["credential"], bad["is_ok"]) == (f"old …{WRONG[-4:]}", False)
    assert WRONG not in told.content.decode()
    assert AuditEvent.objects.filter(action="provider.tested", subject_id="vendor").count() == 1
    assert vendor.calls == []  # nothing was embedded


def test_a_test_is_its_providers_and_the_operators(operator: Any, acme: Party, vendor: FakeOpenAI) -> None:
    operator.post(PROVIDERS, {"slug": "other", "kind": "openai"})
    begun = operator.post(f"{PROVIDERS}/vendor/test").json()["id"]

    answers = [
        operator.get(f"{PROVIDERS}/vendor/tests/{begun}"),
        operator.get(f"{PROVIDERS}/other/tests/{begun}"),
        operator.get(f"{PROVIDERS}/vendor/tests/{uuid4()}"),
        operator.post(f"{PROVIDERS}/nobody/test"),
        operator.post(f"{PROVIDERS}/vendor/test", {"deep": True}),
        acme.api.post(f"{PROVIDERS}/vendor/test"),
        acme.api.get(f"{PROVIDERS}/vendor/tests/{begun}"),
    ]

    assert [each.status_code for each in answers] == [200, 404, 404, 404, 400, 403, 403]


@pytest.mark.django_db
def test_without_a_credential_it_says_so(operator: Any, worker: None, committed: Any) -> None:
    operator.post(PROVIDERS, {"slug": "bare", "kind": "openai"})
    with committed():
        begun = operator.post(f"{PROVIDERS}/bare/test").json()["id"]
    [found] = operator.get(f"{PROVIDERS}/bare/tests/{begun}").json()["findings"]
    assert (found["is_ok"], found["credential"]) == (False, "no credential")
