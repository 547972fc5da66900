"""The models inside the process: right vectors, right counts, and nothing loaded that is not used."""

from __future__ import annotations

import hashlib
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from providers import local_models
from providers.base import EmbedCall, Endpoint, Kind, Vectors
from providers.failures import FailureKind, ProviderFailure
from providers.local import LocalProvider
from providers.local_models import MAX_TOKENS, NGRAM, WORDLLAMA, available_models, load

wordllama_here = pytest.mark.skipif(WORDLLAMA not in available_models(), reason="no wordllama wheel here")
QUERY, NEAR, FAR = "how do I reset my password", "password reset instructions", "the cat sat on the mat"


def cosine(identifier: str, one: str, other: str) -> float:
    vectors, _ = load(identifier).embed([one, other])
    return float(vectors[0] @ vectors[1])


@pytest.mark.parametrize("identifier", [pytest.param("wordllama-256", marks=wordllama_here), "ngram-256"])
def test_what_belongs_together_is_nearer(identifier: str) -> None:
    assert cosine(identifier, QUERY, NEAR) > cosine(identifier, QUERY, FAR) + 0.3


@wordllama_here
@pytest.mark.slow
def test_the_vectors_are_those_of_the_wordllama_package() -> None:
    import wordllama

    handlers = list(logging.getLogger().handlers)
    package = Path(wordllama.__file__).parent
    texts = [QUERY, NEAR, FAR, " ", "日本語", "\x00", "word " * 500]
    for width in WORDLLAMA.allowed_dimensions:
        theirs = wordllama.WordLlama.load(cache_dir=package, disable_download=True, trunc_dim=width)

        ours, _ = load("wordllama-256").embed(texts)
        cut = ours[:, :width] / np.linalg.norm(ours[:, :width], axis=1, keepdims=True)

        np.testing.assert_allclose(cut, theirs.embed(texts, norm=True), atol=1e-6)
    logging.getLogger().handlers = handlers


def test_ngram_vectors_are_the_same_bits_in_every_process_and_on_every_machine() -> None:
    vectors, tokens = load("ngram-256").embed([QUERY, "a", "日本語 ﷺ"])

    digest = hashlib.sha256(vectors.astype("<f4").tobytes()).hexdigest()
    assert digest == "d301f528149d7b4c5d7593c2d7d835033a284f60c390ba782ec72047a3718bbf"
    assert tokens == 7 + 1 + 4


def test_every_single_character_has_an_ngram_vector() -> None:
    vectors, _ = load("ngram-256").embed([chr(point) for point in range(1, 2000)])

    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("identifier", [pytest.param("wordllama-256", marks=wordllama_here), "ngram-256"])
@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", FailureKind.TEXT_REFUSED),
        ("word " * 3 * MAX_TOKENS, FailureKind.TOO_LONG),
        ("x" * 100 * MAX_TOKENS, FailureKind.TOO_LONG),
    ],
    ids=["empty", "too many words", "far too long"],
)
def test_a_text_with_nothing_or_too_much_to_embed_is_refused(identifier: str, text: str, kind: FailureKind) -> None:
    with pytest.raises(ProviderFailure) as caught:
        load(identifier).embed(["fine", text])

    assert caught.value.kind is kind


@wordllama_here
@pytest.mark.parametrize("text", ["hello world", "a", " ", "日本語", "\x00\x01", "ﷺ", "🙂" * 20, "\n\n\t"])
def test_wordllama_never_counts_more_than_bytes_and_one(text: str) -> None:
    _, tokens = load("wordllama-256").embed([text])

    assert 1 <= tokens <= len(text.encode()) + 1


async def test_a_width_that_the_model_was_not_trained_for_is_refused() -> None:
    provider = LocalProvider(Endpoint("local", Kind.LOCAL))

    with pytest.raises(ProviderFailure) as caught:
        await provider.embed(EmbedCall("ngram-256", ["x"], 128, dimensions=128), timeout_s=5)

    assert caught.value.kind is FailureKind.TEXT_REFUSED


async def test_small_and_large_batches_give_the_same_vectors() -> None:
    provider = LocalProvider(Endpoint("local", Kind.LOCAL))
    texts = [f"text number {number}" for number in range(100)]

    large = await provider.embed(EmbedCall("ngram-256", texts, 256), timeout_s=30)
    single: list[Vectors] = [
        (await provider.embed(EmbedCall("ngram-256", [text], 256), timeout_s=30)).vectors[0] for text in texts
    ]

    np.testing.assert_array_equal(large.vectors, single)


async def test_work_that_is_not_done_in_time_is_a_timeout() -> None:
    provider = LocalProvider(Endpoint("local", Kind.LOCAL))

    with pytest.raises(ProviderFailure) as caught:
        await provider.embed(EmbedCall("ngram-256", ["word " * 5000] * 200, 256), timeout_s=0.001)

    assert caught.value.kind is FailureKind.TIMEOUT


async def test_without_a_wheel_only_the_ngram_model_is_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_models, "_wordllama_files", lambda: None)
    local_models._load_wordllama.cache_clear()
    provider = LocalProvider(Endpoint("local", Kind.LOCAL))

    with pytest.raises(ProviderFailure) as caught:
        await provider.embed(EmbedCall("wordllama-256", ["x"], 256), timeout_s=5)

    assert available_models() == [NGRAM]
    assert caught.value.kind is FailureKind.MODEL_MISSING
    assert "ngram-256" in caught.value.detail


def test_no_two_local_models_share_a_space() -> None:
    assert len({model.space for model in local_models.MODELS.values()}) == len(local_models.MODELS)


@wordllama_here
@pytest.mark.slow
def test_loading_imports_neither_the_package_nor_touches_the_logging() -> None:
    program = (
        "import logging, sys; from providers.local_models import load; load('wordllama-256').embed(['x']);"
        "print('wordllama' in sys.modules, 'requests' in sys.modules, logging.getLogger().handlers)"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "False False []"
