"""Has texts computed by one candidate: its credentials in turn, retries within the budget, and what came put in place.

Owns which route is asked next and what becomes of each part of an answer: its rows, items that failed alone, the count.
Whether a route may be called and when, and what goes into one call, is decided by `breaker.py`, `batching.py`.

Failure: one that another route may help raises `Next`; the caller's own fault and a passed deadline end the request.
What was computed before a failure stays computed for this request; it is cached and shared only once somebody is
charged for it, or failing on purpose would be a way to embed for nothing.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence

from core.errors import NoModelAvailable, ProviderTimeout, QuiverError
from embeddings.breaker import Verdict
from embeddings.calls import Part
from embeddings.gathering import Gathered
from embeddings.ports import Board, Dispatch
from embeddings.records import call_record
from embeddings.requests import EmbeddingRequest
from embeddings.retrying import Retries, pause
from embeddings.routes import route_key
from embeddings.selection import Candidate
from embeddings.tokens import CL100K, likely
from embeddings.work import Next, Work, with_attempts
from providers.base import Endpoint
from providers.failures import FailureKind, ProviderFailure

_LEAST_TIME_S = 0.002  # below it a call cannot succeed, so it is not paid for


class Computing:
    def __init__(self, *, dispatch: Dispatch, board: Board) -> None:
        self._dispatch = dispatch
        self._board = board
        self._retries = Retries()
        self._turn = 0

    def began(self) -> None:
        """Counts a request: so many more retries are allowed."""
        self._retries.request(time.monotonic())

    def check(self, work: Work, candidate: Candidate) -> None:
        """Raises `Next` when no route of this candidate may be called now; so nothing is held for it in vain."""
        deployment = candidate.choice.deployment
        refused = None
        for endpoint in candidate.choice.endpoints:
            admission = self._board.admit(route_key(endpoint, deployment.identifier))
            if admission.verdict is not Verdict.NOT_NOW:
                return
            if refused is None or admission.retry_after_s < refused.retry_after_s:
                refused = admission
        if refused is not None:
            work.trace.tried(candidate, FailureKind.NOT_NOW.value, time.monotonic())
            raise Next(
                NoModelAvailable(
                    f"{deployment.name} at {deployment.provider} is not called now: {refused.reason}.",
                    retry_after=max(1, round(refused.retry_after_s)),
                )
            )

    def statistics(self) -> dict[str, int]:
        return {"retries": self._retries.statistics()["retries"]}

    async def compute(self, work: Work, candidate: Candidate, gathered: Gathered, mine: list[int]) -> None:
        """Has these texts computed by the candidate's provider, with one credential after the other."""
        error: QuiverError = NoModelAvailable("No provider could be called.")
        for endpoint in self._rotated(candidate.choice.endpoints):
            while mine:
                if work.call.deadline - time.monotonic() < _LEAST_TIME_S:
                    raise with_attempts(ProviderTimeout("The deadline passed before a provider answered."), work.trace)
                failure = await self._ask(work, candidate, endpoint, gathered, mine)
                if failure is None:
                    return
                error = _translated(failure, candidate, work.request)
                if not failure.meaning.other_route:
                    raise with_attempts(error, work.trace)
                mine = [index for index in mine if gathered.rows[index] is None]
                if not await self._may_retry(work, failure):
                    break
        raise Next(error)

    async def _ask(
        self,
        work: Work,
        candidate: Candidate,
        endpoint: Endpoint,
        gathered: Gathered,
        mine: list[int],
    ) -> ProviderFailure | None:
        """One turn on one route. What came is kept, also when something failed; returns what failed."""
        started, deployment = time.monotonic(), candidate.choice.deployment
        items, counts = gathered.pick(mine)
        part = await self._dispatch.submit(
            self._dispatch.lane(
                endpoint,
                deployment,
                width=candidate.dimensions,
                input_type=work.request.input_type,
                takes_tokens=not isinstance(items[0], str),
            ),
            items,
            counts,
            tenant=work.call.snapshot.config.tenant_id.int,  # a UUID takes long to hash, and this is a key seven times
            deadline=work.call.deadline,
            partial=work.request.is_partial,
        )
        work.trace.calls += [
            call_record(work.call, candidate, share)
            for share in part.calls
            if share.failure is None or share.failure.was_sent
        ]
        self._take(work, candidate, gathered, mine, part)
        failure = _blamed(part, mine)
        work.trace.tried(candidate, failure.kind.value if failure else "ok", started)
        return failure

    def _take(self, work: Work, candidate: Candidate, gathered: Gathered, mine: list[int], part: Part) -> None:
        """Puts what a part brought where it belongs: rows, items that failed alone, the bill."""
        if len(part.vectors) == len(gathered.rows) and all(part.answered):  # then `mine` are all, in order
            came = mine
            work.fresh = dict(zip(gathered.names, part.vectors, strict=True))
            gathered.fill_all(part.vectors)
        else:
            came = [mine[place] for place, is_there in enumerate(part.answered) if is_there]
            vectors = part.vectors if len(came) == len(part.vectors) else part.vectors[part.answered]
            fresh = dict(zip([gathered.names[index] for index in came], vectors, strict=True))
            work.fresh |= fresh
            gathered.fill(fresh, is_shared=False)
        if part.failed and part.failure is None:
            gathered.fail(
                {gathered.names[mine[p]]: _refused_item(f, candidate, mine[p]) for p, f in part.failed.items()}
            )
        if not came:
            return
        if part.tokens is None or work.told_tokens is None:
            work.told_tokens = None
            work.tokens += _estimated(candidate, gathered, came)
        else:
            work.told_tokens += part.tokens
            work.tokens += part.tokens

    async def _may_retry(self, work: Work, failure: ProviderFailure) -> bool:
        """Whether the same route is tried again; waits as long as that needs."""
        wait = pause(
            failure,
            self._retries,
            earlier_retries=work.retries,
            now=time.monotonic(),
            deadline=work.call.deadline,
            chance=random.random(),
        )
        if wait is None:
            return False
        work.retries += 1
        await asyncio.sleep(wait)
        return True

    def _rotated(self, endpoints: tuple[Endpoint, ...]) -> Sequence[Endpoint]:
        """All credentials of a provider, beginning with another one each time."""
        if len(endpoints) == 1:
            return endpoints
        self._turn += 1
        start = self._turn % len(endpoints)
        return endpoints[start:] + endpoints[:start]


def _blamed(part: Part, mine: Sequence[int]) -> ProviderFailure | None:
    """The failure of a part, with the caller's own index where one text is to blame."""
    failure = part.failure
    if failure is not None and len(part.failed) == 1 and failure.meaning.callers_fault:
        failure.index = mine[next(iter(part.failed))]
    return failure


def _estimated(candidate: Candidate, gathered: Gathered, indexes: Sequence[int]) -> int:
    """What a provider that gives no count most likely counted."""
    if candidate.choice.deployment.tokenizer == CL100K:
        return gathered.tokens_of(indexes)
    return likely(sum(len(item.encode()) for i in indexes if isinstance(item := gathered.items[i], str)))


def _translated(failure: ProviderFailure, candidate: Candidate, request: EmbeddingRequest) -> QuiverError:
    """A provider's failure in our own words: its kind, never its text."""
    deployment, public = candidate.choice.deployment, failure.meaning.public
    if failure.meaning.callers_fault:
        index = 0 if request.items == 1 else failure.index
        extra = {} if index is None else {"index": index}
        return public(f"{deployment.name} refused this input ({failure.kind.value}).", param="input", extra=extra)
    return public(
        f"{deployment.name} at {deployment.provider} failed ({failure.kind.value}).",
        retry_after=max(1, round(failure.retry_after or 1)),
    )


def _refused_item(failure: ProviderFailure, candidate: Candidate, index: int) -> QuiverError:
    return failure.meaning.public(
        f"{candidate.choice.deployment.name} refused `input[{index}]` ({failure.kind.value}).",
        param="input",
        extra={"index": index},
    )
