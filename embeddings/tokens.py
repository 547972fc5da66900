"""Counting tokens: exact where the tokenizer is known, else an upper bound from the bytes.

Owns the tokenizers. A count is what is held for a text; what is charged is never more.
"""

from __future__ import annotations

import os
import unicodedata
from functools import cache
from pathlib import Path

import msgspec
import tiktoken

CL100K, BYTES = "cl100k_base", "bytes"
# A tokenizer that nobody knows here may add marks around a text.
_MARKS = 8
# The longest word taken as one token: BERT's WordPiece gives up on words above 100 characters.
_MOST_BYTES_PER_TOKEN = 128
# tiktoken finds the ranks here under the hash of their address, checks their own hash, and so needs no network.
_RANKS_FOLDER = Path(__file__).parent / "data"
VOCABULARY = 100_256  # ids below are text; those above are special, which no text of a caller contains


class Size(msgspec.Struct, frozen=True, gc=False):
    """Tokens of one request under one tokenizer."""

    counts: tuple[int, ...]  # per item: exact, or an upper bound
    least: tuple[int, ...]  # per item: no tokenizer gives fewer
    total: int


@cache
def encoding() -> tiktoken.Encoding:
    """cl100k_base, offline. Takes 0.2 s and 40 MB the first time."""
    os.environ["TIKTOKEN_CACHE_DIR"] = str(_RANKS_FOLDER)
    return tiktoken.get_encoding(CL100K)


def measure(texts: list[str], tokenizer: str) -> Size:
    """Counts each text."""
    if tokenizer == CL100K:
        encode = encoding().encode_ordinary
        counts = tuple([len(encode(text)) for text in texts])
        return Size(counts, counts, sum(counts))
    counts = tuple([upper_bound(text) for text in texts])
    return Size(counts, tuple([count // _MOST_BYTES_PER_TOKEN for count in counts]), sum(counts))


def measure_tokens(arrays: list[list[int]]) -> Size:
    """Token arrays of cl100k count as they are."""
    counts = tuple([len(array) for array in arrays])
    return Size(counts, counts, sum(counts))


def upper_bound(text: str) -> int:
    """No tokenizer makes more tokens of a text than its bytes, before or after the NFKC that some apply first (which
    can make 18 letters of 3 bytes)."""
    if text.isascii():
        return len(text) + _MARKS
    return max(len(text.encode()), len(unicodedata.normalize("NFKC", text).encode())) + _MARKS


def likely(text_bytes: int) -> int:
    """What a provider that gives no count most likely counted: about four bytes a token."""
    return -(-text_bytes // 4)


def cut(text: str, tokenizer: str, most: int) -> str | None:
    """The text's beginning with at most `most` tokens; None where the tokenizer is unknown and it may be too long."""
    if tokenizer != CL100K:
        return text if upper_bound(text) <= most else None
    tokens = encoding().encode_ordinary(text)
    if len(tokens) <= most:
        return text
    # A cut may fall inside a character; what is left of it goes.
    return encoding().decode_bytes(tokens[:most]).decode(errors="ignore")


def text_of(tokens: list[int]) -> str | None:
    """The text that a token array stands for, or None if it is no valid UTF-8 by itself."""
    try:
        return encoding().decode_bytes(tokens).decode()
    except (UnicodeDecodeError, KeyError):
        return None
