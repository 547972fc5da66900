"""What is sent to a model and how large it is: texts, tokens, tokens as texts, cut ones."""

from __future__ import annotations

import pytest

from embeddings import tokens
from embeddings.inputs import Inputs
from embeddings.selection import Candidate
from embeddings.tokens import BYTES, CL100K
from providers.base import Kind
from tests.embeddings.building import choice, deployment, request, token_request

HELLO_WORLD = [15339, 1917]
HALF_A_CHARACTER = [230]


def candidate(inputs: Inputs, **facts) -> Candidate:
    of = choice(deployment(**facts))
    size = inputs.size(of.deployment.tokenizer)
    return Candidate(of, "requested", of.deployment.dimensions, size, size.total, 0)


def test_texts_go_as_they_are():
    inputs = Inputs(request("hello world", "a"))
    assert inputs.for_candidate(candidate(inputs)) == (["hello world", "a"], [2, 1])


def test_tokens_go_as_they_are_to_who_takes_them():
    inputs = Inputs(token_request(HELLO_WORLD, HALF_A_CHARACTER))
    assert inputs.for_candidate(candidate(inputs)) == ([HELLO_WORLD, HALF_A_CHARACTER], [2, 1])


@pytest.mark.parametrize("facts", [{"tokenizer": BYTES}, {"kind": Kind.LOCAL}, {"kind": Kind.BEDROCK}])
def test_tokens_go_as_text_to_who_takes_only_text(facts):
    inputs = Inputs(token_request(HELLO_WORLD))
    assert inputs.for_candidate(candidate(inputs, **facts))[0] == ["hello world"]


def test_tokens_that_are_no_text_have_no_size_where_text_is_needed():
    inputs = Inputs(token_request(HELLO_WORLD, HALF_A_CHARACTER))
    assert {each: inputs.size(each) for each in (BYTES, CL100K)} == {
        BYTES: None,
        CL100K: tokens.Size((2, 1), (2, 1), 3),
    }


def test_sizes_are_those_of_each_tokenizer():
    inputs = Inputs(request("hello world"))
    assert {each: inputs.size(each) for each in (BYTES, CL100K)} == {
        BYTES: tokens.Size((19,), (0,), 19),
        CL100K: tokens.Size((2,), (2,), 2),
    }


def test_only_what_is_too_long_is_cut_and_only_on_demand():
    inputs = Inputs(request("one two three four", "one", truncate=True))
    assert inputs.for_candidate(candidate(inputs, max_tokens=2)) == (["one two", "one"], [2, 1])


def test_token_arrays_are_cut():
    inputs = Inputs(token_request([1, 2, 3], [4], truncate=True))
    assert inputs.for_candidate(candidate(inputs, max_tokens=2)) == ([[1, 2], [4]], [2, 1])


def test_token_arrays_are_cut_as_text_where_text_is_sent():
    inputs = Inputs(token_request(HELLO_WORLD, truncate=True))
    assert inputs.for_candidate(candidate(inputs, max_tokens=1, kind=Kind.LOCAL)) == (["hello"], [1])


def test_what_was_asked_for_is_never_changed():
    asked = token_request([1, 2, 3], truncate=True)
    inputs = Inputs(asked)
    inputs.for_candidate(candidate(inputs, max_tokens=2))
    assert asked.tokens == [[1, 2, 3]]


@pytest.mark.parametrize(
    ("asked", "is_heavy"),
    [
        (request("a" * 12_000), False),
        (request("a" * 6_000, "b" * 6_001), True),
        (token_request([1] * 3_000), False),
        (token_request([1] * 3_001), True),
    ],
    ids=["text", "texts", "tokens", "more tokens"],
)
def test_large_inputs_are_heavy(asked, is_heavy):
    assert Inputs(asked).is_heavy is is_heavy
