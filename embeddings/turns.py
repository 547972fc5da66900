"""Whose call of the gateway is next: a bounded number at a time for the process and for each agent.

While there is room everybody goes at once. Where there is none, tenants take turns, within a tenant its agents, within
an agent its requests in order: who asks for a thousand waits for himself. Lives inside one event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from uuid import UUID

Who = tuple[UUID, str]  # tenant, agent (or a socket that is none)


class Turns:
    def __init__(self, *, most: int, most_per_agent: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self.most_per_agent = most_per_agent
        self._clock = clock
        self._running = 0
        self._by_agent: dict[Who, int] = {}
        # In the order in which they are asked next: tenants, and of each its agents with who waits.
        self._waiting: dict[UUID, dict[str, deque[_Waiter]]] = {}

    def try_now(self, who: Who) -> bool:
        """Takes a turn if nobody must wait; give it back with `done`."""
        running = self._by_agent.get(who, 0)
        if self._running >= self._most or running >= self.most_per_agent or self._waits(who):
            return False
        self._running += 1
        self._by_agent[who] = running + 1
        return True

    async def wait(self, who: Who, *, within_s: float) -> bool:
        """Waits for a turn, to be given back with `done`. False: it did not come in time."""
        if self.try_now(who):
            return True
        waiter = _Waiter(asyncio.get_running_loop().create_future(), self._clock())
        self._waiting.setdefault(who[0], {}).setdefault(who[1], deque()).append(waiter)
        timer = asyncio.get_running_loop().call_later(max(0.0, within_s), _give_up, waiter.future)
        try:
            return await waiter.future
        except asyncio.CancelledError:
            if not waiter.future.cancelled() and waiter.future.done() and waiter.future.result():
                self.done(who)  # it came at the same moment
            raise
        finally:
            timer.cancel()

    def done(self, who: Who) -> None:
        """Gives a turn back; who waits longest by turns gets it."""
        self._running -= 1
        left = self._by_agent.pop(who) - 1
        if left:
            self._by_agent[who] = left
        while self._waiting and self._running < self._most and self._next():
            pass

    def statistics(self) -> dict[str, int]:
        queues = [queue for agents in self._waiting.values() for queue in agents.values()]
        waiting = [each for queue in queues for each in queue if not each.future.done()]
        oldest = min((each.since for each in waiting), default=None)
        return {
            "running": self._running,
            "agents": len(self._by_agent),
            "waiting": len(waiting),
            "waiting_tenants": len(self._waiting),
            "longest_wait_ms": 0 if oldest is None else round((self._clock() - oldest) * 1000),
        }

    def _waits(self, who: Who) -> bool:
        return bool(self._waiting) and who[1] in self._waiting.get(who[0], {})

    def _next(self) -> bool:
        """Starts one that waits; False: all agents that wait have all the turns that one may have."""
        for tenant, agents in list(self._waiting.items()):
            for agent, queue in list(agents.items()):
                while queue and queue[0].future.done():  # has given up
                    queue.popleft()
                running = self._by_agent.get((tenant, agent), 0)
                if queue and running >= self.most_per_agent:
                    continue
                del agents[agent]
                if not queue:
                    continue
                queue.popleft().future.set_result(True)
                self._running += 1
                self._by_agent[tenant, agent] = running + 1
                if queue:
                    agents[agent] = queue  # behind the tenant's other agents
                del self._waiting[tenant]
                if agents:
                    self._waiting[tenant] = agents
                return True
            if not agents:
                del self._waiting[tenant]
        return False


class _Waiter:
    __slots__ = ("future", "since")

    def __init__(self, future: asyncio.Future[bool], since: float) -> None:
        self.future = future
        self.since = since


def _give_up(future: asyncio.Future[bool]) -> None:
    if not future.done():
        future.set_result(False)
