"""Nothing is lost and nothing is charged twice, whatever is killed: real processes under load."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from tests.scenarios.load import Load
from tests.scenarios.platform import Platform
from tests.up.processes import CHECKOUT, eventually

KILLS, RESTARTS = 20, 3
MOST_SECONDS_TO_A_200 = 2.0
pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]


@pytest.fixture(scope="module")
def busy(tmp_path_factory):
    """Two web workers, and a vendor in a process of its own that takes five milliseconds."""
    command = [sys.executable, "-m", "tests.fakes.openai"]
    with subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE) as vendor:
        with Platform(tmp_path_factory.mktemp("busy") / "home", workers=2) as platform:
            platform.add_provider("fake", vendor.stdout.readline().decode().strip(), "sk-fake")
            _, platform.key = platform.add_tenant("acme")
            platform.configure(platform.key, platform.add_model("fake"))
            yield platform
        vendor.terminate()


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
    tell(capsys, f"{KILLS} workers killed", {**figures, "connections broken": load.broken, **load.statuses})
    assert (figures["lost"], figures["double"], figures["answers_repeated"]) == (0, 0, 0)
    assert load.broken >= KILLS  # they did die with requests under way
    assert load.statuses.keys() <= {200, 503}


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
