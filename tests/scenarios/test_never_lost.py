"""Nothing is lost and nothing is charged twice, whatever is killed: real processes under load."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from urllib.request import urlopen

import pytest

from tests.fakes.server import KEY
from tests.scenarios.accounts import add_caller, add_limit, bring_to_rest, check_books
from tests.scenarios.load import Load
from tests.scenarios.platform import Platform
from tests.up.processes import CHECKOUT, eventually

KILLS, RESTARTS = 20, 3
MOST_SECONDS_TO_A_200 = 2.0
# A hold of a dead worker is looked after 15 s later: the deadline, the wait for the ledger, and five.
SETTINGS = {"QUIVER_DEADLINE_MS": "5000", "QUIVER_RECONCILE_SECONDS": "0.5"}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def busy(tmp_path_factory):
    """Two web workers and Celery's, a tenant with a limit far away, and a vendor in a process of its own."""
    command = [sys.executable, "-m", "tests.fakes.openai"]
    with subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE) as vendor:
        try:
            with Platform(tmp_path_factory.mktemp("busy") / "home", 2, SETTINGS) as platform:
                platform.vendor = vendor.stdout.readline().decode().strip()
                # So that a killed worker always leaves calls behind.
                urlopen(_control(platform), json.dumps({"latency_s": 0.02}).encode()).close()
                platform.add_provider("fake", platform.vendor, KEY)
                platform.who = add_caller(platform, "acme", platform.add_model("fake"))
                platform.key = platform.who.key
                add_limit(platform, platform.who, "tokens", "month", 1_000_000_000)
                platform.start_worker()
                yield platform
        finally:
            vendor.terminate()


@pytest.fixture(autouse=True)
def books_agree(busy):
    """In the end of each story the ledger, the counters and what is shown of them say the same."""
    yield
    check_books(busy, busy.who)


def _control(platform) -> str:
    return f"{platform.vendor.removesuffix('/v1')}/_control"


def texts_asked(platform) -> int:
    """For how many of the load's texts, no two of which are the same, the vendor was asked."""
    with urlopen(_control(platform)) as answer:
        texts = {text for call in json.load(answer)["calls"] for text in call["body"]["input"]}
    return sum(" of client " in text for text in texts)


def account(platform, load) -> dict[str, int]:
    """Answers that clients saw, held against the ledger."""
    found = [row[0] for row in platform.rows("SELECT id::text FROM billing_usagerow WHERE status = 'ok'")]
    return {
        "answers": len(load.answered),
        "lost": len(set(load.answered) - set(found)),
        "double": len(found) - len(set(found)),
        "answers_repeated": len(load.answered) - len(set(load.answered)),
    }


def tell(capsys, story: str, figures: dict[str, object]) -> None:
    with capsys.disabled():
        print(f"\n{story}: " + ", ".join(f"{name} {value}" for name, value in figures.items()))  # noqa: T201


def both_workers_live(platform) -> bool:
    return len(platform.worker_pids) == 2


async def test_killed_workers_lose_no_row_of_an_answer(busy, capsys):
    load = Load(busy.port, busy.key)
    load.start()
    dice = random.Random(20)
    for _ in range(KILLS):
        await load.until_answered(150)
        await asyncio.to_thread(eventually, lambda: both_workers_live(busy))
        os.kill(dice.choice(busy.worker_pids), signal.SIGKILL)
    await load.until_answered(150)
    await load.stop()
    figures = account(busy, load)
    await asyncio.to_thread(bring_to_rest, busy, busy.who)
    unresolved, known = busy.rows(
        "SELECT count(*) FILTER (WHERE status = 'unresolved'), sum(items) FILTER (WHERE status <> 'unresolved') "
        "FROM billing_usagerow"
    )[0]
    died = texts_asked(busy) - known
    told = {**figures, "connections broken": load.broken, "died": died, "unresolved": unresolved, **load.statuses}
    tell(capsys, f"{KILLS} workers killed", told)
    assert (figures["lost"], figures["double"], figures["answers_repeated"]) == (0, 0, 0)
    assert load.broken >= KILLS  # they did die with requests under way
    assert load.statuses.keys() <= {200, 503}
    assert 0 < died <= unresolved  # calls that somebody paid for, though their requests are gone


async def test_restarts_of_postgresql_lose_nothing_and_are_over_at_once(busy, capsys):
    eventually(lambda: both_workers_live(busy))
    load = Load(busy.port, busy.key)
    load.start()
    waits = []
    for _ in range(RESTARTS):
        await load.until_answered(500)
        busy.postgres.process.send_signal(signal.SIGQUIT)
        await asyncio.to_thread(busy.postgres.process.wait)
        busy.postgres.start()
        await asyncio.to_thread(busy.postgres.wait_until_ready)
        back_at = time.monotonic()
        await load.until_answered(1)
        waits.append(load.last_ok_at - back_at)
    await load.until_answered(500)
    await load.stop()
    figures = account(busy, load)
    told = {**figures, "seconds to a 200": [round(each, 2) for each in waits], **load.statuses}
    tell(capsys, f"{RESTARTS} restarts of PostgreSQL", told)
    assert (figures["lost"], figures["double"], figures["answers_repeated"]) == (0, 0, 0)
    assert load.statuses.keys() <= {200, 503}
    assert max(waits) <= MOST_SECONDS_TO_A_200


async def test_workers_that_start_while_postgresql_is_away_serve_as_soon_as_it_is_back(busy, capsys):
    """They know no key yet, so every request needs what cannot be read."""
    busy.postgres.stop("immediate")
    for pid in busy.worker_pids:
        os.kill(pid, signal.SIGKILL)
    load = Load(busy.port, busy.key)
    load.start()
    async with asyncio.timeout(60):
        while load.statuses[503] < 32:
            await asyncio.sleep(0.01)
    busy.postgres.start()
    await asyncio.to_thread(busy.postgres.wait_until_ready)
    back_at = time.monotonic()
    await load.until_answered(100)
    first_after = load.last_ok_at - back_at
    await load.stop()
    figures = account(busy, load)
    tell(capsys, "cold start without PostgreSQL", {**figures, "seconds to 100 times 200": round(first_after, 2)})
    assert (figures["lost"], figures["double"]) == (0, 0)
    assert load.statuses.keys() <= {200, 503}
    assert first_after <= MOST_SECONDS_TO_A_200 + 3
