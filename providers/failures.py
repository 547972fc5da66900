"""What a provider's failure means: the one place that knows.

Decides, for each kind of failure, whose fault it is, whether the same route may be tried again, whether another
route may help, and whether it speaks against the provider's health. Adapters name the kind (`classify_status`,
`ProviderFailure`), the gateway obeys the meaning. Sources: OpenAI's error codes guide, AWS Bedrock runtime's
common errors, Google's API error model.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from core import errors


class FailureKind(StrEnum):
    TEXT_REFUSED = "text_refused"  # 400: this input, not this provider
    TOO_LONG = "too_long"  # 400 that names the context length
    CREDENTIAL = "credential"  # 401, 403: our key is wrong, revoked or lacks the right
    MODEL_MISSING = "model_missing"  # 404, 410: the vendor does not know the model (any more)
    CAPACITY = "capacity"  # 429: no room for us now
    QUOTA = "quota"  # 429 insufficient_quota: our account there has no money
    UNREACHABLE = "unreachable"  # DNS, refused, TLS: nothing was sent
    SERVER = "server"  # 5xx
    DISCONNECTED = "disconnected"  # the connection broke after the request was sent
    TIMEOUT = "timeout"  # no complete answer in time
    BAD_ANSWER = "bad_answer"  # 200 with something that is not N right vectors
    BUSY = "busy"  # no slot of ours became free in time; nothing was sent


@dataclass(frozen=True, slots=True)
class Meaning:
    callers_fault: bool  # would fail anywhere: tell the caller, try nothing else
    retry_same: bool  # another try on the same route may help
    other_route: bool  # another provider or credential may help
    unhealthy: bool  # counts in the breaker
    maybe_billed: bool  # the vendor may charge for it
    public: type[errors.QuiverError]  # what the caller sees when nothing is left to try


MEANING: dict[FailureKind, Meaning] = {
    FailureKind.TEXT_REFUSED: Meaning(True, False, False, False, False, errors.InvalidRequest),
    FailureKind.TOO_LONG: Meaning(True, False, False, False, False, errors.ContextLengthExceeded),
    FailureKind.CREDENTIAL: Meaning(False, False, True, True, False, errors.ProviderError),
    FailureKind.MODEL_MISSING: Meaning(False, False, True, True, False, errors.ProviderError),
    FailureKind.CAPACITY: Meaning(False, True, True, False, False, errors.ProviderCapacity),
    FailureKind.QUOTA: Meaning(False, False, True, False, False, errors.ProviderCapacity),
    FailureKind.UNREACHABLE: Meaning(False, True, True, True, False, errors.ProviderError),
    FailureKind.SERVER: Meaning(False, True, True, True, False, errors.ProviderError),
    FailureKind.DISCONNECTED: Meaning(False, True, True, True, True, errors.ProviderError),
    FailureKind.TIMEOUT: Meaning(False, False, True, True, True, errors.ProviderTimeout),
    FailureKind.BAD_ANSWER: Meaning(False, False, True, True, True, errors.ProviderError),
    FailureKind.BUSY: Meaning(False, False, True, False, False, errors.ProviderCapacity),
}


class ProviderFailure(Exception):
    """One upstream call failed. `detail` is for logs and rows: cut, and free of secrets and of texts."""

    def __init__(
        self,
        kind: FailureKind,
        detail: str,
        *,
        status: int | None = None,
        retry_after: float | None = None,
        upstream_id: str = "",
    ) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail[:200]
        self.status = status
        self.retry_after = retry_after  # seconds, as the vendor asked for
        self.upstream_id = upstream_id

    @property
    def meaning(self) -> Meaning:
        return MEANING[self.kind]
