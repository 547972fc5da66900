"""What the fake OpenAI computes: vectors, tokens and refusals, without any wire.

A vector depends on model and input alone, has unit length, and its cut to fewer dimensions is the cut of the native
one brought back to unit length, as OpenAI documents.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embeddings.tokens import encoding
from tests.fakes import server

MAX_ITEMS = 2048
MAX_ITEM_TOKENS = 8192
MAX_CALL_TOKENS = 300_000
MODELS = {"text-embedding-3-small": 1536, "text-embedding-3-large": 3072, "text-embedding-ada-002": 1536}
FIXED_WIDTH = {"text-embedding-ada-002"}

Item = str | Sequence[int]


@dataclass(frozen=True)
class Refusal(server.Refusal):
    """An error body of OpenAI's."""

    status: int
    message: str
    type: str = "invalid_request_error"
    param: str | None = None
    code: str | None = None

    def body(self) -> dict[str, object]:
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


def count_tokens(item: Item) -> int:
    return len(encoding().encode_ordinary(item)) if isinstance(item, str) else len(item)


def expected_vector(model: str, item: Item, dimensions: int | None = None) -> NDArray[np.float32]:
    """The vector that the fake answers for `item`. A text and its tokens have the same one."""
    tokens = encoding().encode_ordinary(item) if isinstance(item, str) else list(item)
    seed = hashlib.sha256(repr((model, tokens)).encode()).digest()
    native = np.random.Generator(np.random.PCG64(int.from_bytes(seed))).standard_normal(MODELS[model])
    cut = native[: dimensions or MODELS[model]]
    return (cut / np.linalg.norm(cut)).astype(np.float32)


def read_items(payload: dict[str, object]) -> list[Item]:
    """The items of a request, checked as OpenAI checks them. Raises `Refusal`."""
    raw = payload.get("input")
    if isinstance(raw, str) or (isinstance(raw, list) and raw and all(isinstance(token, int) for token in raw)):
        raw = [raw]
    if not isinstance(raw, list) or not raw:
        raise Refusal(400, "'$.input' is invalid.", param="input")
    if len(raw) > MAX_ITEMS:
        raise Refusal(400, f"'$.input' has more than {MAX_ITEMS} items.", param="input")
    for item in raw:
        if not isinstance(item, str | list) or not item:
            raise Refusal(400, "Input cannot be an empty string.", param="input")
    counts = [count_tokens(item) for item in raw]
    if max(counts) > MAX_ITEM_TOKENS:
        # The embeddings endpoint names no code for this, only a message.
        raise Refusal(400, f"Invalid 'input': maximum context length is {MAX_ITEM_TOKENS} tokens.")
    if sum(counts) > MAX_CALL_TOKENS:
        raise Refusal(400, "Too many tokens in one request.", type="max_tokens_per_request", param="input")
    return raw


def read_model(payload: dict[str, object]) -> tuple[str, int | None]:
    """Model and dimensions of a request. Raises `Refusal`."""
    model, dimensions = payload.get("model"), payload.get("dimensions")
    if not isinstance(model, str) or model not in MODELS:
        raise Refusal(404, f"The model {model!r} does not exist.", param="model", code="model_not_found")
    if "dimensions" not in payload:
        return model, None
    if model in FIXED_WIDTH:
        raise Refusal(400, "This model does not support specifying dimensions.", param="dimensions")
    if not isinstance(dimensions, int) or not 1 <= dimensions <= MODELS[model]:
        raise Refusal(400, f"Invalid value for 'dimensions': {dimensions!r}.", param="dimensions")
    return model, dimensions
