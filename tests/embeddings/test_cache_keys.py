"""The names of cached vectors: different wherever a vector may be, and telling nothing."""

from __future__ import annotations

import base64
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embeddings.cache_keys import PREFIX, ItemKeys, KeyRing, tenant_secret

ACME, MALLORY = UUID(int=1), UUID(int=2)
MASTER = bytes(range(32))


def keys(tenant: UUID = ACME, **facts: Any) -> ItemKeys:
    words = {"space": "small", "epoch": 1, "dimensions": 4, **facts}
    return ItemKeys(tenant_secret(MASTER, tenant), **words)


def test_the_same_item_has_the_same_name_and_duplicates_share_it():
    assert keys().of(["a", "b", "a"]) == [*keys().of(["a"]), *keys().of(["b", "a"])]


@pytest.mark.parametrize(
    "facts",
    [
        {"space": "other"},
        {"space": "small2"},
        {"epoch": 2},
        {"dimensions": 41},
        {"input_type": "query"},
        {"input_type": "document"},
        {"may_be_cut": True},
        {"tenant": MALLORY},
    ],
)
def test_whatever_a_vector_depends_on_gives_another_name(facts: dict[str, Any]):
    assert keys(**facts).of(["a"]) != keys().of(["a"])


def test_a_text_and_its_tokens_have_different_names():
    assert keys().of([[15339, 1917]]) != keys().of(["hello world"])
    assert keys().of([[1]]) != keys().of(["\x01\x00\x00\x00"])
    assert keys().of([[1, 2]]) != keys().of([[1], [2]])


def test_a_text_that_was_cut_has_the_name_of_what_it_was_cut_to():
    assert keys().of(["hello wor"]) != keys().of(["hello world"])


def test_two_tenants_have_no_name_in_common_and_mallory_cannot_make_acmes():
    texts = [f"text {number}" for number in range(1000)]
    of_acme, of_mallory = set(keys().of(texts)), set(keys(tenant=MALLORY).of(texts))
    assert not of_acme & of_mallory
    # All that she knows or may choose: her own secret, and any word that goes into a name.
    guesses = [
        keys(tenant=MALLORY, space=f"small{ACME}").of(texts),
        ItemKeys(ACME.bytes, space="small", epoch=1, dimensions=4).of(texts),
        ItemKeys(b"", space="small", epoch=1, dimensions=4).of(texts),
    ]
    assert not of_acme & {name for each in guesses for name in each}


def test_a_name_holds_no_part_of_its_text():
    (name,) = keys().of(["secret" * 100])
    assert (name.startswith(PREFIX), len(name), b"secret" in name) == (True, 29, False)


def test_the_ring_gives_what_is_made_by_hand_and_the_first_key_counts():
    first = f"a:{base64.b64encode(MASTER).decode()}"
    ring = KeyRing(f"{first},b:{base64.b64encode(bytes(32)).decode()}")
    made = ring.keys(ACME, space="small", epoch=1, dimensions=4)
    assert made.of(["a"]) == keys().of(["a"])
    assert ring.keys(ACME, space="small", epoch=1, dimensions=4) is made
    assert ring.keys(MALLORY, space="small", epoch=1, dimensions=4).of(["a"]) != made.of(["a"])


spaces = st.tuples(st.text(max_size=5), st.integers(0, 99), st.integers(1, 99), st.none() | st.text(max_size=5))
items = st.text(max_size=5) | st.lists(st.integers(0, 100_255), max_size=3)


@given(spaces, items, spaces, items)
def test_names_are_equal_exactly_where_everything_is(one, item, two, other) -> None:
    def name(place, of) -> bytes:
        space, epoch, dimensions, input_type = place
        return keys(space=space, epoch=epoch, dimensions=dimensions, input_type=input_type).of([of])[0]

    assert (name(one, item) == name(two, other)) == ((one, item) == (two, other))
