"""Random tenants, providers and requests, and the right vector of every text in every place."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import numpy as np

from embeddings.gathering import Vector
from embeddings.requests import EmbeddingRequest
from embeddings.snapshot import Choice, TenantSnapshot
from providers.base import EmbedAnswer, EmbedCall, InputType, Vectors
from providers.failures import FailureKind, ProviderFailure
from tests.embeddings.building import choice, deployment, limit, request, snapshot, token_request

Place = tuple[str, int, int]
FULL = 8
TEXTS = ["a", "b", "hello world", "one two three four five six", "ﷺ", "c", "d e"]
TOKENS = [[15339, 1917], [64], [15339], [65, 66, 67, 68]]
SLUGS = ["p", "q", "r"]
_WRONG = ["fewer", "narrow", "nan", "zero"]


def right_vector(item: str | Sequence[int], place: Place, input_type: str | None, *, is_matryoshka: bool) -> Vector:
    """Depends on everything that a vector depends on. A Matryoshka space is cut and brought to unit length."""
    space, epoch, width = place
    native = FULL if is_matryoshka else width
    seed = hashlib.sha256(repr((item, space, epoch, native, input_type)).encode()).digest()
    full = np.random.default_rng(list(seed)).standard_normal(native).astype(np.float32)
    if width == native:
        return full
    cut = full[:width].astype(np.float64)
    shortened: Vector = (cut / np.linalg.norm(cut)).astype(np.float32)
    return shortened


@dataclass(frozen=True)
class Space:
    name: str
    epoch: int
    is_matryoshka: bool

    def identifier(self, native: int) -> str:
        """What a vendor of these stories reads its vectors from."""
        return f"{self.name}#{self.epoch}#{native}#{int(self.is_matryoshka)}"


def vendor(rng: Random, failure_rate: float) -> Callable[[EmbedCall], EmbedAnswer]:
    """Answers rightly, or fails in one of all ways, or answers wrongly such that it can be seen."""

    def answer(asked: EmbedCall) -> EmbedAnswer:
        dice = rng.random()
        if dice < failure_rate * 0.7:
            raise ProviderFailure(rng.choice(list(FailureKind)), "as told", retry_after=rng.choice([None, 30.0]))
        vectors = answer_of(asked)
        tokens = rng.choice([None, len(asked.inputs), 10**6])
        return EmbedAnswer(vectors if dice > failure_rate else _spoilt(vectors, rng.choice(_WRONG)), tokens, "up")

    return answer


def answer_of(asked: EmbedCall) -> Vectors:
    name, epoch, native, is_matryoshka = asked.identifier.split("#")
    width = int(native) if asked.dimensions is None else asked.dimensions
    kind = None if asked.input_type is None else asked.input_type.value
    place = (name, int(epoch), width)
    return np.stack([right_vector(i, place, kind, is_matryoshka=is_matryoshka == "1") for i in asked.inputs])


def _spoilt(vectors: Vectors, how: str) -> Vectors:
    spoilt = vectors.copy()
    if how == "fewer":
        return spoilt[1:]
    if how == "narrow":
        return spoilt[:, :1]
    spoilt[-1] = np.nan if how == "nan" else 0.0
    return spoilt


def random_tenant(rng: Random) -> tuple[TenantSnapshot, dict[str, Space]]:
    spaces = {name: Space(name, rng.choice([1, 1, 2]), rng.random() < 0.5) for name in ("s", "t", "u")}
    choices: list[Choice] = []
    for number in range(rng.randint(1, 6)):
        space = rng.choice(list(spaces.values()))
        native = rng.choice([FULL, FULL, 4]) if space.is_matryoshka else FULL
        of = deployment(
            rng.choice(["m", "m", "n", f"only-{number}"]),
            provider=rng.choice(SLUGS),
            identifier=space.identifier(native),
            space=space.name,
            epoch=space.epoch,
            dimensions=native,
            is_matryoshka=space.is_matryoshka,
            takes_dimensions=rng.random() < 0.5 or not space.is_matryoshka,
            allowed_dimensions=frozenset() if space.is_matryoshka else frozenset(rng.choice([[], [4]])),
            state=rng.choice(["available"] * 10 + ["deprecated", "unavailable"]),
            max_tokens=rng.choice([100, 100, 4]),
            max_items=rng.choice([2048, 2, 1]),
            price=rng.choice([None, 1, 10**9, 10**9, 10**9]),
        )
        fallback = rng.choice([None, *(c.deployment.model_id for c in choices)])
        choices.append(choice(of, is_enabled=rng.random() < 0.95, fallback_model_id=fallback, priority=10 - number))
    if choices[0].configured.is_enabled:
        choices[0] = Choice(choices[0].deployment, _default(choices[0]))
    limits = tuple(limit("tokens", rng.choice([3, 10**6]), of=each) for each in choices if rng.random() < 0.2)
    settings: dict[str, Any] = {"cache_enabled": rng.random() < 0.8, "unpriced_allowed": rng.random() < 0.5}
    return snapshot(*choices, limits=(limit("tokens", 10**6), *limits), **settings), spaces


def _default(of: Choice) -> Any:
    return replace(of.configured, is_default=True)


def random_request(rng: Random, of: TenantSnapshot) -> EmbeddingRequest:
    named = rng.choice([None, *(each.deployment.name for each in of.choices)])
    words: dict[str, Any] = {
        "model": named,
        "dimensions": rng.choice([None] * 6 + [4, FULL, 3]),
        "input_type": rng.choice([None, InputType.QUERY, InputType.DOCUMENT]),
        "strategy": rng.choice(["priority", "priority", "cost"]),
        "fallback": rng.choice(["auto", "auto", "auto", "space", "none"]),
        "required_space": rng.choice([""] * 10 + ["s", "t"]),
        "truncate": rng.random() < 0.2,
        "is_partial": rng.random() < 0.3,
        "reads_cache": rng.random() < 0.8,
        "fills_cache": rng.random() < 0.8,
        "max_cost_nano": rng.choice([None] * 8 + [0, 2000]),
    }
    if rng.random() < 0.15:
        return token_request(*rng.choices(TOKENS, k=rng.randint(1, 3)), **words)
    return request(*rng.choices(TEXTS, k=rng.randint(1, 5)), **words)


def allowed_places(asked: EmbeddingRequest, of: TenantSnapshot) -> set[Place]:
    """Where an answer may be from by the rules on vector spaces, told in the plainest way."""
    enabled = [each for each in of.choices if each.configured.is_enabled]
    if asked.model is None:
        found = {_place(each, asked.dimensions) for each in enabled}
    else:
        named = [each for each in of.choices if each.deployment.name == asked.model]
        meant = next((each for each in named if each.configured.is_enabled), named[0])
        width = asked.dimensions or meant.deployment.dimensions
        space = meant.deployment.space
        found = {_place(each, width) for each in enabled if each.deployment.space == space}
        if asked.fallback == "auto":
            found |= {
                _place(each, asked.dimensions or (width if each.deployment.space == space else None))
                for each in enabled
                if each.deployment.model_id == meant.configured.fallback_model_id
            }
    return {place for place in found if asked.required_space in ("", place[0])}


def _place(of: Choice, width: int | None) -> Place:
    return of.deployment.space, of.deployment.epoch, width or of.deployment.dimensions
