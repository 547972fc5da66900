"""Answers of the data plane as bytes: OpenAI's form, with Quiver's own part beside it.

Owns the wire's form of answers and errors. Floats are written so that they read back to the same float32.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from math import ceil
from types import MappingProxyType
from typing import Any

import numpy as np
import orjson
import pybase64

from billing.limits import Hold
from catalog.deployments import Deployment
from core.errors import QuiverError
from core.money import usd_text
from embeddings.gateway import Answer
from providers.base import Vectors

Headers = list[tuple[bytes, bytes]]
# Outcomes of candidates that nothing was sent to: who waits for such a one may well succeed.
_NOT_CALLED = frozenset({"limit", "busy", "not_now", "not_callable"})
_NONE: Mapping[int, QuiverError] = MappingProxyType({})
_FLOATS = b'{"object":"embedding","index":%d,"embedding":'
_BASE64 = _FLOATS + b'"'
# Numbers of floats that take about a millisecond to write.
HEAVY_FLOATS, HEAVY_BASE64 = 32_768, 1_000_000


def write_data(
    vectors: Vectors, *, base64: bool, failed: Mapping[int, QuiverError] = _NONE
) -> list[bytes | memoryview]:
    """The items of the `data` array, in pieces, so that megabytes are put together once; an item that failed alone has
    its error in its place."""
    flat = np.ascontiguousarray(vectors, dtype="<f4")
    opening, closing = (_BASE64, b'"},') if base64 else (_FLOATS, b"},")
    written: list[bytes | memoryview] = []
    for index, text in enumerate(_base64(flat) if base64 else map(_floats, flat)):
        if index in failed:
            error = failed[index]
            told = {"object": "error", "index": index, "code": error.code, "message": error.message}
            written += (orjson.dumps(told), b",")
        else:
            written += (opening % index, text, closing)
    written[-1] = written[-1][:-1]
    return written


def _base64(flat: Vectors) -> Iterable[bytes | memoryview]:
    """Each row; all at once where rows end where a group of three bytes does."""
    size = 4 * flat.shape[1]
    if size % 3:
        return map(pybase64.b64encode, flat)
    text, size = memoryview(pybase64.b64encode(flat.data)), size // 3 * 4
    return [text[start : start + size] for start in range(0, len(text), size)]


def _floats(row: Vectors) -> bytes:
    return orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY)


def write_answer(answer: Answer, data: Sequence[bytes | memoryview]) -> bytes:
    return b"".join((b'{"object":"list","data":[', *data, b"],", orjson.dumps(about(answer))[1:]))


def about(answer: Answer) -> dict[str, Any]:
    """Everything but the vectors."""
    usage, deployment = answer.usage, answer.deployment
    rest: dict[str, Any] = {
        "model": deployment.name,
        "usage": {"prompt_tokens": usage.tokens, "total_tokens": usage.tokens},
        "quiver": {
            "provider": deployment.provider,
            "model": deployment.name,
            "space": deployment.space,
            "dimensions": answer.dimensions,
            "cost_usd": usd_text(usage.cost_nano),
            "cached": usage.cached,
            "attempts": [
                {"model": a.model, "provider": a.provider, "outcome": a.outcome, "ms": a.ms} for a in answer.attempts
            ],
            "request_id": usage.id,
        },
    }
    deprecation = deprecation_of(deployment)
    if deprecation is not None:
        rest["quiver"]["deprecation"] = deprecation
    return rest


def headers_of(answer: Answer) -> Headers:
    usage, deployment = answer.usage, answer.deployment
    headers = [
        *_headers_of_place(deployment.name, deployment.provider, deployment.space, answer.dimensions),
        (b"x-embedding-cost-usd", usd_text(usage.cost_nano).encode()),
        (b"x-embedding-cached", b"%d/%d" % (usage.cached, usage.items)),
        (b"x-embedding-attempts", b"%d" % len(answer.attempts)),
    ]
    if answer.hold is not None:
        headers += _left(answer.hold)
    if deployment.sunset_at is not None:
        headers.append((b"sunset", f"{deployment.sunset_at:%a, %d %b %Y %H:%M:%S} GMT".encode()))  # RFC 8594
    if deployment.deprecated_at is not None:
        headers.append((b"deprecation", b"@%d" % int(deployment.deprecated_at.timestamp())))  # RFC 9745
    if deployment.successor is not None:
        headers.append((b"link", f'</v1/models/{deployment.successor}>; rel="successor-version"'.encode()))
    return headers


@lru_cache(maxsize=4096)
def _headers_of_place(model: str, provider: str, space: str, dimensions: int) -> tuple[tuple[bytes, bytes], ...]:
    return (
        (b"x-embedding-model", model.encode()),
        (b"x-embedding-provider", provider.encode()),
        (b"x-embedding-space", space.encode()),
        (b"x-embedding-dimensions", b"%d" % dimensions),
    )


def _left(hold: Hold) -> Headers:
    """What is left of the tightest limits, as OpenAI says it; nothing where nothing limits."""
    headers: Headers = []
    for measure, word in (("requests", b"requests"), ("tokens", b"tokens")):
        found = hold.tightest(measure)
        if found is not None:
            headers += [
                (b"x-ratelimit-limit-" + word, b"%d" % found.limit),
                (b"x-ratelimit-remaining-" + word, b"%d" % found.remaining),
                (b"x-ratelimit-reset-" + word, b"%ds" % ceil(found.resets_s)),
            ]
    return headers


def deprecation_of(deployment: Deployment) -> dict[str, str | None] | None:
    if deployment.deprecated_at is None:
        return None
    return {
        "date": rfc3339(deployment.deprecated_at),
        "sunset": rfc3339(deployment.sunset_at),
        "successor": deployment.successor,
    }


def rfc3339(moment: datetime | None) -> str | None:
    return None if moment is None else moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def write_error(error: QuiverError, request_id: str) -> tuple[bytes, Headers]:
    """The body in OpenAI's form, and the headers that go with it."""
    extra: Mapping[str, Any] = error.extra
    body: dict[str, Any] = {
        "message": error.message,
        "type": error.kind,
        "code": error.code,
        "param": error.param,
        "request_id": request_id,
        **extra,
    }
    headers: Headers = []
    if error.retry_after is not None:
        body["retry_after"] = error.retry_after
        headers.append((b"retry-after", b"%d" % error.retry_after))
    called = [each for each in extra.get("attempts", ()) if each["outcome"] not in _NOT_CALLED]
    if error.status == 402 or (error.status in (502, 503, 504) and len(called) > 1):
        # Quiver has tried all there is; another try of the client's SDK would only multiply the calls.
        headers.append((b"x-should-retry", b"false"))
    elif error.status == 503 and error.code == "draining":
        headers.append((b"x-should-retry", b"true"))
    return orjson.dumps({"error": body}), headers
