"""One call to a provider, shared by the requests whose texts are in it: what each of them gets of it.

Owns the words between the dispatcher and the gateway (`Upstream`, `Sent`, `Part`), the split of vectors and of the
provider's token count over the members, and the search for the text for which a call was refused. Which texts go
together is `batching.py`, which half is tried next `bisecting.py`, what the call itself is `send`'s.

Failure: the call fails → every member is told, and takes back what it has not sent; refused for a text → that text
alone, and its request unless that takes partial answers; a defect in `send` → its members get it raised.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec
import numpy as np

from billing.sharing import split_exactly
from catalog.deployments import Deployment
from core.clock import unix_ms
from embeddings.batching import Batch, Job, Lane, Piece, Queue
from embeddings.bisecting import Bisection
from providers.base import Endpoint, InputType, Vectors
from providers.failures import FailureKind, ProviderFailure

log = logging.getLogger(__name__)

Items = Sequence[str] | Sequence[Sequence[int]]
LEAST_TIME_S = 0.002  # below it a call cannot succeed, so it is not paid for
NOTHING: Vectors = np.empty((0, 0), np.float32)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Upstream(Lane):
    """A lane as a call needs it: where to, which model, which width, what for, and whether texts or token arrays."""

    endpoint: Endpoint
    deployment: Deployment
    width: int
    input_type: InputType | None
    takes_tokens: bool


class Sent(msgspec.Struct, frozen=True, gc=False):
    """What one call brought: vectors that passed the check, row i for item i."""

    vectors: Vectors
    tokens: int | None  # the provider's count; None: it gave none
    upstream_id: str = ""


_NOTHING_SENT = Sent(NOTHING, None)


class Send(Protocol):
    async def __call__(self, lane: Upstream, items: Items, *, timeout_s: float) -> Sent:
        """Makes one call. Raises `ProviderFailure`."""
        ...


class CallShare(msgspec.Struct, frozen=True, gc=False):
    """One call as far as one request had a part in it: what its `CallRecord` needs."""

    endpoint: Endpoint
    items: int  # of this request
    items_in_call: int
    tokens: int | None  # this request's share of the provider's count
    created_ms: int
    latency_ms: float
    upstream_id: str
    failure: ProviderFailure | None


class Part(msgspec.Struct, eq=False):
    """What came of one request's texts.

    `vectors` has a row for each text; where `answered` is false (refused, or never sent) it is zeros. With `failure`
    the request as a whole has failed; `failed` names the texts that are to blame. `tokens` is None where a call gave no
    count. `is_running`: calls are still under way, and the final part goes to `when_gone`.
    """

    vectors: Vectors
    answered: list[bool]
    tokens: int | None = 0
    calls: list[CallShare] = msgspec.field(default_factory=list)
    failed: dict[int, ProviderFailure] = msgspec.field(default_factory=dict)
    failure: ProviderFailure | None = None
    is_running: bool = False

    @classmethod
    def unsent(cls, items: int, width: int, failure: ProviderFailure) -> Part:
        return cls(np.zeros((items, width), np.float32), [False] * items, failure=failure)


class Ticket(Job, eq=False, kw_only=True):
    """One request's texts on their way, and what has come of them so far."""

    lane: Upstream
    queue: Queue[Ticket]
    items: Items
    deadline: float
    partial: bool
    when_gone: Callable[[Part], None] | None
    waiter: asyncio.Future[Part]
    part: Part
    under_way: int = 0  # texts in calls that have not ended
    timer: asyncio.TimerHandle | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing more of it is to be sent: it has failed, or nobody waits for it."""
        return self.part.failure is not None or self.waiter.done()

    def fail(self, failure: ProviderFailure) -> None:
        """The request as a whole has failed; what is under way ends first."""
        self.part.failure = self.part.failure or failure
        self.queue.withdraw(self)

    def answer(self, start: int, rows: Vectors, tokens: int | None) -> None:
        part, stop = self.part, start + len(rows)
        if len(rows) == len(self.counts):
            part.vectors, part.answered = rows, [True] * len(rows)
        else:
            self.make_room()
            part.vectors[start:stop] = rows
            part.answered[start:stop] = [True] * len(rows)
        part.tokens = None if tokens is None or part.tokens is None else part.tokens + tokens

    def make_room(self) -> None:
        if not self.part.answered:
            self.part.vectors = np.zeros((len(self.counts), self.lane.width), np.float32)
            self.part.answered = [False] * len(self.counts)

    def advance(self) -> None:
        """Gives the part to whom it belongs, once it is complete."""
        if self.under_way or (self.waiting and not self.is_over):
            return
        self.make_room()
        if not self.waiter.done():
            self.waiter.set_result(self.part)
        else:
            self.hand_over()

    def hand_over(self) -> None:
        """The request has gone, or was told something else meanwhile."""
        tell, self.when_gone = self.when_gone, None  # once
        if tell is None:
            return
        try:
            tell(self.part)
        except Exception:
            log.exception("what came too late for its request could not be settled")


class SharedCall:
    """The work of one slot: a call, and where it is refused for a text, those that find out which."""

    def __init__(
        self,
        batch: Batch[Ticket],
        send: Send,
        *,
        clock: Callable[[], float],
        observe_items: Callable[[float], None],
    ) -> None:
        self._batch = batch
        self._send = send
        self._clock = clock
        self._observe_items = observe_items
        self._open: dict[Ticket, int] = {}  # texts without an outcome
        for piece in batch.pieces:
            self._open[piece.job] = items = piece.stop - piece.start
            piece.job.under_way += items

    async def run(self) -> None:
        """Ends with an outcome for every text, whatever happens."""
        pieces = self._batch.pieces
        try:
            failure = await self._call(pieces, self._batch.items)
            if failure is None:
                return
            if failure.meaning.callers_fault and self._batch.items > 1:
                await self._bisect(pieces)
            else:
                self._refuse(pieces, failure, is_about_text=failure.meaning.callers_fault)
        except asyncio.CancelledError:
            self._give_up(ProviderFailure(FailureKind.DISCONNECTED, "broken off: this process is stopping"))
            raise
        except Exception as defect:
            log.exception("a defect in a call to %s", pieces[0].job.lane.endpoint.slug)
            for ticket, items in self._open.items():
                if items and not ticket.waiter.done():
                    ticket.waiter.set_exception(defect)
            self._give_up(ProviderFailure(FailureKind.BAD_ANSWER, f"a defect of ours: {type(defect).__name__}"))

    async def _bisect(self, pieces: Sequence[Piece[Ticket]]) -> None:
        bisection = Bisection([(piece.job, index) for piece in pieces for index in range(piece.start, piece.stop)])
        while (part := bisection.next_part()) is not None:
            for piece in _pieces([text for text in part if text[0].is_over]):
                self._close(piece)
            live = [text for text in part if not text[0].is_over]
            if not live:
                continue
            failure = await self._call(_pieces(live), len(live))
            if failure is None:
                bisection.accepted()
            elif not failure.meaning.callers_fault:
                self._refuse(_pieces(live), failure, is_about_text=False)
            elif not bisection.refused(live):
                self._refuse(_pieces(live), failure, is_about_text=len(live) == 1 or bisection.has_accepted)

    async def _call(self, pieces: Sequence[Piece[Ticket]], size: int) -> ProviderFailure | None:
        """Makes one call, writes it down for its members and hands out its vectors; or says why there are none."""
        lane = pieces[0].job.lane
        started = self._clock()
        deadline = pieces[0].job.deadline if len(pieces) == 1 else max(piece.job.deadline for piece in pieces)
        timeout_s = deadline - started
        if timeout_s < LEAST_TIME_S:
            return ProviderFailure(FailureKind.BUSY, "no time was left to send it")
        self._observe_items(size)
        created_ms = unix_ms()
        sent, failure = _NOTHING_SENT, None
        try:
            sent = await self._send(lane, _items(pieces), timeout_s=min(timeout_s, lane.endpoint.timeout_s))
        except ProviderFailure as told:
            failure = told
        latency_ms = round((self._clock() - started) * 1000, 3)
        upstream_id = sent.upstream_id if failure is None else failure.upstream_id
        row = 0
        for piece, tokens in zip(pieces, _shares(pieces, sent.tokens), strict=True):
            items = piece.stop - piece.start
            piece.job.part.calls.append(
                CallShare(lane.endpoint, items, size, tokens, created_ms, latency_ms, upstream_id, failure)
            )
            if failure is None:
                rows = sent.vectors if items == size else sent.vectors[row : row + items]
                piece.job.answer(piece.start, rows, tokens)
                self._close(piece)
            row += items
        return failure

    def _refuse(self, pieces: Sequence[Piece[Ticket]], failure: ProviderFailure, *, is_about_text: bool) -> None:
        """No vectors for these texts."""
        for piece in pieces:
            if is_about_text:
                piece.job.part.failed |= dict.fromkeys(range(piece.start, piece.stop), failure)
            if not (is_about_text and piece.job.partial):
                piece.job.fail(failure)
            self._close(piece)

    def _close(self, piece: Piece[Ticket]) -> None:
        """These texts have their outcome."""
        items = piece.stop - piece.start
        self._open[piece.job] -= items
        piece.job.under_way -= items
        piece.job.advance()

    def _give_up(self, failure: ProviderFailure) -> None:
        for ticket, items in self._open.items():
            if items:
                ticket.fail(failure)
                ticket.under_way -= items
                ticket.advance()


def _pieces(texts: Sequence[tuple[Ticket, int]]) -> list[Piece[Ticket]]:
    """Texts of a call, in order, as pieces; those of one ticket stand together."""
    found: list[Piece[Ticket]] = []
    for ticket, index in texts:
        if found and found[-1].job is ticket:
            found[-1] = Piece(ticket, found[-1].start, index + 1)
        else:
            found.append(Piece(ticket, index, index + 1))
    return found


def _items(pieces: Sequence[Piece[Ticket]]) -> Items:
    if len(pieces) == 1:
        piece = pieces[0]
        items = piece.job.items
        return items if piece.stop - piece.start == len(items) else items[piece.start : piece.stop]
    return [item for piece in pieces for item in piece.job.items[piece.start : piece.stop]]  # type: ignore[return-value]


def _shares(pieces: Sequence[Piece[Ticket]], tokens: int | None) -> Sequence[int | None]:
    """Each member's part of the provider's count, by the tokens that we counted."""
    if tokens is None or len(pieces) == 1:
        return [tokens] * len(pieces)
    return split_exactly(tokens, [sum(piece.job.counts[piece.start : piece.stop]) for piece in pieces])
