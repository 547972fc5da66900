from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from config.up.ports import free_port
from tests.up.processes import CHECKOUT, children_of, clean_environment, eventually, get, is_running

pytestmark = pytest.mark.slow


class Web:
    def __init__(self, workers: int, application: str = "application", **environment: str) -> None:
        self.port = free_port()
        command = [sys.executable, "-m", "config.web", "--port", str(self.port), "--workers", str(workers)]
        command += ["--application", f"tests.up.standin:{application}"]
        self.process = subprocess.Popen(
            command, cwd=CHECKOUT, env=clean_environment() | environment, stderr=subprocess.PIPE, text=True
        )

    def get(self, path: str = "/") -> tuple[int, str]:
        return get(f"http://127.0.0.1:{self.port}{path}")

    def workers(self) -> set[int]:
        """The workers that answer."""
        return {int(body) for status, body in (self.get() for _ in range(30)) if status == 200}

    def all_of_two(self) -> set[int]:
        """Both workers, or nobody: on a busy machine one of them may have taken all the connections."""
        found = self.workers()
        return found if len(found) == 2 else set()


@pytest.fixture
def web() -> Iterator[Web]:
    running = Web(2, QUIVER_DRAIN_SECONDS="3")
    eventually(lambda: len(running.workers()) == 2, 20)
    yield running
    running.process.kill()
    running.process.wait()


def test_a_killed_worker_comes_back(web: Web) -> None:
    for _ in range(3):
        victim = web.workers().pop()
        os.kill(victim, signal.SIGKILL)
        eventually(lambda victim=victim: len(web.workers() - {victim}) == 2, 20)


def test_a_single_worker_is_brought_back_too() -> None:
    web = Web(1)
    try:
        first = eventually(web.workers, 20)
        os.kill(min(first), signal.SIGKILL)
        eventually(lambda: web.workers() - first, 20)
    finally:
        web.process.kill()
        web.process.wait()


def test_a_killed_parent_leaves_no_worker(web: Web) -> None:
    children = children_of(web.process.pid)
    web.process.kill()
    web.process.wait()
    eventually(lambda: not any(is_running(child) for child in children), 5)
    assert web.get() == (0, "")


def test_draining_answers_everybody(web: Web) -> None:
    answers: list[tuple[int, str]] = []
    slow = [threading.Thread(target=lambda: answers.append(web.get("/slow/1.5"))) for _ in range(8)]
    for thread in slow:
        thread.start()
    time.sleep(0.5)  # no sign tells from outside that all are under way
    web.process.send_signal(signal.SIGTERM)
    eventually(lambda: web.get()[0] == 503, 1)
    for thread in slow:
        thread.join(10)
    assert [status for status, _ in answers] == [200] * 8
    assert web.process.wait(5) == 0


def test_draining_ends_with_the_grace(web: Web) -> None:
    impatient = threading.Thread(target=web.get, args=("/slow/60",))
    impatient.start()
    eventually(lambda: len(web.workers()) == 2)
    web.process.send_signal(signal.SIGTERM)
    told = time.monotonic()
    assert web.process.wait(15) == 0
    assert time.monotonic() - told < 3 + 5 + 2
    impatient.join(5)


def test_a_worker_that_cannot_start_ends_the_web() -> None:
    web = Web(2, "missing")
    assert web.process.wait(20) == 3
    assert web.process.stderr is not None
    assert "could not start" in web.process.stderr.read()


def test_a_hung_worker_does_not_delay_the_return_of_a_killed_one(web: Web) -> None:
    hung, killed = sorted(eventually(web.all_of_two, 5))
    os.kill(hung, signal.SIGSTOP)
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: set(children_of(web.process.pid)) - {hung, killed} and killed not in web_children(web), 2)
    os.kill(hung, signal.SIGCONT)
    eventually(lambda: len(web.workers() - {killed}) == 2, 3)


def web_children(web: Web) -> list[int]:
    return [child for child in children_of(web.process.pid) if is_running(child)]
