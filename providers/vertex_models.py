"""How Vertex AI's embedding models are asked and how they answer: which method, which body, where vectors and counts
stand. Pure.

Two methods. `:predict` {instances, parameters} serves the text models and gemini-embedding-001; gemini-embedding-2 is
served by `:embedContent` only, one text at a time. Both truncate unless told not to: `autoTruncate` is always false,
and an answer that admits to a truncation is a failure.

Sources: cloud.google.com/vertex-ai/generative-ai/docs/model-reference/text-embeddings-api and google-genai 3.4, which
chooses between the methods the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from providers.base import EmbedCall, Vectors
from providers.exchange import bad_answer, encode, plausible_tokens, read_rows, texts_of
from providers.failures import FailureKind, ProviderFailure
from providers.google import Embedding, task_type, to_unit_length
from providers.http_client import Answer

MAX_ITEMS = 250
EMBED_CONTENT_MODELS = "gemini-embedding-2"


class _Statistics(msgspec.Struct):
    truncated: bool = False
    token_count: Any = None


class _PredictedEmbedding(msgspec.Struct):
    values: msgspec.Raw
    statistics: _Statistics = msgspec.field(default_factory=_Statistics)


class _Prediction(msgspec.Struct):
    embeddings: _PredictedEmbedding


class _Predicted(msgspec.Struct):
    predictions: list[_Prediction]


class _Usage(msgspec.Struct, rename="camel"):
    prompt_token_count: Any = None


class _Embedded(msgspec.Struct, rename="camel"):
    embedding: Embedding
    truncated: bool = False
    usage_metadata: _Usage = msgspec.field(default_factory=_Usage)


_decode_predicted = msgspec.json.Decoder(_Predicted).decode
_decode_embedded = msgspec.json.Decoder(_Embedded).decode


def max_items(identifier: str) -> int:
    """Texts per call."""
    return 1 if identifier.startswith("gemini-embedding") else MAX_ITEMS


def method_of(identifier: str) -> str:
    return "embedContent" if identifier.startswith(EMBED_CONTENT_MODELS) else "predict"


def request_body(call: EmbedCall) -> bytes:
    texts = texts_of(call)
    if len(texts) > max_items(call.identifier):
        detail = f"the model takes {max_items(call.identifier)} texts per call, {len(texts)} were to be sent"
        raise ProviderFailure(FailureKind.MODEL_MISSING, detail)
    options: dict[str, Any] = {"autoTruncate": False}
    if call.dimensions is not None:
        options["outputDimensionality"] = call.dimensions
    if method_of(call.identifier) == "embedContent":
        return encode({"content": {"parts": [{"text": texts[0]}]}, "embedContentConfig": options})
    task = task_type(call)
    return encode({"instances": [{"content": text, "task_type": task} for text in texts], "parameters": options})


def read_predicted(answer: Answer, count: int) -> tuple[Vectors, int | None]:
    found = [prediction.embeddings for prediction in _decode_predicted(answer.body).predictions]
    _refuse_truncation(any(each.statistics.truncated for each in found))
    return read_rows([each.values for each in found], count), _sum([each.statistics.token_count for each in found])


def read_predicted_cut(answer: Answer, count: int) -> tuple[Vectors, int | None]:
    vectors, tokens = read_predicted(answer, count)
    return to_unit_length(vectors), tokens


def read_embedded(answer: Answer, count: int) -> tuple[Vectors, int | None]:
    found = _decode_embedded(answer.body)
    _refuse_truncation(found.truncated)
    vectors = read_rows([found.embedding.values], count)
    return to_unit_length(vectors), plausible_tokens(found.usage_metadata.prompt_token_count)


def _refuse_truncation(is_truncated: bool) -> None:
    if is_truncated:
        raise bad_answer("a text was truncated, which was not asked for")


def _sum(counts: Sequence[Any]) -> int | None:
    """One count that is missing or nonsense makes the sum unknown."""
    plausible = [plausible_tokens(count) for count in counts]
    return plausible_tokens(sum(count for count in plausible if count)) if None not in plausible else None
