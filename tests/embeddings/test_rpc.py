"""Text frames: JSON-RPC 2.0, the codes of errors, and parameters that are refused by name."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import errors
from core.errors import public_errors
from embeddings import methods, rpc
from embeddings.methods import BY_NUMBER, METHODS


def asked(method: str = "ping", id: Any = 1, **params: Any) -> rpc.Asked:
    return rpc.read(json.dumps({"jsonrpc": "2.0", "id": id, "method": method, "params": params}))


def refused(text: str) -> tuple[Any, int]:
    with pytest.raises(rpc.Refused) as caught:
        rpc.read(text)
    said = json.loads(caught.value.answer)
    return said["id"], said["error"]["code"]


@given(id=st.one_of(st.integers(-(2**63), 2**63 - 1), st.text(), st.none()))
def test_an_answer_has_the_id_of_its_request(id):
    found = json.loads(rpc.result(asked(id=id), {"pong": True}))
    assert found == {"jsonrpc": "2.0", "id": id, "result": {"pong": True}}


def test_without_an_id_no_answer_is_wanted():
    assert not rpc.read('{"jsonrpc":"2.0","method":"ping"}').wants_answer
    assert rpc.read('{"jsonrpc":"2.0","method":"ping","id":null}').wants_answer


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", (None, -32700)),
        ("{", (None, -32700)),
        ('"\\ud800"', (None, -32700)),
        ("[" * 5000, (None, -32600)),
        ('{"jsonrpc":"2.0","id":9223372036854775808,"method":"ping"}', (9223372036854775808, -32600)),
        ("[]", (None, -32600)),
        ('[{"jsonrpc":"2.0","id":1,"method":"ping"}]', (None, -32600)),
        ('{"id":5,"method":"ping"}', (5, -32600)),
        ('{"jsonrpc":"1.0","id":5,"method":"ping"}', (5, -32600)),
        ('{"jsonrpc":"2.0","id":"x"}', ("x", -32600)),
        ('{"jsonrpc":"2.0","id":1.5,"method":"ping"}', (None, -32600)),
        ('{"jsonrpc":"2.0","id":1,"method":"ping","more":1}', (1, -32600)),
        ('{"jsonrpc":"2.0","id":1,"method":"no.such"}', (1, -32601)),
    ],
)
def test_what_is_no_request(text, expected):
    assert refused(text) == expected


@given(text=st.text(max_size=200))
def test_what_is_no_json_is_refused(text):
    with pytest.raises(rpc.Refused) as caught:
        rpc.read(text)
    assert json.loads(caught.value.answer)["error"]["code"] in (-32700, -32600)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=10),
    lambda each: st.lists(each, max_size=4) | st.dictionaries(st.text(max_size=10), each, max_size=4),
    max_leaves=10,
)


@given(method=st.sampled_from(sorted(METHODS)), params=JSON)
def test_parameters_are_taken_or_refused_in_words(method, params):
    for raw, is_binary in ((msgspec.json.encode(params), False), (msgspec.msgpack.encode(params), True)):
        with suppress(errors.InvalidRequest):  # which an unknown field is as well; anything else fails
            assert isinstance(methods.decode(METHODS[method], raw, is_binary=is_binary), METHODS[method].params)


@pytest.mark.parametrize(
    ("method", "params", "param"),
    [
        ("agent.register", {}, "agent_id"),
        ("agent.register", {"agent_id": "a", "colour": 1}, "colour"),
        ("agent.register", {"agent_id": 5}, "agent_id"),
        ("embedding.generate", {"input": "a", "dimensions": 0}, "dimensions"),
        ("embedding.generate", {"input": "a", "encoding": "hex"}, "encoding"),
        ("embedding.generate", {"input": [["a"]]}, "input[0][0]"),
        ("embedding.batch", {"items": []}, "items"),
        ("embedding.batch", {"items": [{"id": "a", "input": "a"}, {"input": "b"}]}, "items[1].id"),
        ("embedding.batch", {"items": [{"id": "a", "input": "a", "size": 1}]}, "items[0].size"),
        ("subscribe", {"topics": ["weather"]}, "topics[0]"),
        ("usage.get", {"period": "year"}, "period"),
        ("ping", {"a": 1}, "a"),
    ],
)
def test_a_refusal_names_the_parameter(method, params, param):
    with pytest.raises(errors.InvalidRequest) as caught:
        methods.decode(METHODS[method], json.dumps(params).encode(), is_binary=False)
    assert caught.value.param == param


def test_parameters_must_be_an_object():
    with pytest.raises(errors.InvalidRequest) as caught:
        methods.decode(METHODS["ping"], b"[1]", is_binary=False)
    assert caught.value.param == "params"


def test_every_public_error_has_a_code_of_its_family():
    codes = {each.code: rpc.code_of(each("m")) for each in public_errors()}
    assert set(codes.values()) <= {
        -32602,
        -32603,
        -32001,
        -32003,
        -32004,
        -32009,
        -32010,
        -32011,
        -32012,
        -32013,
        -32015,
    }
    expected = {
        "invalid_request": -32602,
        "unknown_field": -32602,
        "invalid_api_key": -32001,
        "key_not_permitted": -32003,
        "tenant_suspended": -32003,
        "model_not_configured": -32004,
        "conflict": -32009,
        "quota_exceeded": -32010,
        "budget_exceeded": -32010,
        "model_unpriced": -32010,
        "rate_limit_exceeded": -32011,
        "no_model_available": -32012,
        "space_mismatch": -32012,
        "provider_error": -32013,
        "provider_timeout": -32013,
        "request_too_large": -32015,
        "internal_error": -32603,
    }
    assert expected.items() <= codes.items()


def test_an_error_says_what_can_be_done():
    error = errors.RateLimitExceeded("Too many.", retry_after=3, param="p", extra={"attempts": []})
    said = json.loads(rpc.failure(asked(id="x"), error, "r-1"))
    data = {"code": "rate_limit_exceeded", "attempts": [], "param": "p", "retry_after": 3, "request_id": "r-1"}
    assert said == {"jsonrpc": "2.0", "id": "x", "error": {"code": -32011, "message": "Too many.", "data": data}}


def test_numbers_of_the_contract():
    numbers = {number: each.name for number, each in BY_NUMBER.items()}
    assert numbers == {
        64: "embedding.generate",
        65: "embedding.batch",
        66: "agent.register",
        67: "agent.heartbeat",
        8: "ping",
    }
