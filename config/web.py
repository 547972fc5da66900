"""The web: one uvicorn parent, which holds the port, and its workers, which run `config.asgi`.

Owns how workers are watched, brought back and drained. What a request does while draining is `config.asgi.drain`'s.

Failure: a worker that dies is replaced at once, one that does not answer its parent for half a minute is killed first;
a worker that cannot even start ends the web, because the next one could not either. When the parent is killed its
workers die with it: orphans would go on serving the port.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import logging
import os
import sys
import time
import warnings
from multiprocessing.connection import wait
from socket import socket

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess
from uvicorn.supervisors.multiprocess import Process

from config.environment import variable
from config.http_protocol import OneWriteProtocol
from config.up.lifeline import die_with
from embeddings.frames import MOST_FRAME

APPLICATION = "config.asgi:application"
_LOOK_SECONDS = 0.2
_PING_SECONDS = 1.0
_HUNG_SECONDS = 30.0
_CLOSE_SECONDS = 5
log = logging.getLogger("quiver.web")


class DrainingServer(uvicorn.Server):
    """Goes on accepting connections while the application drains, so that nobody is left hanging or refused."""

    async def main_loop(self) -> None:
        """Serves until a signal says to stop, then drains; uvicorn closes the listeners only afterwards."""
        await super().main_loop()
        module = importlib.import_module(str(self.config.app).partition(":")[0])
        draining = asyncio.ensure_future(module.drain(float(os.environ.get(variable("drain_seconds")) or 10)))
        while not draining.done() and not self.force_exit:
            await asyncio.wait([draining], timeout=0.1)
        if draining.done():
            draining.result()


class Worker(Process):
    """One worker process; this object lives on both sides of the fork."""

    def __init__(self, config: uvicorn.Config, sockets: list[socket]) -> None:
        super().__init__(config, sockets)
        self._parent = os.getpid()
        self._pinged_at: float | None = None
        self._answered_at = time.monotonic()
        self.was_ready = False

    def target(self, sockets: list[socket] | None = None) -> None:
        """What the child runs."""
        die_with(self._parent)
        # Autobahn's cases pass with this implementation alone, deprecated or not.
        warnings.filterwarnings("ignore", message="The `websockets` implementation is deprecated")
        super().target(sockets)

    @property
    def server(self) -> uvicorn.Server:
        """The child's server."""
        if self._server is None:
            self._server = DrainingServer(self.config)
        return self._server

    def answers(self, now: float) -> bool:
        """Whether the child has answered a ping lately. Never waits, unlike uvicorn's own."""
        if self._pinged_at is not None and self.parent_conn.poll():
            self.was_ready = bool(self.parent_conn.recv()) or self.was_ready
            self._pinged_at, self._answered_at = None, now
        if self._pinged_at is None and now - self._answered_at > _PING_SECONDS:
            self.parent_conn.send(b"ping")
            self._pinged_at = now
        return self._pinged_at is None or now - self._pinged_at < _HUNG_SECONDS


class Web(Multiprocess):
    """uvicorn's parent of workers, which looks at all of them at once and notices a death when it happens."""

    def __init__(self, config: uvicorn.Config, sockets: list[socket]) -> None:
        super().__init__(config, sockets)
        self.workers: list[Worker] = []
        self.has_failed = False

    def init_processes(self) -> None:
        """Starts all workers."""
        self.workers = [self._start() for _ in range(self.processes_num)]
        self.processes = list(self.workers)  # what uvicorn stops and joins

    def run(self) -> None:
        """Watches until told to stop, then has all workers drain at the same time and waits for them."""
        self.init_processes()
        while not self.should_exit.is_set():
            wait([worker.process.sentinel for worker in self.workers], _LOOK_SECONDS)
            self.handle_signals()
            self.keep_subprocess_alive()
        self.terminate_all()
        self.join_all()

    def keep_subprocess_alive(self) -> None:
        """Replaces what has died or hangs."""
        for index, worker in enumerate(self.workers):
            if self.should_exit.is_set():
                return
            if worker.process.is_alive() and worker.answers(time.monotonic()):
                continue
            worker.kill()
            worker.join()
            if not worker.was_ready and (worker.exitcode or 0) > 0:
                log.error("web worker %s could not start (exit code %s)", worker.pid, worker.exitcode)
                self.has_failed = True
                self.should_exit.set()
                return
            self.workers[index] = self._start()
            self.processes[index] = self.workers[index]
            log.warning("web worker %s died (%s); %s replaces it", worker.pid, worker.exitcode, self.workers[index].pid)

    def handle_hup(self) -> None:
        """SIGHUP is the terminal's, no wish for new workers."""

    def handle_ttin(self) -> None:
        """The number of workers is fixed."""

    def handle_ttou(self) -> None:
        """The number of workers is fixed."""

    def _start(self) -> Worker:
        worker = Worker(self.config, self.sockets)
        worker.start()
        return worker


def configuration(application: str, host: str, port: int, workers: int) -> uvicorn.Config:
    """uvicorn's configuration, the same for all workers."""
    return uvicorn.Config(
        application,
        host=host,
        port=port,
        workers=workers,
        loop="uvloop",
        http=OneWriteProtocol,
        ws="config.socket_protocol:SocketProtocol",  # by name: only the workers load it
        ws_ping_interval=30,
        ws_ping_timeout=30,
        ws_per_message_deflate=False,  # 100 KB a socket
        ws_max_size=MOST_FRAME,
        ws_max_queue=4,  # messages that are read ahead of the application
        lifespan="on",
        log_config=None,  # Django's is the one
        access_log=False,
        server_header=False,
        backlog=2048,
        proxy_headers=False,  # `config.proxies` does it, with an eye on what they hold
        timeout_keep_alive=75,  # longer than the usual load balancer's 60: it must be the one to close
        timeout_graceful_shutdown=_CLOSE_SECONDS,
    )


def main() -> int:
    """Serves until a signal; not 0 when workers could not start."""
    parser = argparse.ArgumentParser(prog="python -m config.web")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--application", default=APPLICATION, help="module:name; the module has `drain(seconds)` too")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    config = configuration(options.application, options.host, options.port, options.workers)
    web = Web(config, [config.bind_socket()])
    web.run()
    return STARTUP_FAILURE if web.has_failed else 0


if __name__ == "__main__":
    sys.exit(main())
