"""What a provider's failure means: the one place that knows.

Decides, for each kind of failure, whose fault it is, whether the same route may be tried again, whether another
route may help, and whether it speaks against the provider's health. Adapters name the kind (`classify_status`,
`ProviderFailure`), the gateway obeys the meaning. Sources: OpenAI's error codes guide, the errors of Bedrock's
`InvokeModel` and AWS's common errors, Google's API error model (google.rpc.Code, ErrorInfo, RetryInfo).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any

import msgspec

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
        self.index: int | None = None  # of the text in the request, where the gateway knows which one it was

    @property
    def meaning(self) -> Meaning:
        return MEANING[self.kind]


MAX_RETRY_AFTER_S = 3600.0  # a vendor that asks for more is asked again after an hour
_MAX_ERROR_BODY = 64 * 1024  # longer ones are not error objects but pages

# What vendors call it, whatever status it comes with. A word that says no more than its status is not listed.
_BY_CODE = {
    # OpenAI: platform.openai.com/docs/guides/error-codes
    "context_length_exceeded": FailureKind.TOO_LONG,
    "string_above_max_length": FailureKind.TOO_LONG,
    "insufficient_quota": FailureKind.QUOTA,
    "billing_hard_limit_reached": FailureKind.QUOTA,
    "billing_not_active": FailureKind.QUOTA,
    "invalid_api_key": FailureKind.CREDENTIAL,
    "account_deactivated": FailureKind.CREDENTIAL,
    "model_not_found": FailureKind.MODEL_MISSING,
    "rate_limit_exceeded": FailureKind.CAPACITY,
    # Bedrock: docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_InvokeModel.html
    "ServiceQuotaExceededException": FailureKind.CAPACITY,  # comes as 400
    "ThrottlingException": FailureKind.CAPACITY,
    "ModelNotReadyException": FailureKind.CAPACITY,
    "ModelTimeoutException": FailureKind.TIMEOUT,  # comes as 408, after the model was at work
    "ModelErrorException": FailureKind.SERVER,
    "ServiceUnavailableException": FailureKind.SERVER,
    # AWS: docs.aws.amazon.com/awssupport/latest/APIReference/CommonErrors.html; these come as 400 or 403
    "AccessDeniedException": FailureKind.CREDENTIAL,
    "ExpiredTokenException": FailureKind.CREDENTIAL,
    "IncompleteSignature": FailureKind.CREDENTIAL,
    "IncompleteSignatureException": FailureKind.CREDENTIAL,
    "InvalidClientTokenId": FailureKind.CREDENTIAL,
    "InvalidSignatureException": FailureKind.CREDENTIAL,
    "MissingAuthenticationTokenException": FailureKind.CREDENTIAL,
    "OptInRequired": FailureKind.CREDENTIAL,
    "RequestExpired": FailureKind.CREDENTIAL,
    "SignatureDoesNotMatch": FailureKind.CREDENTIAL,
    "UnrecognizedClientException": FailureKind.CREDENTIAL,
    "UnknownOperationException": FailureKind.MODEL_MISSING,
    # Google: google.rpc.Code, and the reasons of google.api.ErrorReason, which are more precise
    "API_KEY_INVALID": FailureKind.CREDENTIAL,  # comes as 400 INVALID_ARGUMENT
    "BILLING_DISABLED": FailureKind.QUOTA,
    "FAILED_PRECONDITION": FailureKind.CREDENTIAL,  # 400: our account may not, from here or without billing
    "RESOURCE_EXHAUSTED": FailureKind.CAPACITY,
    "PERMISSION_DENIED": FailureKind.CREDENTIAL,
    "UNAUTHENTICATED": FailureKind.CREDENTIAL,
    "UNAVAILABLE": FailureKind.SERVER,
    "DEADLINE_EXCEEDED": FailureKind.SERVER,
    "INTERNAL": FailureKind.SERVER,
}
_BY_STATUS = {
    400: FailureKind.TEXT_REFUSED,
    413: FailureKind.TEXT_REFUSED,  # split: the part that is too large fails alone
    422: FailureKind.TEXT_REFUSED,
    401: FailureKind.CREDENTIAL,
    403: FailureKind.CREDENTIAL,
    402: FailureKind.QUOTA,
    404: FailureKind.MODEL_MISSING,
    405: FailureKind.MODEL_MISSING,
    410: FailureKind.MODEL_MISSING,
    429: FailureKind.CAPACITY,
    408: FailureKind.SERVER,  # the server's own trouble; OpenAI's clients retry 408 and 409
    409: FailureKind.SERVER,
    424: FailureKind.SERVER,  # text-embeddings-inference: its backend failed
    425: FailureKind.SERVER,
    499: FailureKind.SERVER,
}
# No vendor's embeddings endpoint has a code for a text that is too long, only a message. By line: OpenAI, vLLM and
# text-embeddings-inference; Titan, and Cohere on Bedrock (v3 by characters, 2048); Gemini and Vertex.
_TOO_LONG = re.compile(
    r"maximum (context|input|sequence) length|maximum input tokens|must have less than \d+ tokens"
    r"|too many input tokens|expected maxlength: \d+, actual|input is too long for requested model"
    r"|input token count .{0,40}(exceeds the maximum|but the model supports)"
)
# Bedrock answers a wrong model id with the same 400 as a wrong text. From the start: no caller's text stands there.
_NO_SUCH_MODEL = re.compile(r"the provided model identifier is invalid|invocation of model id ")
# A code is a word; what holds digits or dashes might be an echo of a key or of a text.
_WORD = re.compile(r"[A-Za-z_.]{1,48}")


def classify_status(
    status: int,
    body: bytes = b"",
    *,
    word: str = "",
    retry_after: str = "",
    retry_after_ms: str = "",
    upstream_id: str = "",
    now: datetime,
) -> ProviderFailure:
    """The failure that an HTTP answer other than a 200 stands for.

    Reads the error objects of OpenAI and its relatives (vLLM, text-embeddings-inference), AWS and Google; `word` is
    the vendor's name for the error where a header holds it. Of the body, `detail` keeps such words only: the message
    may echo a part of the key or of the text.
    """
    error = _error_of(body)
    words = [each for each in (word.partition(":")[0], *error.words) if each]
    kind = next((_BY_CODE[each] for each in words if each in _BY_CODE), None) or _BY_STATUS.get(status)
    if kind is None:
        kind = FailureKind.SERVER if status >= 500 else FailureKind.BAD_ANSWER
    if kind is FailureKind.TEXT_REFUSED:
        message = error.message.lower()
        if _TOO_LONG.search(message):
            kind = FailureKind.TOO_LONG
        elif _NO_SUCH_MODEL.match(message):
            kind = FailureKind.MODEL_MISSING
    told = " ".join(dict.fromkeys(each for each in reversed(words) if _WORD.fullmatch(each)))
    return ProviderFailure(
        kind,
        f"HTTP {status} {told}".rstrip(),
        status=status,
        retry_after=parse_retry_after(retry_after or error.retry_delay, milliseconds=retry_after_ms, now=now),
        upstream_id=upstream_id,
    )


def parse_retry_after(value: str, *, milliseconds: str = "", now: datetime) -> float | None:
    """Seconds to wait, from `Retry-After` (seconds or a date, RFC 9110 10.2.3) or OpenAI's `retry-after-ms`, which
    goes first. At most an hour; a date that has passed is 0; negative or garbage is None."""
    for text, scale in ((milliseconds, 0.001), (value, 1.0)):
        try:
            seconds = float(text) * scale
        except ValueError:
            continue
        return min(seconds, MAX_RETRY_AFTER_S) if seconds >= 0 and not math.isnan(seconds) else None
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    if moment.tzinfo is None:  # "-0000": the sender's zone is unknown, HTTP dates are in UTC
        moment = moment.replace(tzinfo=UTC)
    return min(max((moment - now).total_seconds(), 0.0), MAX_RETRY_AFTER_S)


@dataclass(frozen=True, slots=True)
class _Error:
    """What an error body says; empty where it says nothing."""

    words: tuple[str, ...] = ()  # the most precise first
    message: str = ""
    retry_delay: str = ""  # seconds; Google says it here, not in a header


def _error_of(body: bytes) -> _Error:
    if not body or len(body) > _MAX_ERROR_BODY:
        return _Error()
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _Error()
    if isinstance(found, list) and len(found) == 1:  # Google wraps it when it had begun to stream
        found = found[0]
    if not isinstance(found, dict):
        return _Error()
    inner = found.get("error")
    source: dict[str, Any] = inner if isinstance(inner, dict) else found
    message = inner if isinstance(inner, str) else source.get("message")
    details = source.get("details")
    reason, delay = "", ""
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, dict):
            reason = reason or _text(detail.get("reason"))
            delay = delay or _text(detail.get("retryDelay")).removesuffix("s")
    aws_word = _text(source.get("__type")).rpartition("#")[2]
    words = (source.get("code"), reason, source.get("status"), source.get("type") or source.get("error_type"), aws_word)
    return _Error(tuple(_text(word) for word in words), _text(message), delay)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
