"""Counts are exact for cl100k, an upper bound for everything else; what is cut fits."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from embeddings import tokens
from embeddings.tokens import BYTES, CL100K, VOCABULARY

HELLO_WORLD = [15339, 1917]
LONGEST_AFTER_NFKC = "\ufdfa"  # three bytes, eighteen letters after NFKC
# What is rare by chance: letters that grow under NFKC, whitespace of all kinds, emoji of several code points.
texts = st.text(
    st.characters(exclude_categories=["Cs"]) | st.sampled_from(LONGEST_AFTER_NFKC + "\u00a0\u2003 \n\tßﬃ½👩‍👩‍👧é"),
    max_size=60,
)


def test_hello_world_is_counted_offline_as_openai_counts_it():
    assert tokens.encoding().encode_ordinary("hello world") == HELLO_WORLD
    assert tokens.measure(["hello world", "a"], CL100K) == tokens.Size((2, 1), (2, 1), 3)


def test_token_arrays_count_as_they_are():
    assert tokens.measure_tokens([HELLO_WORLD, [1]]) == tokens.Size((2, 1), (2, 1), 3)


def test_a_special_token_in_a_text_is_plain_text():
    assert tokens.measure(["<|endoftext|>"], CL100K).total > 1


@given(texts)
@example(LONGEST_AFTER_NFKC * 20)
@example("")
def test_no_tokenizer_passes_the_upper_bound(text):
    bound = tokens.upper_bound(text)
    assert bound >= len(tokens.encoding().encode_ordinary(text))
    assert bound >= len(text.encode()) + 8
    assert bound >= len(unicodedata.normalize("NFKC", text).encode()) + 8


def test_the_upper_bound_knows_letters_that_grow_when_normalised():
    assert tokens.upper_bound(LONGEST_AFTER_NFKC) == 33 + 8


@given(st.lists(texts, min_size=1, max_size=5), st.sampled_from([CL100K, BYTES]))
def test_what_is_least_is_never_above_what_is_counted(items, tokenizer):
    size = tokens.measure(items, tokenizer)
    assert len(size.counts) == len(size.least) == len(items)
    assert all(least <= count for least, count in zip(size.least, size.counts, strict=True))
    assert size.total == sum(size.counts)


@given(texts, st.integers(1, 20))
@settings(max_examples=300)
def test_a_cut_text_is_a_beginning_that_fits(text, most):
    cut = tokens.cut(text, CL100K, most)
    assert text.startswith(cut)
    assert len(tokens.encoding().encode_ordinary(cut)) <= most


def test_a_text_that_fits_is_not_cut():
    assert tokens.cut("hello world", CL100K, 2) == "hello world"


def test_a_cut_falls_between_tokens():
    assert tokens.cut("hello world again", CL100K, 2) == "hello world"


def test_a_cut_inside_a_character_drops_what_is_left_of_it():
    family = "a👩"
    assert len(tokens.encoding().encode_ordinary(family)) > 2
    assert tokens.cut(family, CL100K, 2) == "a"


def test_a_text_of_an_unknown_tokenizer_is_never_cut():
    assert tokens.cut("hello", BYTES, 13) == "hello"
    assert tokens.cut("hello", BYTES, 12) is None


@given(texts)
def test_tokens_stand_for_their_text(text):
    assert tokens.text_of(tokens.encoding().encode_ordinary(text)) == text


@pytest.mark.parametrize("array", [[230], [15339, 230], [VOCABULARY]])
def test_tokens_that_are_no_text_by_themselves(array):
    assert tokens.text_of(array) is None


def test_every_token_below_the_vocabulary_is_known():
    assert len(tokens.encoding().decode_bytes(list(range(VOCABULARY)))) > VOCABULARY


@pytest.mark.parametrize(("text_bytes", "likely"), [(0, 0), (1, 1), (4, 1), (5, 2)])
def test_four_bytes_a_token_rounded_up(text_bytes, likely):
    assert tokens.likely(text_bytes) == likely
