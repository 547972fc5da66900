"""The texts of one request in the forms that models want: sizes per tokenizer, token arrays as text, truncated.

Owns the conversions between texts and tokens. Works out only what is asked for, and keeps it; the caller takes large
inputs off the loop (`is_heavy`).
"""

from __future__ import annotations

from collections.abc import Sequence

from embeddings import tokens
from embeddings.requests import EmbeddingRequest
from embeddings.selection import Candidate, takes_tokens
from embeddings.tokens import CL100K, Size

_HEAVY_CHARACTERS = 12_000  # about a millisecond of tokenising


class Inputs:
    def __init__(self, request: EmbeddingRequest) -> None:
        self._request = request
        self._sizes: dict[str, Size | None] = {}
        self._texts: list[str] | None = request.texts or None
        self.is_heavy = sum(map(len, request.texts)) + sum(map(len, request.tokens)) * 4 > _HEAVY_CHARACTERS

    def size(self, tokenizer: str) -> Size | None:
        """The size under a tokenizer; None: these tokens are no text, and this tokenizer needs one."""
        if tokenizer not in self._sizes:
            self._sizes[tokenizer] = self._measure(tokenizer)
        return self._sizes[tokenizer]

    def for_candidate(self, candidate: Candidate) -> tuple[Sequence[str] | Sequence[list[int]], list[int]]:
        """What to send, and the tokens of each item, cut to the model's length where the caller wants that."""
        deployment = candidate.choice.deployment
        counts = list(candidate.size.counts)
        most = deployment.max_tokens
        must_cut = self._request.truncate and max(counts) > most
        if self._request.tokens and takes_tokens(candidate.choice):
            arrays = self._request.tokens
            return ([a[:most] for a in arrays] if must_cut else arrays), [min(c, most) for c in counts]
        texts = self._as_texts() or []
        if not must_cut:
            return texts, counts
        cut = [
            t if c <= most else tokens.cut(t, deployment.tokenizer, most) for t, c in zip(texts, counts, strict=True)
        ]
        return [t or "" for t in cut], [min(c, most) for c in counts]

    def _measure(self, tokenizer: str) -> Size | None:
        if self._request.tokens and tokenizer == CL100K:
            return tokens.measure_tokens(self._request.tokens)
        texts = self._as_texts()
        return None if texts is None else tokens.measure(texts, tokenizer)

    def _as_texts(self) -> list[str] | None:
        if self._texts is None:
            texts = [tokens.text_of(array) for array in self._request.tokens]
            if None not in texts:
                self._texts = [text for text in texts if text is not None]
        return self._texts
