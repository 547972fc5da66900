"""Model discovery and catalogue update, end to end: beat, worker, vendors, PostgreSQL, Valkey, mail and metrics."""

from __future__ import annotations

import json
import re
import subprocess
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from config.up import programs
from core.clock import utc_now
from tests.fakes.openai import FakeOpenAI
from tests.fakes.smtp import FakeSmtp
from tests.scenarios.platform import Platform
from tests.up.processes import CHECKOUT, eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(290)]
SMALL, LARGE = "text-embedding-3-small", "text-embedding-3-large"
ENDS = (utc_now() + timedelta(days=20)).date()
RUNS = "/embedding-models/discovery/runs"


class Story:
    """A platform with its worker and its beat, two good vendors and one that is mad, and a tenant that is told."""

    def __init__(self, stack: ExitStack, home: Any) -> None:
        self.good, self.twin, self.mad = (stack.enter_context(FakeOpenAI()) for _ in range(3))
        self.smtp = stack.enter_context(FakeSmtp())
        self.table = home / "prices.json"
        known = {
            LARGE: {"litellm_provider": "good", "input_cost_per_token": 1.3e-07, "output_vector_size": 3072},
            SMALL: {"litellm_provider": "good", "deprecation_date": ENDS.isoformat()},
        }
        self.table.parent.mkdir(parents=True, exist_ok=True)
        self.table.write_text(json.dumps(known))
        settings = {
            "QUIVER_SMTP_URL": f"smtp://127.0.0.1:{self.smtp.port}",
            "QUIVER_MAIL_FROM": "quiver@example.com",
            "QUIVER_PUBLIC_URL": "http://quiver.example",
            "QUIVER_PRICE_TABLE": str(self.table),
        }
        self.platform = stack.enter_context(Platform(home / "home", settings=settings))
        self.mad.switch(listed=[{"id": "what is this?", "object": "model", "created": 1, "owned_by": "x"}])
        for slug in ("good", "twin", "mad"):
            fake: FakeOpenAI = getattr(self, slug)
            self.platform.add_provider(slug, fake.base_url, fake.key)
        self.model, self.copy = (self.platform.add_model(slug, SMALL, space="small") for slug in ("good", "twin"))
        _, self.key = self.platform.add_tenant("acme")
        for model_id in (self.model, self.copy):
            self.platform.configure(self.key, model_id)
        channel = {"name": "team", "kind": "email", "targets": ["team@acme.test"], "minimum_severity": "warning"}
        self.platform.operate("POST", "/alert-channels", channel, self.key)
        for command in (programs.worker(), programs.beat()):
            process = subprocess.Popen(
                command,
                cwd=CHECKOUT,
                env=self.platform.environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            stack.callback(process.wait)
            stack.callback(process.terminate)

    def let_beat_run(self, name: str) -> None:
        """Makes a daily task due now, once."""
        with psycopg.connect(self.platform.database_url) as connection:
            [(interval,)] = connection.execute(
                "INSERT INTO django_celery_beat_intervalschedule (every, period) VALUES (1, 'seconds') RETURNING id"
            ).fetchall()
            connection.execute(
                "UPDATE django_celery_beat_periodictask SET crontab_id = NULL, interval_id = %s, one_off = true, "
                "enabled = true, last_run_at = NULL, total_run_count = 0 WHERE name = %s",
                [interval, name],
            )
            connection.execute(
                "INSERT INTO django_celery_beat_periodictasks (ident, last_update) VALUES (1, now()) "
                "ON CONFLICT (ident) DO UPDATE SET last_update = now()"
            )

    def answered_by(self, text: str, model: str) -> str:
        """The provider that answered."""
        answer = self.platform.embed(self.key, input=text, model=model)
        assert answer.status == 200, answer.body
        return str(answer.json["quiver"]["provider"])

    def runs(self, slug: str) -> list[Any]:
        """The provider's ended looks, the newest first."""
        found = self.platform.operate("GET", f"{RUNS}?provider={slug}")["results"]
        return [each for each in found if each["ended_at"]]

    def row(self, model_id: str) -> Any:
        return self.platform.operate("GET", f"/embedding-models/catalog/{model_id}")

    def metric(self, name: str, **labels: str) -> float | None:
        """A sample of the metrics page."""
        page = self.platform.ask("GET", "/metrics").body.decode()
        for found, told, value in re.findall(r"^(\w+)\{(.*)\} (\S+)$", page, re.MULTILINE):
            if found == name and dict(re.findall(r'(\w+)="([^"]*)"', told)) == labels:
                return float(value)
        return None


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    with ExitStack() as stack:
        yield Story(stack, tmp_path_factory.mktemp("catalogue"))


def test_beat_finds_new_models_and_one_mad_vendor_stops_nobody(story):
    story.let_beat_run("discover models")
    eventually(lambda: all(story.runs(slug) for slug in ("good", "twin", "mad")), 90)
    [good], [mad] = story.runs("good"), story.runs("mad")
    assert (good["counts"], good["listed"]) == ({"deprecated": 1, "new": 2}, 3)
    assert (mad["state"], mad["detail"]) == ("failed", "'what is this?' is no identifier of a model")
    drafts = story.platform.operate("GET", "/embedding-models/catalog?state=draft&provider=good")["models"]
    [large] = [each for each in drafts if each["model_identifier"] == LARGE]
    assert (large["dimensions"], large["cost_per_million_tokens"]) == (3072, "0.13")
    outcomes = {"good": good["state"], "mad": "failed"}
    for provider, outcome in outcomes.items():
        assert story.metric("model_discovery_runs_total", provider=provider, outcome=outcome) == 1
    assert story.metric("model_discovery_models", provider="good", change="new") == 2
    told = story.platform.operate("GET", "/alerts")["results"]
    assert [each["kind"] for each in told if each["kind"] == "discovery_failed"] == ["discovery_failed"]


def test_a_model_that_its_vendor_retires_reaches_people_and_answers(story):
    answer = story.platform.embed(story.key, input="some words of acme's", model=f"good/{SMALL}")
    assert (answer.status, story.row(story.model)["state"]) == (200, "deprecated")
    end = {"sunset_at": f"{ENDS}T00:00:00Z", "successor": story.copy, "reason": "the same elsewhere"}
    story.platform.operate("POST", f"/embedding-models/catalog/{story.model}/sunset", end)
    story.let_beat_run("look at sunsets")
    [mail] = eventually(lambda: [each for each in story.smtp.mails if each["To"] == "team@acme.test"], 90)
    text = mail.get_body(("plain",)).get_content()
    assert f"ends on {ENDS}" in str(mail["Subject"])
    used = answer.json["usage"]["total_tokens"]
    for line in (f"tokens in 30 days: {used}", "requests in 30 days: 1", "keys: k", f"successor: {SMALL}"):
        assert line in text
    eventually(lambda: "link" in story.platform.embed(story.key, input="a", model=f"good/{SMALL}").headers, 10)
    told = story.platform.embed(story.key, input="b", model=f"good/{SMALL}").json["quiver"]["deprecation"]
    assert (told["sunset"], told["successor"]) == (f"{ENDS}T00:00:00Z", SMALL)
    state = {"model": SMALL, "provider": "good", "state": "deprecated"}
    eventually(lambda: story.metric("embedding_model_state", **state) == 1, 10)


def test_a_vendor_that_drifts_answers_nobody_afterwards(story):
    assert story.platform.embed(story.key, input="before", model=f"twin/{SMALL}").status == 200
    story.twin.switch(turned_by=5)
    story.let_beat_run("recheck shared spaces")
    eventually(lambda: story.row(story.copy)["state"] == "unavailable", 90)
    assert story.row(story.copy)["unavailable_cause"] == "drift"
    eventually(lambda: story.answered_by("after", f"twin/{SMALL}") == "good", 10)  # its space has another one
    calls = len(story.twin.calls)
    asked = [(f"after {index}", model) for index in range(10) for model in ("auto", SMALL, f"twin/{SMALL}")]
    assert {story.answered_by(*each) for each in asked} == {"good"}
    assert len(story.twin.calls) == calls
    [alert] = [each for each in story.platform.operate("GET", "/alerts")["results"] if each["kind"] == "model_drifted"]
    assert alert["severity"] == "critical"
    story.twin.switch(turned_by=0)
    story.let_beat_run("recheck shared spaces")
    eventually(lambda: story.row(story.copy)["state"] == "available", 90)
