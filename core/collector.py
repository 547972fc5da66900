"""Python's garbage collector in a process that serves requests.

What a request leaves behind is freed by counting references. The collector is for the few cycles beside that, and by
default looks for them after every 700 objects more than before: some times for each crowd of requests under way.
"""

from __future__ import annotations

import gc

_OBJECTS = 20_000  # more than some hundred requests under way need


def calm_collector() -> None:
    """To be called once, when everything that lives as long as the process is there: none of it is looked at again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_OBJECTS)
