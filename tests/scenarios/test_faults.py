"""Whatever a provider does wrong, the caller gets the right vectors from where it may, or our own error, in time.

All faults of `tests.fakes.faults` × OpenAI, Bedrock (Cohere) and Google × what may answer instead: another provider of
the same space, the model of another space that the tenant's admin wrote down, nobody. The cases run side by side.
Faults of single answers share a provider per vendor, whose breaker an operator holds closed; what lasts has its own.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import aiohttp
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.fakes import bedrock, google, openai_model
from tests.fakes.bedrock import ACCESS_KEY_ID, REGION, FakeBedrock
from tests.fakes.faults import FAULTS, Fault, Street
from tests.fakes.google import FakeGoogle
from tests.fakes.openai import FakeOpenAI
from tests.fakes.server import FakeServer
from tests.scenarios.platform import Platform
from tests.up.processes import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
CANARY = "sk-canary-that-no-log-may-sing"
DEADLINE_S, GRACE_S = 6.0, 0.5
SILENCE_S = 1.0  # what a provider that only a deadline ends is given
AT_A_TIME = 12
TEXTS = ("first", "second", "third")


@dataclass(frozen=True)
class Vendor:
    make: Callable[[], FakeServer]
    settings: dict[str, Any]
    secret: dict[str, str]
    model: dict[str, Any]
    suffix: str
    dimensions: int | None  # that callers ask for
    expected: Callable[[str], NDArray[Any]]


VENDORS = {
    "openai": Vendor(
        lambda: FakeOpenAI(switches=FakeOpenAI.make_switches(key=CANARY)),
        {"kind": "openai"},
        {"api_key": CANARY},
        {"model_identifier": "text-embedding-3-small", "dimensions": 1536, "tokenizer": "cl100k_base"},
        "/v1",
        256,
        lambda text: openai_model.expected_vector("text-embedding-3-small", text, 256),
    ),
    "bedrock": Vendor(
        lambda: FakeBedrock(switches=FakeBedrock.make_switches(key=CANARY)),
        {"kind": "bedrock", "region": REGION},
        {"aws_access_key_id": ACCESS_KEY_ID, "aws_secret_access_key": CANARY},
        {
            "model_identifier": bedrock.COHERE_V3,
            "dimensions": 1024,
            "max_tokens": 512,
            "tokenizer": "bytes",
            "capabilities": [],
        },
        "",
        None,
        lambda text: bedrock.expected_vector(bedrock.COHERE_V3, text, task="search_document"),
    ),
    "google": Vendor(
        lambda: FakeGoogle(switches=FakeGoogle.make_switches(key=CANARY)),
        {"kind": "google"},
        {"api_key": CANARY},
        {"model_identifier": google.GEMINI_1, "dimensions": 3072, "max_tokens": 2048, "tokenizer": "bytes"},
        "",
        768,
        lambda text: google.expected_vector(google.GEMINI_1, text, 768),
    ),
}
OTHER = "text-embedding-3-large"
FALLBACKS = ("same", "other", "none")  # "none" is the tenant of "other", who says so in each request
SHARED = "answers"  # in place of a fault
PAIRS = [(name, vendor) for name, fault in FAULTS.items() for vendor in fault.switches]
CASES = [(name, vendor, fallback) for name, vendor in PAIRS for fallback in FALLBACKS]
PROVIDERS = [*((SHARED, vendor) for vendor in VENDORS), *(p for p in PAIRS if FAULTS[p[0]].needs_own_provider)]


@dataclass
class Outcome:
    status: int
    text: str
    headers: dict[str, str]
    body: Any
    seconds: float

    @property
    def vectors(self) -> NDArray[np.float32]:
        rows = [base64.b64decode(each["embedding"]) for each in self.body["data"]]
        return np.stack([np.frombuffer(row, "<f4") for row in rows])


@dataclass
class World:
    """A platform with its providers, and a tenant for each kind of fallback."""

    platform: Platform
    street: Street
    keys: dict[str, str]
    fakes: dict[tuple[str, str], FakeServer]
    healthy: dict[str, FakeServer]
    other: str = ""  # id of the model of another space

    def prepare(self) -> None:
        platform = self.platform
        for name, vendor in VENDORS.items():
            self._add_provider(f"healthy-{name}", vendor, self.healthy[name])
        self.other = platform.add_model("healthy-openai", OTHER, model_identifier=OTHER, dimensions=3072)
        platform.configure(self.keys["other"], self.other)
        with ThreadPoolExecutor(3) as hands:
            list(hands.map(self._add_faulty, PROVIDERS))

    def _add_faulty(self, pair: tuple[str, str]) -> None:
        """A model that works while it is being added, its twin elsewhere in the same space, and then the fault."""
        (name, of), platform = pair, self.platform
        vendor, fault, fake, slug = VENDORS[of], FAULTS.get(name), self.fakes[pair], slug_of(pair)
        silence = {"timeout_s": SILENCE_S} if fault is not None and fault.is_silent else {}
        self._add_provider(slug, vendor, fake, batch_window_ms=0, **silence)
        facts = {**vendor.model, "space": slug}
        model = platform.add_model(slug, slug, **facts)
        twin = platform.add_model(f"healthy-{of}", f"twin-of-{slug}", **facts)
        platform.configure(self.keys["other"], model, fallback_model_id=self.other)
        platform.configure(self.keys["same"], model)
        platform.configure(self.keys["same"], twin)
        if fault is None:
            platform.operate("POST", f"/embedding-models/providers/{slug}/breaker", {"state": "closed"})
            shared = [(name, FAULTS[name]) for name, whose in PAIRS if whose == of]
            fake.switch(by_text={f" {name} ": self._words(fault, of) for name, fault in shared})
            return
        if fault.place:
            address = self.street.address(fault.place) + vendor.suffix
            platform.operate("PATCH", f"/embedding-models/providers/{slug}", {"base_url": address})
        fake.switch(**self._words(fault, of))

    def _words(self, fault: Fault, vendor: str) -> dict[str, Any]:
        """As the table says; pages of errors sing the key, and redirects lead inside."""
        sung = json.dumps({"error": {"message": f"we do not know {CANARY}"}})
        return {"location": self.street.inside.address, "body": sung, **fault.switches[vendor]}

    def _add_provider(self, slug: str, vendor: Vendor, fake: FakeServer, **settings: Any) -> None:
        words = {"slug": slug, "base_url": fake.base_url, "secret": vendor.secret, **vendor.settings, **settings}
        self.platform.operate("POST", "/embedding-models/providers", words)

    async def ask(
        self, session: aiohttp.ClientSession, case: tuple[str, str, str], deadline_s: float = DEADLINE_S
    ) -> Outcome:
        _, vendor, fallback = case
        words = {"model": provider_of(case), "input": texts_of(case), "encoding_format": "base64"}
        if fallback == "none":
            words["fallback"] = "none"
        if (dimensions := VENDORS[vendor].dimensions) is not None:
            words["dimensions"] = dimensions
        headers = {
            "authorization": f"Bearer {self.keys[fallback]}",
            "x-request-timeout-ms": str(round(deadline_s * 1000)),
        }
        started = time.monotonic()
        url = f"http://127.0.0.1:{self.platform.port}/v1/embeddings"
        async with session.post(url, json=words, headers=headers) as answer:
            text = await answer.text()
            seconds = time.monotonic() - started
            told = {name.lower(): value for name, value in answer.headers.items()}
            return Outcome(answer.status, text, told, await answer.json(), seconds)

    async def ask_all(self, cases: list[tuple[str, str, str]]) -> dict[tuple[str, str, str], Outcome]:
        places = asyncio.Semaphore(AT_A_TIME)
        async with aiohttp.ClientSession() as session:

            async def one(case: tuple[str, str, str]) -> Outcome:
                async with places:
                    return await self.ask(session, case)

            return dict(zip(cases, await asyncio.gather(*map(one, cases)), strict=True))


def slug_of(pair: tuple[str, str]) -> str:
    name, vendor = pair
    return f"{vendor}-{name.replace('_', '-')}"


def provider_of(case: tuple[str, str, str]) -> str:
    """Slug of the provider that has the fault, which is also the name of its model and its space."""
    name, vendor, _ = case
    return slug_of((name if FAULTS[name].needs_own_provider else SHARED, vendor))


def texts_of(case: tuple[str, ...]) -> list[str]:
    return [f"{text} of {' '.join(case)}" for text in TEXTS]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    with Street(folder) as street:
        fakes = {pair: street.fake(VENDORS[pair[1]].make()) for pair in PROVIDERS}
        healthy = {name: street.fake(vendor.make()) for name, vendor in VENDORS.items()}
        with Platform(folder / "home", settings={"SSL_CERT_FILE": str(street.trust)}) as platform:
            same, other = (platform.add_tenant(name)[1] for name in ("same", "other"))
            world = World(platform, street, {"same": same, "other": other, "none": other}, fakes, healthy)
            world.prepare()
            yield world


@pytest.fixture(scope="module")
def outcomes(world):
    return asyncio.run(world.ask_all(CASES))


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_right_vectors_or_our_own_error_in_time(outcomes, case):
    """Who may answer does so with the right vectors and says who it was; where nobody may, the error is documented."""
    name, _, fallback = case
    outcome, codes = outcomes[case], FAULTS[name].codes
    assert outcome.seconds <= DEADLINE_S + GRACE_S
    if codes and fallback == "none":
        assert (outcome.status in (502, 503, 504), outcome.body["error"]["code"] in codes) == (True, True), outcome.text
        return
    assert outcome.status == 200, outcome.text
    expected, provider, space = _expected(case)
    assert (outcome.headers["x-embedding-provider"], outcome.headers["x-embedding-space"]) == (provider, space)
    np.testing.assert_allclose(outcome.vectors, expected, atol=1e-6)


def _expected(case: tuple[str, str, str]) -> tuple[NDArray[Any], str, str]:
    """Vectors, provider and space of a 200."""
    name, of, fallback = case
    slug, vendor = provider_of(case), VENDORS[of]
    if FAULTS[name].codes and fallback == "other":
        rows = [openai_model.expected_vector(OTHER, text, vendor.dimensions) for text in texts_of(case)]
        return np.stack(rows), "healthy-openai", f"healthy-openai/{OTHER}"
    rows = [vendor.expected(text) for text in texts_of(case)]
    return np.stack(rows), f"healthy-{of}" if FAULTS[name].codes else slug, slug


def test_all_thirty_faults_are_there():
    kinds = {name.partition("_retry_after")[0].replace("usage_", "usage ").partition(" ")[0] for name in FAULTS}
    assert len(kinds) == 30
    assert {name: len(vendor.switches) for name, vendor in FAULTS.items() if len(vendor.switches) < 3} == {
        "shuffled_indexes": 1,
        "duplicate_indexes": 1,
        "usage_missing": 2,
        "usage_negative": 2,
        "usage_huge": 2,
    }


def test_nobody_is_charged_more_than_was_held_and_failures_cost_nothing(world, outcomes):
    query = "SELECT status, count(*), count(*) FILTER (WHERE tokens > held_tokens), sum(cost_usd) FROM billing_usagerow"
    rows = {status: found for status, *found in world.platform.rows(f"{query} GROUP BY status")}
    assert rows["ok"][0] == sum(outcome.status == 200 for outcome in outcomes.values())
    assert {over for _, over, _ in rows.values()} == {0}
    assert {cost for status, (_, _, cost) in rows.items() if status != "ok"} == {0}


def test_a_redirect_is_never_followed(world, outcomes):
    assert outcomes[("redirect_inside", "openai", "none")].status == 502
    assert world.street.inside.connections == 0


def test_the_providers_keys_are_in_no_answer_no_log_and_no_row(world, outcomes):
    """Errors of all vendors repeat the key that they were sent."""
    answers = [f"{outcome.headers} {outcome.text}" for outcome in outcomes.values()]
    logs = [path.read_text(errors="replace") for path in world.platform.home.glob("*.log")]
    tables = world.platform.rows("SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = 'public'")
    rows = [str(row) for (table,) in tables for row in world.platform.rows(f"SELECT t::text FROM {table} t")]
    assert len(answers) == len(CASES)
    assert any("provider_error" in log for log in logs)
    assert any("HTTP 401" in row for row in rows)
    assert not [each for each in (*answers, *logs, *rows) if CANARY in each or "canary" in each]


async def test_silence_until_the_deadline_ends_with_it(world, outcomes):
    """Nobody else can answer then: with all of the time gone there is none left for another."""
    silent = [(name, vendor, "none") for name, vendor in PAIRS if FAULTS[name].is_silent and vendor == "openai"]
    async with aiohttp.ClientSession() as session:
        late = [await world.ask(session, case, deadline_s=SILENCE_S / 2) for case in silent]
    assert len(late) == 3
    assert {outcome.status for outcome in late} <= {502, 504}
    assert max(outcome.seconds for outcome in late) <= SILENCE_S / 2 + GRACE_S


def test_nothing_outlives_its_deadline(world, outcomes):
    """No hold, no request and no call is left of anything above; the metrics are as old as a second."""
    names = ("holds_active", "embedding_requests_active", "embedding_provider_calls_active")

    def left() -> list[str]:
        told = world.platform.ask("GET", "/metrics").body.decode().splitlines()
        found = [line for line in told if line.startswith(names)]
        assert len(found) > 2 + len(PROVIDERS) / 2  # there is one for each provider that was ever called
        return [line for line in found if not line.endswith(" 0.0")]

    eventually(lambda: not left())
