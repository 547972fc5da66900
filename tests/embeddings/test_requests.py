"""What the door's first check lets through, and the words in which it refuses the rest."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import QuiverError
from embeddings.requests import MAX_ITEMS, Body, EmbeddingRequest, decode
from providers.base import InputType

REFUSED = [
    # body, code, param, index
    (b"", "invalid_request", None, None),
    (b"{", "invalid_request", None, None),
    (b'{"input": "a"} rest', "invalid_request", None, None),
    (b"\xff\xfe", "invalid_request", None, None),
    (b'{"input": "\xff"}', "invalid_request", None, None),
    (rb'{"input": "\ud800"}', "invalid_request", None, None),
    (b"null", "invalid_request", None, None),
    (b"[]", "invalid_request", None, None),
    (b"[" * 100_000, "invalid_request", None, None),
    (b"{}", "invalid_request", "input", None),
    (b'{"input": null}', "invalid_request", "input", None),
    (b'{"input": 3}', "invalid_request", "input", None),
    (b'{"input": ""}', "invalid_request", "input", 0),
    (b'{"input": []}', "invalid_request", "input", None),
    (b'{"input": [[]]}', "invalid_request", "input", 0),
    (b'{"input": ["a", ""]}', "invalid_request", "input", 1),
    (b'{"input": ["a", null]}', "invalid_request", "input", 1),
    (b'{"input": [null]}', "invalid_request", "input", 0),
    (b'{"input": [true]}', "invalid_request", "input", 0),
    (b'{"input": [1.5]}', "invalid_request", "input", 0),
    (b'{"input": [["a"]]}', "invalid_request", "input", 0),
    (b'{"input": [[1], [[2]]]}', "invalid_request", "input", 1),
    (b'{"input": {"text": "a"}}', "invalid_request", "input", None),
    (b'{"input": ["a", 1]}', "invalid_request", "input", 1),
    (b'{"input": ["a", [1]]}', "invalid_request", "input", 1),
    (b'{"input": [[1], 2]}', "invalid_request", "input", 1),
    (b'{"input": [1, "a"]}', "invalid_request", "input", None),
    (b'{"input": [1, [2]]}', "invalid_request", "input", None),
    (b'{"input": [-1]}', "invalid_request", "input", 0),
    (b'{"input": [100256]}', "invalid_request", "input", 0),
    (b'{"input": [[1], [2, 100257]]}', "invalid_request", "input", 1),
    (b'{"input": [1' + b"0" * 40 + b"]}", "invalid_request", "input", 0),
    (b'{"input": "a", "dimensions": NaN}', "invalid_request", "dimensions", None),
    (b'{"input": "a", "dimensions": Infinity}', "invalid_request", "dimensions", None),
    (b'{"input": "a", "dimensions": 0}', "invalid_request", "dimensions", None),
    (b'{"input": "a", "dimensions": -1}', "invalid_request", "dimensions", None),
    (b'{"input": "a", "dimensions": 65537}', "invalid_request", "dimensions", None),
    (b'{"input": "a", "dimensions": 1.5}', "invalid_request", "dimensions", None),
    (b'{"input": "a", "dimensions": "256"}', "invalid_request", "dimensions", None),
    (b'{"input": "a", "dimensions": true}', "invalid_request", "dimensions", None),
    (b'{"input": "a", "encoding_format": "hex"}', "invalid_request", "encoding_format", None),
    (b'{"input": "a", "input_type": "passage"}', "invalid_request", "input_type", None),
    (b'{"input": "a", "optimize": "fastest"}', "invalid_request", "optimize", None),
    (b'{"input": "a", "truncate": "start"}', "invalid_request", "truncate", None),
    (b'{"input": "a", "model": ""}', "invalid_request", "model", None),
    (b'{"input": "a", "model": 3}', "invalid_request", "model", None),
    (b'{"input": "a", "model": "' + b"m" * 265 + b'"}', "invalid_request", "model", None),
    (b'{"input": "a", "user": "' + b"u" * 501 + b'"}', "invalid_request", "user", None),
    (b'{"input": "a", "task_type": ""}', "invalid_request", "task_type", None),
    (b'{"input": "a", "task_type": "' + b"t" * 101 + b'"}', "invalid_request", "task_type", None),
    (rb'{"input": "a", "task_type": "a\u0000b"}', "invalid_request", "task_type", None),
    (rb'{"input": "a", "task_type": "a\nb"}', "invalid_request", "task_type", None),
    (b'{"input": "a", "max_cost_usd": -0.01}', "invalid_request", "max_cost_usd", None),
    (b'{"input": "a", "max_cost_usd": "NaN"}', "invalid_request", "max_cost_usd", None),
    (b'{"input": "a", "max_cost_usd": "sNaN"}', "invalid_request", "max_cost_usd", None),
    (b'{"input": "a", "max_cost_usd": "Infinity"}', "invalid_request", "max_cost_usd", None),
    (b'{"input": "a", "max_cost_usd": 1e400}', "invalid_request", "max_cost_usd", None),
    (b'{"input": "a", "max_cost_usd": "cheap"}', "invalid_request", "max_cost_usd", None),
    (b'{"input": "a", "max_cost_usd": []}', "invalid_request", "max_cost_usd", None),
    (b'{"input": "a", "temperature": 1}', "unknown_field", "temperature", None),
    (b'{"input": "a", "Input": "a"}', "unknown_field", "Input", None),
    (b'{"input": "a", "fallback": "never"}', "invalid_request", "fallback", None),
    (b'{"input": "a", "on_item_error": "skip"}', "invalid_request", "on_item_error", None),
]


@pytest.mark.parametrize(("body", "code", "param", "index"), REFUSED, ids=[repr(each[0][:60]) for each in REFUSED])
def test_bad_input_is_refused_by_name(body, code, param, index):
    with pytest.raises(QuiverError) as refused:
        decode(body)
    assert (refused.value.status, refused.value.code, refused.value.param) == (400, code, param)
    assert index is None or refused.value.extra["index"] == index


def test_2048_items_are_taken_and_one_more_is_refused():
    most = decode(json.dumps({"input": ["a"] * MAX_ITEMS}).encode())
    with pytest.raises(QuiverError) as refused:
        decode(json.dumps({"input": ["a"] * (MAX_ITEMS + 1)}).encode())
    assert most.items == 2048
    assert (refused.value.status, refused.value.code, refused.value.param) == (400, "invalid_request", "input")
    assert "2049" in refused.value.message


def test_one_token_array_may_be_longer_than_a_list_of_texts():
    found = decode(json.dumps({"input": [7] * 5000}).encode())
    assert (found.items, len(found.tokens[0])) == (1, 5000)


@pytest.mark.parametrize(
    ("given_input", "texts", "tokens"),
    [
        ("a", ["a"], []),
        (["a", "b"], ["a", "b"], []),
        ([1, 2], [], [[1, 2]]),
        ([[1], [2, 3]], [], [[1], [2, 3]]),
        ([0, 100_255], [], [[0, 100_255]]),
        (" ", [" "], []),
        ("\x00", ["\x00"], []),
    ],
)
def test_every_form_of_input(given_input, texts, tokens):
    found = decode(json.dumps({"input": given_input}).encode())
    assert (found.texts, found.tokens) == (texts, tokens)


def test_every_field_arrives():
    body = {
        "input": "a",
        "model": "m",
        "dimensions": 256,
        "encoding_format": "base64",
        "user": "u",
        "input_type": "query",
        "task_type": "search",
        "optimize": "cost",
        "truncate": "end",
        "max_cost_usd": 0.0000000012,
    }
    assert decode(json.dumps(body).encode(), required_space="s@256") == EmbeddingRequest(
        texts=["a"],
        tokens=[],
        model="m",
        dimensions=256,
        base64=True,
        input_type=InputType.QUERY,
        task_type="search",
        strategy="cost",
        truncate=True,
        max_cost_nano=2,  # rounded up
        required_space="s",
        required_space_dimensions=256,
    )


def test_null_stands_for_absent():
    names = set(Body.__struct_fields__) - {"input"}
    assert decode(json.dumps({"input": "a", **dict.fromkeys(names)}).encode()) == decode(b'{"input": "a"}')


def test_auto_leaves_the_choice_to_quiver():
    assert decode(b'{"input": "a", "model": "auto"}').model is None


@pytest.mark.parametrize("header", ["@", "@4", "s@", "s@x", "s@0", "s@-1", "s@1.5"])
def test_a_malformed_required_space_is_refused(header):
    with pytest.raises(QuiverError) as refused:
        decode(b'{"input": "a"}', required_space=header)
    assert (refused.value.code, refused.value.param) == ("invalid_request", "X-Require-Embedding-Space")


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.decimals().map(str) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
_bodies = st.fixed_dictionaries(
    {"input": _json}, optional=dict.fromkeys(set(Body.__struct_fields__) - {"input"}, _json)
)


def is_request_or_public_error(body: bytes, required_space: str = "") -> bool:
    try:
        return isinstance(decode(body, required_space=required_space), EmbeddingRequest)
    except QuiverError as error:
        return error.status == 400 and (error.param is None or isinstance(error.param, str))


@given(st.binary(max_size=300), st.text(max_size=20))
def test_arbitrary_bytes_never_break_it(body, required_space):
    assert is_request_or_public_error(body, required_space)


@given(_bodies)
def test_arbitrary_values_in_every_field_never_break_it(body):
    assert is_request_or_public_error(json.dumps(body).encode())


@given(_bodies, st.data())
def test_a_body_damaged_in_one_place_never_breaks_it(body, data):
    raw = bytearray(json.dumps(body).encode())
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    assert is_request_or_public_error(bytes(raw))


@given(st.decimals(min_value=0, max_value=1_000_000, allow_nan=False))
def test_a_greatest_cost_is_never_rounded_down(amount):
    found = decode(json.dumps({"input": "a", "max_cost_usd": str(amount)}).encode())
    assert Decimal(found.max_cost_nano) >= amount * 10**9
