"""The one thread for work above a millisecond, so that it does not stand in the event loop's way.

Bounds how much of a process such work may take: one job at a time, the others wait in order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="heavy")  # starts with its first job


async def off_loop(work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Runs `work` in the thread. A caller that goes away takes its job out of the queue, unless it runs already."""
    return await asyncio.wrap_future(_thread.submit(work, *args, **kwargs))
