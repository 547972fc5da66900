"""One call over HTTP, from a prepared request to an `EmbedAnswer`: the part that is alike for every vendor.

Owns the order (send, classify, read), where an answer is read (large ones off the loop), and the reading of JSON
numbers as float32. Leaves the form of requests and answers to each vendor's adapter, the meaning of failures to
`failures.py`, right width and soundness of vectors to `answers.py`.

Failure: every one is a `ProviderFailure`; nothing is retried here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np

from core.clock import utc_now
from providers.base import EmbedAnswer, EmbedCall, Vectors
from providers.failures import FailureKind, ProviderFailure, classify_status
from providers.heavy import off_loop
from providers.http_client import Answer, HttpClient

MAX_INLINE_BYTES = 300 * 1024  # a larger answer may take more than a millisecond to read: off the loop
MAX_PLAUSIBLE_TOKENS = 100_000_000  # per call; a count beyond it is nonsense, not a bill

_LEAST_CAP = 1024 * 1024
_BYTES_PER_NUMBER = 64  # a line of indented JSON, and some vendors tell each vector twice
_ECHO = 6  # some repeat the texts, at worst with every character escaped

FLOAT32 = np.dtype("<f4")
Read = Callable[[Answer, int], tuple[Vectors, int | None]]  # an answer and how many texts it is for

_encode = msgspec.json.Encoder().encode
_decode_floats = msgspec.json.Decoder(list[float]).decode


async def exchange(
    client: HttpClient,
    prepared: bytes,
    body: bytes,
    *,
    count: int,
    width: int,
    timeout_s: float,
    read: Read,
    id_header: bytes,
    word_header: bytes = b"",
) -> EmbedAnswer:
    """Sends one request for `count` texts and reads its answer, which may be as large as so many vectors of this
    width (0: not known) in the most wasteful JSON, and no larger. `id_header` carries the vendor's request id,
    `word_header` its word for an error, where that does not stand in the body."""
    most = _LEAST_CAP + count * width * _BYTES_PER_NUMBER + len(body) * _ECHO if width else None
    answer = await client.send(prepared, body, timeout_s=timeout_s, max_answer_bytes=most)
    upstream_id = answer.header(id_header)[:128]
    if answer.status != 200:
        raise _refusal(answer, upstream_id, word_header)
    try:
        if len(answer.body) <= MAX_INLINE_BYTES:
            vectors, tokens = read(answer, count)
        else:
            vectors, tokens = await off_loop(read, answer, count)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        # msgspec names the place and the type, never the value
        reason = str(error) if isinstance(error, msgspec.ValidationError) else "not JSON"
        raise _about(bad_answer(reason), answer, upstream_id) from None
    except ProviderFailure as failure:
        raise _about(failure, answer, upstream_id) from None
    return EmbedAnswer(vectors, tokens, upstream_id)


def texts_of(call: EmbedCall) -> list[str]:
    """The inputs, for a vendor that takes no token arrays."""
    texts = [text for text in call.inputs if isinstance(text, str)]
    if len(texts) != len(call.inputs):
        raise ProviderFailure(FailureKind.TEXT_REFUSED, "this provider takes texts, not token arrays")
    return texts


def encode(body: object) -> bytes:
    """JSON of a request body that holds texts."""
    try:
        return _encode(body)
    except UnicodeEncodeError:
        raise ProviderFailure(FailureKind.TEXT_REFUSED, "a text holds half a surrogate pair") from None


def read_rows(rows: Sequence[msgspec.Raw], count: int) -> Vectors:
    """Vectors from arrays of JSON numbers, one row each: `count` of them, of one width.

    Rows come undecoded and are decoded one by one, so that a huge answer does not hold the interpreter in one go.
    """
    if len(rows) != count:
        raise bad_answer(f"{count} vectors expected, {len(rows)} came")
    with np.errstate(over="ignore"):  # beyond float32 is infinity, which check_vectors refuses
        vectors = [_floats(row) for row in rows]
    if len({len(vector) for vector in vectors}) > 1:
        raise bad_answer("the vectors have different widths")
    if not vectors or not len(vectors[0]):
        raise bad_answer("the vectors are empty")
    return vectors[0].reshape(1, -1) if count == 1 else np.stack(vectors)


def _floats(row: msgspec.Raw) -> Vectors:
    numbers = _decode_floats(row)
    return np.fromiter(numbers, FLOAT32, len(numbers))


def plausible_tokens(counted: Any) -> int | None:
    """The vendor's count if it can be one, else None."""
    if type(counted) is float and counted.is_integer():  # protobuf's Struct has no integers
        counted = int(counted)
    if type(counted) is int and 0 < counted <= MAX_PLAUSIBLE_TOKENS:
        return counted
    return None


def bad_answer(detail: str) -> ProviderFailure:
    return ProviderFailure(FailureKind.BAD_ANSWER, detail)


def _about(failure: ProviderFailure, answer: Answer, upstream_id: str) -> ProviderFailure:
    failure.status, failure.upstream_id = answer.status, upstream_id
    return failure


def _refusal(answer: Answer, upstream_id: str, word_header: bytes) -> ProviderFailure:
    return classify_status(
        answer.status,
        answer.body,
        word=answer.header(word_header) if word_header else "",
        retry_after=answer.header(b"retry-after"),
        retry_after_ms=answer.header(b"retry-after-ms"),
        upstream_id=upstream_id,
        now=utc_now(),
    )
