"""Boards of several processes in one test: each with a pipe of its own, one clock that the test owns."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from billing.redis_pipe import RedisPipe
from embeddings import breaker_wire as wire
from embeddings.breaker import Outcome, Settings
from embeddings.breaker_board import Board
from embeddings.breaker_copies import Change

NOW = 1_800_000_000_000
ROUTE = "openai|c1|small|"


@dataclass
class Clock:
    """Unix milliseconds that pass when the test says so."""

    now: int = NOW

    def __call__(self) -> int:
        return self.now


async def connected(pipe: RedisPipe) -> None:
    async with asyncio.timeout(20):
        while not pipe.is_up:
            await asyncio.sleep(0.005)


@asynccontextmanager
async def open_pipe(url: str, **words: float) -> AsyncIterator[RedisPipe]:
    pipe = RedisPipe(url, scripts=wire.SCRIPTS, **words)
    pipe.start()
    try:
        await connected(pipe)
        yield pipe
    finally:
        await pipe.close()


@dataclass
class Process:
    """One process's board, and what it told."""

    board: Board
    pipe: RedisPipe
    told: list[Change] = field(default_factory=list)

    async def fails(self, times: int, route: str = ROUTE) -> None:
        for _ in range(times):
            self.board.report(route, Outcome.FAILED, 20)
        await self.board.flush()


def process_of(pipe: RedisPipe, clock: Clock, settings: Settings | None = None) -> Process:
    process = Process(Board(pipe, clock=clock, settings=settings), pipe)
    process.board.on_change(process.told.append)
    return process


@asynccontextmanager
async def processes(
    url: str, count: int, clock: Clock, settings: Settings | None = None
) -> AsyncIterator[list[Process]]:
    """So many processes that have read what is there."""
    async with AsyncExitStack() as stack:
        pipes = [await stack.enter_async_context(open_pipe(url)) for _ in range(count)]
        await pipes[0].call("DEL", wire.KEY, wire.FIGURES_KEY)
        found = [process_of(pipe, clock, settings) for pipe in pipes]
        await polled(*found)
        yield found


async def polled(*all_of_them: Process) -> None:
    """What every process does each second."""
    for process in all_of_them:
        await process.board.poll()
        await process.board.flush()
