"""Agents over WebSocket as a whole: they work side by side, in two processes, through restarts, by the thousand."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack, contextmanager, suppress

import pytest
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from config.up.ports import free_port
from tests.embeddings.agents import GENERATE, Agent, Refused
from tests.fakes.openai import FakeOpenAI
from tests.scenarios.platform import Platform
from tests.up.processes import CHECKOUT, eventually, get

pytestmark = pytest.mark.slow
IDLE, BUSY, PER_SECOND, SECONDS = 1000, 100, 200, 60
BACK_WITHIN_S = 5.0  # behind a restart, with the pauses that the example makes
HEARTBEAT_S = 25.0


@contextmanager
def another_web(platform):
    """A second web process over the same stores; gives its port."""
    port = free_port()
    with (platform.home / "second-web.log").open("wb") as log:
        command = [sys.executable, "-m", "config.web", "--port", str(port), "--workers", "1"]
        web = subprocess.Popen(command, cwd=CHECKOUT, env=platform.environment, stdout=log, stderr=log)
    try:
        eventually(lambda: get(f"http://127.0.0.1:{port}/readyz")[0] == 200, 120)
        yield port
    finally:
        web.send_signal(signal.SIGTERM)
        web.wait(30)


async def test_agents_in_two_processes_work_side_by_side_and_hear_of_a_breaker(tmp_path):
    with FakeOpenAI() as steady, FakeOpenAI() as shaky, Platform(tmp_path / "home") as platform:
        for name, vendor in (("steady", steady), ("shaky", shaky)):
            platform.add_provider(name, vendor.base_url, vendor.key)
        large = {"model_identifier": "text-embedding-3-large", "dimensions": 3072}
        _, key = platform.add_tenant("coordinated")
        platform.configure(key, platform.add_model("steady", "calm"))
        platform.configure(key, platform.add_model("shaky", "swift", **large))
        with another_web(platform) as second_port:
            async with Agent(platform.port, key) as one, Agent(second_port, key) as other:
                await one.register("writer", preferences={"primary": "swift"})
                await other.register("reader", preferences={"strategy": "fixed", "primary": "calm"})
                await other.call("subscribe", topics=["breakers"])
                listed = (await other.call("agent.list"))["agents"]
                assert [(each["agent_id"], each["connected"]) for each in listed] == [
                    ("reader", True),
                    ("writer", True),
                ]

                texts = [f"the same text {number}" for number in range(8)]
                theirs = [agent.ask("embedding.generate", input=text) for text in texts for agent in (one, other)]
                answers = await asyncio.gather(*theirs)
                assert [each["model"] for each in answers] == ["swift", "calm"] * 8
                assert {each["quiver"]["reason"] for each in answers} == {"the agent's primary"}

                shaky.switch(fault="status", status=500)
                for number in range(40):
                    answer = await one.call("embedding.generate", input=f"a hard one {number}")
                    assert answer["model"] == "calm"
                told = await other.told("breaker.opened", 20)
                assert (told["provider"], told["model"]) == ("shaky", "text-embedding-3-large")
                answer = await one.call("embedding.generate", input="once more")
                assert (answer["model"], answer["quiver"]["reason"]) == ("calm", "the tenant's default")


async def test_one_agent_on_two_processes_is_the_younger_one(platform, acme_key):
    with another_web(platform) as second_port:
        async with Agent(platform.port, acme_key) as older, Agent(second_port, acme_key) as younger:
            await older.register("wanderer")
            await younger.register("wanderer")
            assert await older.close_code() == 4409
            assert await younger.call("ping")


class Example:
    """`examples/agent.py` as a process: it is given lines, and its answers are read."""

    def __init__(self, platform: Platform, key: str, agent_id: str) -> None:
        url = f"ws://127.0.0.1:{platform.port}/ws/v1/agents"
        self.log = platform.home / f"{agent_id}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-u", "examples/agent.py", url, agent_id],
                cwd=CHECKOUT,
                env=platform.environment | {"QUIVER_API_KEY": key},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                text=True,
            )

    def ask(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{text}\n")
        self.process.stdin.flush()

    @property
    def answers(self) -> list[str]:
        """Request ids."""
        lines = self.log.read_text().splitlines()
        return [line.split()[1] for line in lines if line.startswith("text-embedding")]


async def test_a_rolling_restart_under_load_loses_nothing_and_charges_nothing_twice(tmp_path, vendor):
    with Platform(tmp_path / "home", workers=2) as platform:
        platform.add_provider("fake", vendor.base_url, vendor.key)
        tenant, key = platform.add_tenant("restarted")
        platform.configure(key, platform.add_model("fake"))
        example = Example(platform, key, "example")
        answered: list[tuple[str, str]] = []  # request ids and texts
        codes: list[int | None] = []
        is_over = asyncio.Event()

        async def work(number: int) -> None:
            """An agent that asks again what was not answered, on a new connection."""
            count = 0
            while not is_over.is_set():
                with suppress(OSError, InvalidHandshake):
                    async with Agent(platform.port, key) as agent:
                        try:
                            await agent.register(f"worker-{number}")
                            while not is_over.is_set():
                                text = f"{count} of {number}"
                                found = await agent.call("embedding.generate", input=text, task_type=text, dimensions=8)
                                answered.append((found["quiver"]["request_id"], text))
                                count += 1
                        except (ConnectionError, ConnectionClosed, Refused):
                            codes.append(await agent.close_code())
                await asyncio.sleep(random.uniform(0.05, 0.3))

        workers = [asyncio.create_task(work(number)) for number in range(10)]
        example.ask("before everything")
        await asyncio.to_thread(eventually, lambda: example.answers, 30)
        for old in platform.worker_pids:
            await until(lambda: len(answered) > 50)
            os.kill(old, signal.SIGTERM)
            await until(lambda old=old: old not in platform.worker_pids and len(platform.worker_pids) == 2)
            await asyncio.to_thread(eventually, platform.is_ready, 60)  # the other one may be young as well
            lines, known = len(example.answers), len(answered)
            example.ask(f"after {old}")
            await until(lambda lines=lines: len(example.answers) > lines, BACK_WITHIN_S)
            await until(lambda known=known: len(answered) > known + 50)
        is_over.set()
        await asyncio.gather(*workers)
        example.process.terminate()
        example.process.wait(10)

        assert codes
        assert set(codes) == {1012}
        everything = [*(request_id for request_id, _ in answered), *example.answers]
        assert len(set(everything)) == len(everything)
        rows = platform.rows(
            f"SELECT id::text, task_type, tokens FROM billing_usagerow WHERE tenant_id = '{tenant}' AND status = 'ok'"
        )
        assert set(everything) <= {row[0] for row in rows}
        assert len({row[0] for row in rows}) == len(rows)
        # Each text was charged once, however often it was asked for; those of the example say no task.
        charged = Counter(task for _, task, tokens in rows if tokens > 0)
        assert charged == Counter(text for _, text in answered) + Counter({"": len(example.answers)})


async def until(is_so, seconds: float = 60.0) -> None:
    """Looks again and again, while the clients of this process go on."""
    async with asyncio.timeout(seconds):
        while not is_so():
            await asyncio.sleep(0.05)


async def beat(agents):
    """They say that they are there, as those that are idle must."""
    while True:
        for agent in agents:
            agent.ask("agent.heartbeat")
            await asyncio.sleep(HEARTBEAT_S / len(agents))


async def test_a_thousand_idle_agents_and_two_hundred_embeddings_a_second(tmp_path, vendor):
    with Platform(tmp_path / "home") as platform:
        platform.add_provider("fake", vendor.base_url, vendor.key)
        _, key = platform.add_tenant("thousand")
        platform.configure(key, platform.add_model("fake"))
        async with AsyncExitStack() as stack:
            agents = [Agent(platform.port, key, open_timeout=60) for _ in range(IDLE)]
            for begin in range(0, IDLE, 50):
                await asyncio.gather(*(stack.enter_async_context(each) for each in agents[begin : begin + 50]))
            for begin in range(0, IDLE, 50):
                group = agents[begin : begin + 50]
                await asyncio.gather(*(each.register(f"agent-{begin + n}") for n, each in enumerate(group)))
            stack.callback(asyncio.create_task(beat(agents)).cancel)
            texts = [{"input": f"text {n % 500}", "dimensions": 8} for n in range(PER_SECOND * SECONDS)]
            began, asked = time.monotonic(), []
            for number, params in enumerate(texts):
                due = began + number / PER_SECOND
                if (ahead := due - time.monotonic()) > 0:
                    await asyncio.sleep(ahead)
                asked.append(agents[number % BUSY].ask_binary(GENERATE, params))
            answers = await asyncio.wait_for(asyncio.gather(*asked), 120)
            assert len(answers) == PER_SECOND * SECONDS
            assert {each.body["count"] for each in answers} == {1}
            assert all(each.wire.close_code is None for each in agents)
            shown = platform.ask("GET", "/metrics").body.decode().splitlines()
            (active,) = (each for each in shown if each.startswith("websocket_connections_active"))
            assert float(active.split()[-1]) == IDLE
