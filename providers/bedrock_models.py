"""How each family of embedding models on Bedrock is asked and how it answers. Pure.

Bedrock passes bodies through, so every vendor's differ. A family is known by a part of the model's id, which stands
also in inference profiles (`us.cohere.embed-v4:0`) and ARNs.

Cohere demands an input type. Where the caller states none, and for similarity, for which Cohere has no word, it is
`search_document`: texts of one kind are then compared with each other, and a collection embedded that way can be
searched with `query` later. Truncation is refused in so many words, because some models of Cohere's truncated when
the field was left out.

Sources: docs.aws.amazon.com/bedrock/latest/userguide, pages model-parameters-titan-embed-text, model-parameters-embed,
model-parameters-embed-v4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from providers.base import EmbedCall, InputType, Vectors
from providers.exchange import plausible_tokens, read_rows
from providers.http_client import Answer

COHERE_WORDS = {
    None: "search_document",
    InputType.QUERY: "search_query",
    InputType.DOCUMENT: "search_document",
    InputType.CLASSIFICATION: "classification",
    InputType.CLUSTERING: "clustering",
    InputType.SIMILARITY: "search_document",
}
TOKENS_HEADER = b"x-amzn-bedrock-input-token-count"
MAX_COHERE_TEXTS = 96


@dataclass(frozen=True, slots=True)
class Family:
    """Models that are asked alike."""

    mark: str  # in the model's id
    max_items: int  # texts per call
    takes_dimensions: bool
    body: Callable[[Sequence[str], EmbedCall], Mapping[str, object]]
    read: Callable[[Answer, int], tuple[Vectors, int | None]]


class _Titan(msgspec.Struct, rename="camel"):
    embedding: msgspec.Raw
    input_text_token_count: Any = None


class _CohereByType(msgspec.Struct):
    floats: list[msgspec.Raw] = msgspec.field(name="float")


class _Cohere(msgspec.Struct):
    embeddings: list[msgspec.Raw] | _CohereByType


_decode_titan = msgspec.json.Decoder(_Titan).decode
_decode_cohere = msgspec.json.Decoder(_Cohere).decode


def _titan_v1_body(texts: Sequence[str], call: EmbedCall) -> Mapping[str, object]:
    return {"inputText": texts[0]}  # any other field is refused


def _titan_v2_body(texts: Sequence[str], call: EmbedCall) -> Mapping[str, object]:
    body: dict[str, object] = {"inputText": texts[0], "normalize": True, "embeddingTypes": ["float"]}
    return body if call.dimensions is None else body | {"dimensions": call.dimensions}


def _cohere_v3_body(texts: Sequence[str], call: EmbedCall) -> Mapping[str, object]:
    return {"texts": texts, "input_type": COHERE_WORDS[call.input_type], "truncate": "NONE"}


def _cohere_v4_body(texts: Sequence[str], call: EmbedCall) -> Mapping[str, object]:
    body = {**_cohere_v3_body(texts, call), "embedding_types": ["float"]}
    return body if call.dimensions is None else body | {"output_dimension": call.dimensions}


def _read_titan(answer: Answer, count: int) -> tuple[Vectors, int | None]:
    found = _decode_titan(answer.body)
    tokens = plausible_tokens(found.input_text_token_count)
    return read_rows([found.embedding], count), tokens if tokens is not None else _counted_in_header(answer)


def _read_cohere(answer: Answer, count: int) -> tuple[Vectors, int | None]:
    """A list, or lists by type; asked for one type, the families differ in which they answer."""
    embeddings = _decode_cohere(answer.body).embeddings
    rows = embeddings if isinstance(embeddings, list) else embeddings.floats
    return read_rows(rows, count), _counted_in_header(answer)


def _counted_in_header(answer: Answer) -> int | None:
    told = answer.header(TOKENS_HEADER)
    return plausible_tokens(int(told)) if told.isascii() and told.isdigit() and len(told) < 16 else None


FAMILIES = (
    Family("titan-embed-text-v1", 1, False, _titan_v1_body, _read_titan),
    Family("titan-embed-text-v2", 1, True, _titan_v2_body, _read_titan),
    Family("cohere.embed-v4", MAX_COHERE_TEXTS, True, _cohere_v4_body, _read_cohere),
    Family("cohere.embed-english-v3", MAX_COHERE_TEXTS, False, _cohere_v3_body, _read_cohere),
    Family("cohere.embed-multilingual-v3", MAX_COHERE_TEXTS, False, _cohere_v3_body, _read_cohere),
)


def family_of(identifier: str) -> Family | None:
    """None: nobody here knows how that model is asked."""
    return next((family for family in FAMILIES if family.mark in identifier), None)


def max_items(identifier: str) -> int:
    """Texts per call."""
    family = family_of(identifier)
    return family.max_items if family else 1
