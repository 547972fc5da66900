"""The form of an API key, and who is let in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InvalidApiKey, KeyNotPermitted
from tenants.admission import admit, key_text
from tenants.keys import digest, is_well_formed, mint
from tenants.snapshots import KeyGrant

NOW = datetime(2030, 1, 1, tzinfo=UTC)
KEY = mint().text  # one for all examples: what is tried must not depend on chance twice
ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def grant(**restrictions: object) -> KeyGrant:
    plain: dict[str, object] = {
        "key_id": uuid4(),
        "tenant_id": uuid4(),
        "tenant_version": 1,
        "scopes": frozenset({"embeddings"}),
        "models": frozenset(),
        "networks": (),
        "agent_id": "",
        "expires_at": None,
    }
    return KeyGrant(**(plain | restrictions))  # type: ignore[arg-type]


@given(st.booleans())
def test_a_minted_key_is_well_formed(live: bool) -> None:
    minted = mint(live=live)
    assert is_well_formed(minted.text)
    assert minted.text.startswith(f"{minted.prefix}_")
    assert minted.prefix.startswith("qv_live_" if live else "qv_test_")
    assert minted.digest == digest(minted.text)
    assert len(minted.digest) == 32


@given(st.data())
def test_one_wrong_letter_is_noticed(data: st.DataObject) -> None:
    at = data.draw(st.integers(len("qv_live_"), len(KEY) - 1))
    other = data.draw(st.sampled_from(ALPHABET).filter(lambda letter: letter != KEY[at]))
    assert not is_well_formed(KEY[:at] + other + KEY[at + 1 :])


@given(st.text())
def test_no_text_at_all_is_taken_for_a_key(text: str) -> None:
    assert not is_well_formed(text)


@given(st.integers(0, len(KEY) - 1), st.text(min_size=1, max_size=3))
def test_a_key_cut_off_or_grown_is_noticed(length: int, tail: str) -> None:
    assert not is_well_formed(KEY[:length])
    assert not is_well_formed(KEY + tail)


def test_two_keys_are_never_the_same() -> None:
    assert len({mint().text for _ in range(1000)}) == 1000


@pytest.mark.parametrize(
    ("authorization", "x_api_key"),
    [("Bearer {}", ""), ("bearer {}", ""), ("", "{}"), ("Bearer {}", "{}"), ("Bearer  {} ", "")],
)
def test_either_header_holds_the_key(authorization: str, x_api_key: str) -> None:
    text = mint().text
    assert key_text(authorization=authorization.format(text), x_api_key=x_api_key.format(text)) == text


@pytest.mark.parametrize(
    ("authorization", "x_api_key", "says"),
    [
        ("", "", "No API key"),
        ("Bearer", "", "No API key"),
        ("Basic abc", "", "must be `Bearer"),
        ("Bearer sk-openai", "", "mistyped"),
        ("", "qv_live_x", "mistyped"),
        ("Bearer a", "b", "different keys"),
    ],
)
def test_a_key_that_cannot_be_ours_needs_no_look_up(authorization: str, x_api_key: str, says: str) -> None:
    with pytest.raises(InvalidApiKey, match=says):
        key_text(authorization=authorization, x_api_key=x_api_key)


def test_an_unknown_and_an_expired_key_stay_outside() -> None:
    with pytest.raises(InvalidApiKey, match="unknown or was revoked"):
        admit("k", lambda digest: None, now=NOW, address="")
    with pytest.raises(InvalidApiKey, match="expired at 2030-01-01 00:00 UTC"):
        admit("k", lambda digest: grant(expires_at=NOW), now=NOW, address="")
    soon = grant(expires_at=NOW + timedelta(microseconds=1))
    assert admit("k", lambda digest: soon, now=NOW, address="") is soon


@pytest.mark.parametrize("address", ["10.1.2.3", "::ffff:10.1.2.3", "fd00::5"])
def test_an_address_inside_is_let_in(address: str) -> None:
    bound = grant(networks=(ip_network("10.0.0.0/8"), ip_network("fd00::/8")))
    assert admit("k", lambda digest: bound, now=NOW, address=address) is bound


@pytest.mark.parametrize("address", ["11.1.2.3", "fe80::1%eth0", "", "localhost"])
def test_an_address_outside_is_not(address: str) -> None:
    bound = grant(networks=(ip_network("10.0.0.0/8"),))
    with pytest.raises(KeyNotPermitted):
        admit("k", lambda digest: bound, now=NOW, address=address)
