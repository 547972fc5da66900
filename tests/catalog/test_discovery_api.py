"""Discovery over REST: a look is asked for, seen, and decided on in part."""

from __future__ import annotations

from typing import Any

import pytest

from catalog import discovery_runs
from catalog.models import DiscoveryRun
from catalog.upstreams import change_provider
from tests.catalog.looks import look
from tests.conftest import Party
from tests.fakes.openai import FakeOpenAI

pytestmark = pytest.mark.django_db(transaction=True)
RUNS = "/api/v1/embedding-models/discovery/runs"


def test_a_look_is_asked_for_and_seen_over_rest(operator: Any, vendor: FakeOpenAI) -> None:
    change_provider(slug="vendor", discovery="approval")
    answer = operator.post(RUNS, {"provider": "vendor"})
    assert answer.status_code == 202, answer.json()
    [row] = answer.json()["results"]
    assert (row["provider"], row["state"]) == ("vendor", "queued")
    discovery_runs.run(DiscoveryRun.objects.get().id)
    run = operator.get(f"{RUNS}/{row['id']}").json()
    assert (run["state"], run["counts"], run["listed"]) == ("waiting", {"new": 3}, 3)
    done = operator.post(
        f"{RUNS}/{row['id']}/apply",
        {"accept": ["new:text-embedding-3-small"], "ignore": ["new:text-embedding-ada-002"]},
    )
    assert done.status_code == 200, done.json()
    states = {each["identifier"]: each["state"] for each in done.json()["changes"]}
    assert states == {
        "text-embedding-3-large": "pending",
        "text-embedding-3-small": "applied",
        "text-embedding-ada-002": "ignored",
    }
    assert [each["id"] for each in operator.get(f"{RUNS}?provider=vendor&state=waiting").json()["results"]] == [
        row["id"]
    ]


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({}, 400, "accept"),
        ({"accept": ["new:nothing"]}, 400, "accept"),
        ({"ignore": ["new:nothing"]}, 400, "ignore"),
        ({"accept": "all"}, 400, "accept"),
        ({"colour": "red"}, 400, "colour"),
    ],
)
def test_a_decision_that_makes_no_sense_is_named(
    body: dict[str, Any], status: int, field: str, operator: Any, vendor: FakeOpenAI
) -> None:
    change_provider(slug="vendor", discovery="approval")
    answer = operator.post(f"{RUNS}/{look().id}/apply", body)
    assert (answer.status_code, list(answer.json()["errors"])) == (status, [field])


def test_runs_are_the_operators(operator: Any, vendor: FakeOpenAI, mallory: Party) -> None:
    run = look()
    for answer in (
        mallory.api.get(RUNS),
        mallory.api.post(RUNS, {}),
        mallory.api.get(f"{RUNS}/{run.id}"),
        mallory.api.post(f"{RUNS}/{run.id}/apply", {"accept": ["x"]}),
    ):
        assert answer.status_code == 403
    assert operator.post(RUNS, {"provider": "nobody"}).status_code == 404
    assert operator.get(f"{RUNS}?state=lost").status_code == 400
    assert operator.post(f"{RUNS}/{run.id}/apply", {"accept": ["x"]}).json()["code"] == "conflict"
