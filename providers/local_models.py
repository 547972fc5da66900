"""The models that run inside this process: wordllama's static word vectors, and hashed character n-grams.

Owns which of them exist here, how a text becomes a vector and a token count. Each has an identifier and a space of
its own: a vector of one must never be compared with the other's. Leaves threads and the port to `local.py`.

wordllama: the mean of trained word vectors (weights derived from LLaMA 2's embeddings, MIT package), 256 floats,
Matryoshka down to 128 and 64. Only its two data files are read, not its package: importing that configures logging,
loads an HTTP library and costs 40 MB, for a mean over rows. Tokens are counted by its own tokenizer, since the text
has to be split anyway; never more than UTF-8 bytes + 1.

n-grams: for platforms without a wordllama wheel. Finds texts that share spelling, knows no meaning. Integer counts
and square roots only, so that every machine gives the same bits. Tokens are counted as UTF-8 bytes / 4, rounded up.
"""

from __future__ import annotations

import functools
import importlib.util
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from providers.base import Vectors
from providers.failures import FailureKind, ProviderFailure

MAX_TOKENS = 8192  # our limit, the methods have none: what a text may cost in time
WORDLLAMA_LONGEST_TOKEN = 48  # bytes: sixteen of its word marks
NGRAM_SIZES = (3, 4, 5)


@dataclass(frozen=True, slots=True)
class LocalModel:
    """What the catalogue may say about a local model."""

    identifier: str
    name: str
    space: str
    dimensions: int
    allowed_dimensions: tuple[int, ...]  # the native width included
    max_tokens: int = MAX_TOKENS
    tokenizer: str = "bytes"  # how the gateway bounds its tokens from above


WORDLLAMA = LocalModel("wordllama-256", "wordllama 256", "wordllama-l2-supercat", 256, (256, 128, 64))
NGRAM = LocalModel("ngram-256", "hashed n-grams 256", "quiver-ngram-v1", 256, (256,))
MODELS = {model.identifier: model for model in (WORDLLAMA, NGRAM)}  # all that are known, here or not


class Embedder(Protocol):
    """A loaded model."""

    def embed(self, texts: Sequence[str]) -> tuple[Vectors, int]:
        """Unit vectors of native width, in order, and the tokens of all texts together. Raises `ProviderFailure`
        (TEXT_REFUSED, TOO_LONG) if a text has nothing to embed or too much, `UnicodeEncodeError` if it is no text."""
        ...


def available_models() -> list[LocalModel]:
    """The local models of this machine, best first. Looks for files only: imports and loads nothing."""
    return [WORDLLAMA, NGRAM] if _wordllama_files() else [NGRAM]


def load(identifier: str) -> Embedder:
    """The model, loaded once per process; wordllama's takes 0.1 s and 35 MB. Raises `ProviderFailure`
    (MODEL_MISSING) if it does not exist here."""
    if identifier == NGRAM.identifier:
        return NGramEmbedder()
    if identifier == WORDLLAMA.identifier:
        return _load_wordllama()
    raise ProviderFailure(FailureKind.MODEL_MISSING, "no local model has this identifier")


def _wordllama_files() -> tuple[Path, Path] | None:
    """Weights and tokenizer inside the installed package, found without importing it."""
    spec = importlib.util.find_spec("wordllama")
    if spec is None or spec.origin is None or importlib.util.find_spec("tokenizers") is None:
        return None
    package = Path(spec.origin).parent
    weights = package / "weights" / "l2_supercat_256.safetensors"
    tokenizer = package / "tokenizers" / "l2_supercat_tokenizer_config.json"
    return (weights, tokenizer) if weights.is_file() and tokenizer.is_file() else None


@functools.cache
def _load_wordllama() -> Embedder:
    files = _wordllama_files()
    if files is None:
        raise ProviderFailure(
            FailureKind.MODEL_MISSING, "wordllama has no wheel for this platform: use ngram-256, another vector space"
        )
    return WordLlamaEmbedder(*files)


class WordLlamaEmbedder:
    def __init__(self, weights: Path, tokenizer: Path) -> None:
        from safetensors import safe_open
        from tokenizers import Tokenizer

        self._tokenizer: Any = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        with safe_open(str(weights), framework="np") as tensors:
            self._rows: NDArray[np.float16] = tensors.get_tensor("embedding.weight")  # as float32 twice the memory

    def embed(self, texts: Sequence[str]) -> tuple[Vectors, int]:
        sums = np.empty((len(texts), self._rows.shape[1]), dtype=np.float32)
        tokens = 0
        for index, text in enumerate(texts):
            if len(text.encode()) > MAX_TOKENS * WORDLLAMA_LONGEST_TOKEN:
                raise _too_long()  # certain without splitting megabytes
            ids = self._tokenizer.encode(text, add_special_tokens=False).ids
            if not ids:
                raise _nothing_to_embed()
            if len(ids) > MAX_TOKENS:
                raise _too_long()
            tokens += len(ids)
            sums[index] = self._rows[ids].mean(axis=0, dtype=np.float32)
        sums /= np.linalg.norm(sums, axis=1, keepdims=True)
        return sums, tokens


class NGramEmbedder:
    def embed(self, texts: Sequence[str]) -> tuple[Vectors, int]:
        vectors = np.empty((len(texts), NGRAM.dimensions), dtype=np.float32)
        tokens = 0
        for index, text in enumerate(texts):
            count = -(-len(text.encode()) // 4)
            if not count:
                raise _nothing_to_embed()
            if count > MAX_TOKENS:
                raise _too_long()
            tokens += count
            vectors[index] = _ngram_vector(text)
        return vectors, tokens


def _ngram_vector(text: str) -> Vectors:
    """Signed counts of hashed n-grams over words in lower case, damped by the square root, unit length."""
    words = re.sub(r"\s+", " ", f" {unicodedata.normalize('NFKC', text).casefold()} ")
    points = np.frombuffer(words.encode("utf-32-le"), dtype="<u4").astype(np.uint64)
    counts = np.zeros(NGRAM.dimensions, dtype=np.float64)
    unsigned = np.zeros(NGRAM.dimensions, dtype=np.float64)
    for size in NGRAM_SIZES:
        size = min(size, len(points))
        hashes = np.full(len(points) - size + 1, size, dtype=np.uint64)
        for offset in range(size):
            # A multiply-add hash modulo 2**64; the bits are mixed below.
            hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + points[offset : offset + len(hashes)]
        hashes ^= hashes >> np.uint64(32)
        hashes *= np.uint64(0xD6E8FEB86659FD93)
        hashes ^= hashes >> np.uint64(32)
        buckets = (hashes % np.uint64(NGRAM.dimensions)).astype(np.int64)
        signs = 1.0 - 2.0 * ((hashes >> np.uint64(40)) & np.uint64(1)).astype(np.float64)
        counts += np.bincount(buckets, weights=signs, minlength=NGRAM.dimensions)
        unsigned += np.bincount(buckets, minlength=NGRAM.dimensions)
    if not counts.any():  # every n-gram met its opposite
        counts = unsigned
    damped = np.sign(counts) * np.sqrt(np.abs(counts))
    unit: Vectors = (damped / np.sqrt(np.abs(counts).sum())).astype(np.float32)
    return unit


def _nothing_to_embed() -> ProviderFailure:
    return ProviderFailure(FailureKind.TEXT_REFUSED, "a text is empty")


def _too_long() -> ProviderFailure:
    return ProviderFailure(FailureKind.TOO_LONG, f"a text has more than {MAX_TOKENS} tokens")
