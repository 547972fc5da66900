"""One request under way: what it holds, what it has been counted, what was tried for it."""

from __future__ import annotations

import msgspec

from billing.limits import Hold
from core.errors import QuiverError
from embeddings.caller import Call
from embeddings.gathering import Vector
from embeddings.inflight import Claim
from embeddings.inputs import Inputs
from embeddings.records import Trace
from embeddings.requests import EmbeddingRequest


class Work(msgspec.Struct, gc=False):
    """One request under way."""

    request: EmbeddingRequest
    inputs: Inputs
    call: Call
    trace: Trace = msgspec.field(default_factory=Trace)
    hold: Hold | None = None
    tokens: int = 0  # counted for what the present candidate computed
    told_tokens: int | None = 0  # of them, what the provider itself said; None: it gave no count
    held_tokens: int = 0
    retries: int = 0  # on the route of the present candidate
    fresh: dict[bytes, Vector] = msgspec.field(default_factory=dict)  # what it computed, by name
    claim: Claim | None = None  # what others wait for meanwhile

    def begin(self) -> None:
        """Another candidate: what the one before it was counted or computed is the platform's."""
        self.tokens, self.told_tokens, self.held_tokens, self.retries = 0, 0, 0, 0
        self.fresh = {}
        self.let_go()

    def let_go(self) -> None:
        """Who waits for this request's texts embeds them itself."""
        if self.claim is not None:
            self.claim.close()
            self.claim = None


class Next(Exception):
    """The present candidate cannot answer; `error` is what to say if nobody else can."""

    def __init__(self, error: QuiverError) -> None:
        super().__init__(error.message)
        self.error = error


def with_attempts(error: QuiverError, trace: Trace) -> QuiverError:
    """The error with what was tried."""
    told = [{"model": a.model, "provider": a.provider, "outcome": a.outcome, "ms": a.ms} for a in trace.attempts]
    error.extra = {**error.extra, "attempts": told}
    return error
