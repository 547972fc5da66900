"""A provider dies under load and comes back: nobody notices, and hardly anybody calls it meanwhile.

50 requests a second over two workers, for a minute, with another provider of the same space.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field

import aiohttp
import pytest

from embeddings.breaker import Settings, open_time
from tests.fakes.openai import FakeOpenAI
from tests.scenarios.platform import Platform

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
WORKERS, SLOTS, A_SECOND = 2, 64, 50
DEAD_S, NOTICED_S, OUTAGE_S = 60.0, 3.0, 5.0
BREAKER = Settings()


@pytest.fixture(scope="module")
def vendors():
    with FakeOpenAI() as first, FakeOpenAI() as second:
        yield {"first": first, "second": second}


@pytest.fixture(scope="module")
def platform(tmp_path_factory, vendors):
    with Platform(tmp_path_factory.mktemp("dead") / "home", WORKERS) as platform:
        _, platform.key = platform.add_tenant("acme")
        for name, vendor in vendors.items():
            platform.add_provider(name, vendor.base_url, vendor.key, max_concurrency=SLOTS, batch_window_ms=0)
            platform.configure(platform.key, platform.add_model(name, f"at-{name}", space="shared"))
        yield platform


@dataclass
class Steady:
    """So many requests a second, whatever becomes of them. `answered` has a moment and a provider for each 200."""

    platform: Platform
    failed: Counter[str] = field(default_factory=Counter)
    answered: list[tuple[float, str]] = field(default_factory=list)
    under_way: int = 0
    most_under_way: int = 0

    def start(self) -> None:
        self._is_running = True
        self._pacer = asyncio.create_task(self._pace())

    async def stop(self) -> None:
        self._is_running = False
        await self._pacer

    async def most_under_way_within(self, seconds: float) -> int:
        """From now on; a busy machine has more of them."""
        self.most_under_way = self.under_way
        await asyncio.sleep(seconds)
        return self.most_under_way

    async def until_answered_by(self, provider: str, *, since: float, within_s: float) -> float:
        """How many seconds after that moment this provider answered first."""
        async with asyncio.timeout(within_s):
            while not (found := [at for at, name in self.answered if name == provider and at > since]):
                await asyncio.sleep(0.05)
        return found[0] - since

    async def _pace(self) -> None:
        started, number = time.monotonic(), 0
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
            asyncio.TaskGroup() as requests,
        ):
            while self._is_running:
                requests.create_task(self._one(session, f"text {number} since {started}"))
                number += 1
                await asyncio.sleep(started + number / A_SECOND - time.monotonic())

    async def _one(self, session: aiohttp.ClientSession, text: str) -> None:
        self.under_way += 1
        self.most_under_way = max(self.under_way, self.most_under_way)
        url = f"http://127.0.0.1:{self.platform.port}/v1/embeddings"
        body = {"model": "at-first", "input": text, "encoding_format": "base64", "dimensions": 8}
        try:
            async with session.post(url, json=body, headers={"x-api-key": self.platform.key}) as answer:
                await answer.read()
                if answer.status == 200:
                    self.answered.append((time.monotonic(), answer.headers["x-embedding-provider"]))
                else:
                    self.failed[str(answer.status)] += 1
        except aiohttp.ClientError as error:
            self.failed[type(error).__name__] += 1
        finally:
            self.under_way -= 1


def bound(under_way: int) -> tuple[int, float]:
    """How often the dead one may be called, and the seconds for which its breaker is open in the end.

    Until it opens: the minimum of calls, and those that the workers have under way by then. Afterwards: as many probes
    as its leases allow, each time that its open time is over.
    """
    openings, passed_ms = 1, open_time(1, BREAKER)
    while passed_ms < DEAD_S * 1000:
        openings += 1
        passed_ms += open_time(openings, BREAKER)
    probes = (openings - 1) * BREAKER.probes
    return BREAKER.minimum_calls + probes + min(under_way, WORKERS * SLOTS), open_time(openings, BREAKER) / 1000


def retries(platform: Platform, before: int) -> tuple[int, int]:
    """Calls to providers since there were so many, and how many of them were the second of a request on its route."""
    query = "SELECT count(*) - %d, count(*) - count(DISTINCT (request_id, provider)) FROM billing_providercall"
    return platform.rows(query % before)[0]


def tell(capsys, story: str, figures: dict[str, object]) -> None:
    with capsys.disabled():
        print(f"\n{story}: " + ", ".join(f"{name} {value}" for name, value in figures.items()))  # noqa: T201


async def test_a_minute_without_the_first_provider(platform, vendors, capsys):
    first = vendors["first"]
    steady = Steady(platform)
    steady.start()
    await steady.until_answered_by("first", since=time.monotonic() + 1, within_s=30)
    died_at, called_before = time.monotonic(), len(first.calls)
    first.switch(fault="status", status=503)
    under_way = await steady.most_under_way_within(NOTICED_S)
    await asyncio.sleep(died_at + DEAD_S - time.monotonic())
    calls_while_dead = len(first.calls) - called_before
    first.switch(fault="")
    recovered_at = time.monotonic()
    most, period_s = bound(under_way)
    back_after_s = await steady.until_answered_by("first", since=recovered_at, within_s=2 * period_s + 10)
    await steady.stop()
    _, again = retries(platform, 0)
    while_dead = Counter(name for at, name in steady.answered if died_at + NOTICED_S < at < recovered_at)
    figures = {
        "answers": len(steady.answered),
        "failed requests": sum(steady.failed.values()),
        "calls to the dead one": calls_while_dead,
        "of at most": most,
        "under way when it died": under_way,
        "retries on the same route": again,
        "seconds until it was back": round(back_after_s, 2),
        "its probe period": period_s,
    }
    tell(capsys, "a minute without the first provider", figures)
    assert steady.failed == {}
    assert calls_while_dead <= most
    assert back_after_s <= 2 * period_s
    assert again * 10 <= len(steady.answered)
    assert while_dead.keys() == {"second"}


async def test_a_full_outage_is_not_answered_with_more_load(platform, vendors, capsys):
    """Of the calls that reach two dead providers, retries on the same route are a tenth of the requests at most."""
    calls_before, again_before = retries(platform, 0)
    for vendor in vendors.values():
        vendor.switch(fault="status", status=503)
    steady = Steady(platform)
    steady.start()
    await asyncio.sleep(OUTAGE_S)
    await steady.stop()
    calls, again = retries(platform, calls_before)
    requests, again = sum(steady.failed.values()), again - again_before
    tell(capsys, "a full outage", {"requests": requests, "calls": calls, "retries on the same route": again})
    assert steady.failed.keys() <= {"502", "503"}
    assert again * 10 <= requests
