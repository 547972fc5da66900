"""The 24 fixed texts that a model is measured with, and which of them a model can take.

They never change: reference vectors of spaces are kept for exactly these. Each is known with its exact number of
cl100k tokens, so that counting them needs no tokenizer here.
"""

from __future__ import annotations

import json
import unicodedata
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_FILE = Path(__file__).parent / "data" / "probes.json"
_MARKS = 8  # a tokenizer that nobody knows here may add marks around a text
_UNKNOWN = 1.5  # and may make so many more tokens of a text than cl100k does
SHORT = 64  # cl100k tokens of a text that is cheap enough to be sent every day


@dataclass(frozen=True, slots=True)
class Probe:
    """One text; `kind` is short, multilingual, code, long or near the limit."""

    name: str
    kind: str
    text: str
    cl100k: int

    @property
    def most_tokens(self) -> int:
        """No tokenizer counts more."""
        folded = unicodedata.normalize("NFKC", self.text)
        return max(len(self.text.encode()), len(folded.encode())) + _MARKS

    @property
    def likely_tokens(self) -> int:
        """What a tokenizer that nobody knows here counts at most, unless it is a very poor one."""
        return int(self.cl100k * _UNKNOWN)


@cache
def all_probes() -> tuple[Probe, ...]:
    """All of them, in their order."""
    found = json.loads(_FILE.read_text(encoding="utf-8"))
    return tuple(Probe(each["name"], each["kind"], each["text"] * each["times"], each["cl100k"]) for each in found)


def probes_for(max_tokens: int, *, is_exact: bool) -> tuple[Probe, ...]:
    """Those that a model with this limit takes. `is_exact`: it counts in cl100k."""
    return tuple(each for each in all_probes() if (each.cl100k if is_exact else each.likely_tokens) <= max_tokens)


def short_probes(max_tokens: int, *, is_exact: bool) -> tuple[Probe, ...]:
    """The same without long texts: some four hundred tokens in all."""
    return tuple(each for each in probes_for(max_tokens, is_exact=is_exact) if each.cl100k <= SHORT)
