"""The provider that needs no network: adapts `local_models` to the port.

Owns where the work runs: loading and batches above about a millisecond in the one heavy thread, small ones inline.
Takes texts only; the gateway turns token arrays into texts first.

Failure: a model that does not exist here is MODEL_MISSING, work that is not done by the deadline TIMEOUT (it is not
interrupted; its result is dropped).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import numpy as np

from providers.base import EmbedAnswer, EmbedCall, Endpoint, ListedModel
from providers.failures import FailureKind, ProviderFailure
from providers.heavy import off_loop
from providers.local_models import MODELS, Embedder, LocalModel, available_models, load

__all__ = ["LocalModel", "LocalProvider", "available_models"]

MAX_INLINE_ITEMS = 16
MAX_INLINE_CHARACTERS = 2000  # about a millisecond with the items above


class LocalProvider:
    """Adapter for the kind `local`."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._embedders: dict[str, Embedder] = {}
        self._under_way = 0

    async def embed(self, call: EmbedCall, *, timeout_s: float) -> EmbedAnswer:
        """Unit vectors; narrower than native with `call.dimensions`, where the model is trained for that width."""
        texts = [text for text in call.inputs if isinstance(text, str)]
        if len(texts) != len(call.inputs):
            raise ProviderFailure(FailureKind.TEXT_REFUSED, "local models take texts, not token arrays")
        self._under_way += 1
        try:
            async with asyncio.timeout(timeout_s):
                embedder = self._embedders.get(call.identifier)
                if embedder is None:
                    embedder = self._embedders[call.identifier] = await off_loop(load, call.identifier)
                if len(texts) <= MAX_INLINE_ITEMS and sum(map(len, texts)) <= MAX_INLINE_CHARACTERS:
                    return _embed(embedder, texts, call)
                return await off_loop(_embed, embedder, texts, call)
        except TimeoutError:
            raise ProviderFailure(FailureKind.TIMEOUT, "the local model was not done before the deadline") from None
        finally:
            self._under_way -= 1

    async def list_models(self) -> list[ListedModel]:
        """The local models of this machine, best first."""
        return [
            ListedModel(each.identifier, each.name, each.dimensions, each.max_tokens) for each in available_models()
        ]

    async def close(self) -> None:
        self._embedders.clear()

    def statistics(self) -> Mapping[str, int]:
        return {"busy": self._under_way, "loaded": len(self._embedders)}


def _embed(embedder: Embedder, texts: Sequence[str], call: EmbedCall) -> EmbedAnswer:
    width = call.dimensions
    if width is not None and width not in MODELS[call.identifier].allowed_dimensions:
        raise ProviderFailure(FailureKind.TEXT_REFUSED, f"the model has no vectors of {width} dimensions")
    try:
        vectors, tokens = embedder.embed(texts)
    except UnicodeEncodeError:
        raise ProviderFailure(FailureKind.TEXT_REFUSED, "a text holds half a surrogate pair") from None
    if width is not None and width < vectors.shape[1]:
        vectors = vectors[:, :width]
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return EmbedAnswer(vectors, tokens)
