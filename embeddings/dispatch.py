"""Makes the calls that `batching.py` decides on, and gives each request its part of what they brought.

Owns the slots of each provider, the tasks of calls under way, what happens to a call that is refused for one text
(`bisecting.py`), and each member's share of tokens. What one call is (adapter, check, breaker) is `send`'s; what a part
costs, and what to do with one whose request has gone, is the gateway's.

A call that was sent is never cancelled. A request that goes away leaves its calls running and takes back what was not
sent; once they have ended, `when_gone` gets its part, to be settled and cached.

Failure: a call fails → every request in it is told and takes back what was not sent; no slot before a request's
deadline → BUSY for that request, nothing was sent; a deadline that passes while a shared call runs → TIMEOUT, and the
rest goes to `when_gone`. A defect in `send` fails the call's requests and frees the slot.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from billing.sharing import split_exactly
from catalog.deployments import Deployment
from core import metrics
from core.clock import unix_ms
from embeddings import bisecting
from embeddings.batching import Batch, Job, Lane, Piece, Queue
from embeddings.tokens import CL100K
from providers.base import Endpoint, InputType, Vectors
from providers.failures import FailureKind, ProviderFailure

log = logging.getLogger(__name__)

Items = Sequence[str] | Sequence[Sequence[int]]
_LEAST_TIME_S = 0.002  # below it a call cannot succeed, so it is not paid for
_MOST_LANES = 4096


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Upstream(Lane):
    """A lane as a call needs it: where to, which model, which width, what for, and whether texts or token arrays."""

    endpoint: Endpoint
    deployment: Deployment
    width: int
    input_type: InputType | None
    takes_tokens: bool


@dataclass(frozen=True, slots=True)
class Sent:
    """What one call brought: vectors that passed the check, row i for item i."""

    vectors: Vectors
    tokens: int | None  # the provider's count; None: it gave none
    upstream_id: str = ""


class Send(Protocol):
    async def __call__(self, lane: Upstream, items: Items, *, timeout_s: float) -> Sent:
        """Makes one call. Raises `ProviderFailure`."""
        ...


@dataclass(frozen=True, slots=True)
class CallShare:
    """One call as far as one request had a part in it: what its `CallRecord` needs."""

    endpoint: Endpoint
    items: int  # of this request
    items_in_call: int
    tokens: int | None  # this request's share of the provider's count
    created_ms: int
    latency_ms: float
    upstream_id: str
    failure: ProviderFailure | None


@dataclass(slots=True)
class Part:
    """What came of one request's texts.

    `vectors` has a row for each text; rows of texts that `failed`, or were not sent, are zeros. With `failure` the
    request as a whole has failed (its `failed` names the text, where one is to blame). `tokens` is None where a call
    gave no count. `is_running`: calls are still under way, and the final part goes to `when_gone`.
    """

    vectors: Vectors
    tokens: int | None
    calls: list[CallShare]
    failed: dict[int, ProviderFailure] = field(default_factory=dict)
    failure: ProviderFailure | None = None
    answered: list[bool] = field(default_factory=list)  # per text: whether its row is a vector
    is_running: bool = False


@dataclass(slots=True, eq=False)
class _Ticket(Job):
    """A job with everything that is to come of it."""

    lane: Upstream
    items: Items = ()
    deadline: float = 0.0
    partial: bool = False
    when_gone: Callable[[Part], None] | None = None
    waiter: asyncio.Future[Part] | None = None
    part: Part = field(default_factory=lambda: Part(_NOTHING, 0, []))
    under_way: int = 0  # texts in calls that have not ended
    timer: asyncio.TimerHandle | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing more of it is to be sent."""
        return self.part.failure is not None or self.waiter is None or self.waiter.done()


_NOTHING: Vectors = np.empty((0, 0), np.float32)


@dataclass(slots=True, eq=False)
class _Pool:
    """The slots of one provider."""

    queue: Queue
    observe_items: Callable[[float], None]
    observe_wait: Callable[[float], None]
    timer: asyncio.TimerHandle | None = None
