"""An agent: registers, embeds what it is given line by line, prints news, and comes back when the server restarts.

QUIVER_API_KEY=… python examples/agent.py ws://127.0.0.1:8000/ws/v1/agents crawler-7 < texts.txt
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import sys
from contextlib import suppress
from typing import Any

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

FOR_GOOD = {4401: "the key is not good", 4409: "a newer agent of this name took over"}


class Agent:
    def __init__(self, url: str, key: str, agent_id: str) -> None:
        self.url, self.key, self.agent_id = url, key, agent_id
        self.last_event_id, self.is_ready, self._ids = None, asyncio.Event(), itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}

    async def run(self) -> None:
        pause, code, headers = 0.1, None, {"Authorization": f"Bearer {self.key}"}
        while code not in FOR_GOOD:
            with suppress(OSError, InvalidHandshake):
                async with connect(self.url, additional_headers=headers, max_size=None, compression=None) as self._wire:
                    others = [asyncio.create_task(act) for act in (self._introduce(), self._beat())]
                    with suppress(ConnectionClosed):
                        async for text in self._wire:
                            pause = 0.1
                            self._take(json.loads(text))
                    for task in others:
                        task.cancel()
                    code = self._wire.close_code
            self.is_ready.clear()
            for future in [each for each in self._waiting.values() if not each.done()]:
                future.set_exception(ConnectionError("the connection broke"))
            await asyncio.sleep(random.uniform(0.5, 1) * pause)  # all agents come back, but not at once
            pause = min(pause * 2, 2.0)
        sys.exit(f"closed with {code}: {FOR_GOOD[code]}")

    async def embed(self, text: str) -> Any:
        while True:  # asks again where the connection broke: what was computed meanwhile is cached
            await self.is_ready.wait()
            try:
                return await self._call("embedding.generate", input=text, encoding="base64")
            except (ConnectionClosed, ConnectionError):
                await asyncio.sleep(0.01)

    async def _introduce(self) -> None:
        found = await self._call("agent.register", agent_id=self.agent_id, last_event_id=self.last_event_id)
        self.last_event_id = found["event_id"]
        await self._call("subscribe", topics=["models", "quotas", "budgets", "breakers"])
        self.is_ready.set()

    async def _beat(self) -> None:
        while await asyncio.sleep(20, True):
            await self._call("ping")

    async def _call(self, method: str, **params: Any) -> Any:
        id = next(self._ids)
        future = self._waiting[id] = asyncio.get_running_loop().create_future()
        await self._wire.send(json.dumps({"jsonrpc": "2.0", "id": id, "method": method, "params": params}))
        said = await future
        if "error" not in said:
            return said["result"]
        if "retry_after" not in said["error"].get("data", {}):
            raise RuntimeError(f"{said['error']['code']}: {said['error']['message']}")
        await asyncio.sleep(said["error"]["data"]["retry_after"])
        return await self._call(method, **params)

    def _take(self, said: dict[str, Any]) -> None:
        if "method" in said:
            self.last_event_id = said["params"].get("event_id", self.last_event_id)
            print("news:", said["method"], json.dumps(said["params"]), flush=True)
        elif (future := self._waiting.pop(said["id"], None)) and not future.done():
            future.set_result(said)


async def main() -> None:
    agent = Agent(sys.argv[1], os.environ["QUIVER_API_KEY"], sys.argv[2])
    running = asyncio.create_task(agent.run())
    while line := (await asyncio.to_thread(sys.stdin.readline)).strip():
        embedding = asyncio.create_task(agent.embed(line))
        await asyncio.wait([running, embedding], return_when=asyncio.FIRST_COMPLETED)
        found = running.result() if running.done() else embedding.result()
        print(found["model"], found["quiver"]["request_id"], found["data"][0]["embedding"][:16], flush=True)


if __name__ == "__main__":
    asyncio.run(main())
