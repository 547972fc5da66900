"""One upstream call: the adapter, the breaker before and after it, the check of what came.

Owns that no vector leaves here unchecked, and that every call is told to the breaker of its route, once. When calls are
made, and for whom, is `dispatch.py`'s.

Failure: every one is a `ProviderFailure`; a route that must not be called now is one of the kind NOT_NOW, and nothing
was sent.
"""

from __future__ import annotations

import time
from typing import Protocol

from embeddings.breaker import GO, Admission, Outcome, Permit, Verdict
from embeddings.calls import Items, Sent, Upstream
from embeddings.routes import route_key
from providers.answers import check_vectors
from providers.base import EmbedCall, Endpoint, EndpointRefused, Provider
from providers.failures import FailureKind, ProviderFailure

_NO_MONEY_S = 60.0  # an account without money has it no sooner


class ProvidersPort(Protocol):
    def get(self, endpoint: Endpoint) -> Provider: ...


class BoardPort(Protocol):
    def admit(self, route: str) -> Admission: ...
    async def probe(self, route: str) -> Permit | None: ...
    def report(
        self,
        route: str,
        outcome: Outcome,
        ms: float,
        *,
        retry_after_s: float | None = None,
        permit: Permit | None = None,
    ) -> None: ...
    def release(self, permit: Permit) -> None: ...


class Sender:
    """What the dispatcher calls for each call."""

    def __init__(self, providers: ProvidersPort, board: BoardPort) -> None:
        self._providers = providers
        self._board = board

    async def __call__(self, lane: Upstream, items: Items, *, timeout_s: float) -> Sent:
        route = route_key(lane.endpoint, lane.deployment.identifier)
        permit = None
        admission = self._board.admit(route)
        if admission is not GO:
            permit = await self._permit(route, admission)
        started = time.monotonic()
        try:
            sent = await self._call(lane, items, timeout_s)
        except ProviderFailure as failure:
            self._board.report(route, _outcome(failure), _ms(started), retry_after_s=_wait(failure), permit=permit)
            raise
        except BaseException:
            if permit is not None:
                self._board.release(permit)
            raise
        self._board.report(route, Outcome.OK, _ms(started), permit=permit)
        return sent

    async def _permit(self, route: str, admission: Admission) -> Permit:
        if admission.verdict is Verdict.NOT_NOW:
            raise ProviderFailure(FailureKind.NOT_NOW, admission.reason, retry_after=admission.retry_after_s)
        permit = await self._board.probe(route)
        if permit is None:
            raise ProviderFailure(FailureKind.NOT_NOW, "it is being tried out by others", retry_after=1.0)
        return permit

    async def _call(self, lane: Upstream, items: Items, timeout_s: float) -> Sent:
        deployment, width = lane.deployment, lane.width
        is_cut = width != deployment.dimensions
        try:
            provider = self._providers.get(lane.endpoint)
        except EndpointRefused as refused:
            raise ProviderFailure(FailureKind.NOT_CALLABLE, str(refused)) from None
        call = EmbedCall(
            identifier=deployment.identifier,
            inputs=items,
            width=width,
            dimensions=width if is_cut and deployment.takes_dimensions else None,
            input_type=lane.input_type,
        )
        answer = await provider.embed(call, timeout_s=timeout_s)
        vectors = check_vectors(answer.vectors, count=len(items), width=width, cut=is_cut and deployment.is_matryoshka)
        return Sent(vectors, answer.tokens, answer.upstream_id)


def _outcome(failure: ProviderFailure) -> Outcome:
    meaning = failure.meaning
    if failure.kind in (FailureKind.CAPACITY, FailureKind.QUOTA):
        return Outcome.CAPACITY
    return Outcome.FAILED if meaning.unhealthy else Outcome.CALLER


def _wait(failure: ProviderFailure) -> float | None:
    if failure.kind is FailureKind.QUOTA and failure.retry_after is None:
        return _NO_MONEY_S
    return failure.retry_after


def _ms(started: float) -> float:
    return (time.monotonic() - started) * 1000
