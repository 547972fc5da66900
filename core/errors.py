"""The one tree of errors that Quiver shows to anybody outside.

Owns status, code, kind and retryability of each. Doors (`/v1`, `/api/v1`, sockets) only translate; what a
vendor's failure means is decided in `providers/failures.py`, which ends in one of these as well.

    QuiverError
    ├── RequestError                    the caller can mend it; the same request again fails again
    │   ├── InvalidRequest          400 invalid_request
    │   │   ├── UnknownField        400 unknown_field
    │   │   ├── ContextLengthExceeded 400 context_length_exceeded
    │   │   ├── DimensionsNotSupported 400 dimensions_not_supported
    │   │   └── NotSupported        400 not_supported
    │   ├── InvalidApiKey           401 invalid_api_key
    │   ├── PaymentRequired         402 -
    │   │   ├── QuotaExceeded       402 quota_exceeded
    │   │   ├── BudgetExceeded      402 budget_exceeded
    │   │   └── ModelUnpriced       402 model_unpriced
    │   ├── KeyNotPermitted         403 key_not_permitted
    │   ├── TenantSuspended         403 tenant_suspended
    │   ├── NotFound                404 not_found
    │   │   └── ModelNotConfigured  404 model_not_configured
    │   ├── MethodNotAllowed        405 method_not_allowed
    │   ├── Conflict                409 conflict
    │   │   ├── AlreadyExists       409 already_exists
    │   │   ├── InUse               409 in_use
    │   │   ├── IllegalTransition   409 illegal_transition
    │   │   └── IdempotencyInProgress 409 idempotency_in_progress
    │   ├── PreconditionFailed      412 precondition_failed
    │   ├── RequestTooLarge         413 request_too_large
    │   ├── UnsupportedMediaType    415 unsupported_media_type
    │   ├── SpaceMismatch           422 space_mismatch
    │   ├── IdempotencyMismatch     422 idempotency_mismatch
    │   ├── ValidationFailed        422 validation_failed
    │   └── RateLimitExceeded       429 rate_limit_exceeded
    └── ServiceError                    ours or a provider's; the same request may succeed later
        ├── InternalError           500 internal_error
        ├── ProviderError           502 provider_error
        ├── ProviderCapacity        503 provider_capacity
        ├── NoModelAvailable        503 no_model_available
        ├── LedgerUnavailable       503 ledger_unavailable
        ├── LimitsUnavailable       503 limits_unavailable
        ├── BreakersUnavailable     503 breakers_unavailable
        ├── Starting                503 starting
        ├── Draining                503 draining
        └── ProviderTimeout         504 provider_timeout
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar


class QuiverError(Exception):
    """Base of all public errors.

    `message` is read by people and may name fields and models, never a secret or a text of the caller.
    `param` is the caller's own name of the offending field, `extra` goes into the body beside the code.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = ""  # empty: an inner node of the tree, never raised
    kind: ClassVar[str] = "server_error"  # OpenAI's word for the family, `error.type` on the wire
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        retry_after: int | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after  # whole seconds
        self.extra: Mapping[str, Any] = extra or {}


class RequestError(QuiverError):
    kind = "invalid_request_error"


class InvalidRequest(RequestError):
    """A field is missing, malformed or out of range; `param` names it."""

    status, code = 400, "invalid_request"


class UnknownField(InvalidRequest):
    """The request carries a field that Quiver does not know; it is never ignored silently."""

    code = "unknown_field"


class ContextLengthExceeded(InvalidRequest):
    """A text is longer than the model takes; send `truncate: end` or split it."""

    code = "context_length_exceeded"


class DimensionsNotSupported(InvalidRequest):
    """The model cannot answer with this many dimensions."""

    code = "dimensions_not_supported"


class NotSupported(InvalidRequest):
    """A documented field or header that this build does not serve yet."""

    code = "not_supported"


class InvalidApiKey(RequestError):
    """No key, a mistyped, unknown, revoked or expired one."""

    status, code, kind = 401, "invalid_api_key", "authentication_error"


class PaymentRequired(RequestError):
    status, kind = 402, "insufficient_quota"


class QuotaExceeded(PaymentRequired):
    """A limit does not allow this request; `quota_type` says which kind, `request` is the caller's `max_cost_usd`."""

    code = "quota_exceeded"


class BudgetExceeded(PaymentRequired):
    """A budget (a limit in USD) does not allow this request; it says so like `quota_exceeded`."""

    code = "budget_exceeded"


class ModelUnpriced(PaymentRequired):
    """The model has no price in force and the tenant has not opted in to unpriced models."""

    code = "model_unpriced"


class KeyNotPermitted(RequestError):
    """The key is valid but its scopes, models, addresses or agent do not allow this."""

    status, code, kind = 403, "key_not_permitted", "permission_error"


class TenantSuspended(RequestError):
    """The tenant is suspended by the platform's operator; its data is kept."""

    status, code, kind = 403, "tenant_suspended", "permission_error"


class NotFound(RequestError):
    """There is no such thing, or it is not the caller's."""

    status, code, kind = 404, "not_found", "not_found_error"


class ModelNotConfigured(NotFound):
    """The tenant has not configured a model of this name; `suggested_models` lists what it may use."""

    code = "model_not_configured"


class MethodNotAllowed(RequestError):
    """The path exists, the method does not."""

    status, code = 405, "method_not_allowed"


class Conflict(RequestError):
    """The state of a row does not allow this now."""

    status, code, kind = 409, "conflict", "conflict_error"


class AlreadyExists(Conflict):
    """A row with the same name or identity exists already."""

    code = "already_exists"


class InUse(Conflict):
    """The row is used by others and cannot be deleted."""

    code = "in_use"


class IllegalTransition(Conflict):
    """The lifecycle has no such edge; the message names the legal ones."""

    code = "illegal_transition"


class IdempotencyInProgress(Conflict):
    """The request with this `Idempotency-Key` is still under way; ask again after `retry_after` seconds."""

    code, retryable = "idempotency_in_progress", True


class PreconditionFailed(RequestError):
    """What `If-Match` names is not what the row is now; GET it again, look at what changed, and send its new `ETag`."""

    status, code, kind = 412, "precondition_failed", "conflict_error"


class RequestTooLarge(RequestError):
    """The body is larger than this server takes."""

    status, code = 413, "request_too_large"


class UnsupportedMediaType(RequestError):
    """The body is not `application/json`."""

    status, code = 415, "unsupported_media_type"


class SpaceMismatch(RequestError):
    """The answer would not be in the vector space that `X-Require-Embedding-Space` asks for."""

    status, code = 422, "space_mismatch"


class IdempotencyMismatch(RequestError):
    """This `Idempotency-Key` came with another request in the last 24 hours; a new request needs a new key."""

    status, code = 422, "idempotency_mismatch"


class ValidationFailed(RequestError):
    """A model did not pass its probes; `probes` lists those that failed."""

    status, code = 422, "validation_failed"


class RateLimitExceeded(RequestError):
    """Too many requests; wait `retry_after` seconds."""

    status, code, kind, retryable = 429, "rate_limit_exceeded", "rate_limit_error", True


class ServiceError(QuiverError):
    kind, retryable = "server_error", True


class InternalError(ServiceError):
    """A defect of Quiver's; the request id finds it in the log."""

    status, code, retryable = 500, "internal_error", False


class ProviderError(ServiceError):
    """Every provider that may answer failed; Quiver has moved through all of them already."""

    status, code = 502, "provider_error"


class ProviderCapacity(ServiceError):
    """The provider is out of capacity for us and nothing else is left to try."""

    status, code = 503, "provider_capacity"


class NoModelAvailable(ServiceError):
    """No model that may answer is usable now; `dropped` says why for each."""

    status, code = 503, "no_model_available"


class LedgerUnavailable(ServiceError):
    """The ledger cannot be written; nothing is answered that was not booked."""

    status, code = 503, "ledger_unavailable"


class LimitsUnavailable(ServiceError):
    """Neither Redis nor PostgreSQL can say whether a hard limit allows the request; no provider was called."""

    status, code = 503, "limits_unavailable"


class BreakersUnavailable(ServiceError):
    """Redis, through which all processes share their breakers, cannot be asked; requests go on without it."""

    status, code = 503, "breakers_unavailable"


class Starting(ServiceError):
    """This process does not have its configuration yet."""

    status, code = 503, "starting"


class Draining(ServiceError):
    """This process is stopping; another one will answer."""

    status, code = 503, "draining"


class ProviderTimeout(ServiceError):
    """The deadline passed before a provider answered."""

    status, code = 504, "provider_timeout"


def public_errors(root: type[QuiverError] = QuiverError) -> Iterator[type[QuiverError]]:
    """All errors with a code, in the order of the tree."""
    if root.code:
        yield root
    for child in root.__subclasses__():
        yield from public_errors(child)
