"""API keys in the admin: minted, rotated, revoked, and shown once."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.admin.pages import fill, kept, page, read
from tests.admin.world import version
from tests.conftest import Party

KEY = re.compile(r"qv_live_[0-9A-Za-z]{12}_[0-9A-Za-z]{32}_[0-9A-Za-z]{6}")


def key_row(**which: Any) -> Any:
    from tenants.models import ApiKey

    return ApiKey.objects.get(**which)


def the_key_in(answer: Any) -> str:
    found = set(KEY.findall(answer.content.decode()))
    assert len(found) == 1
    return found.pop()


def test_a_new_key_is_shown_once_and_works(owner: Any, furnished: Party) -> None:
    from tenants.keys import digest
    from tenants.loading import find_key

    before = version(furnished.id)
    wishes = {"name": "search", "scopes": ["embeddings", "usage:read"], "models_allowed": ["small"]}
    answer = fill(owner, page("tenants_apikey_add"), networks="10.0.0.0/8\n192.168.1.1", **wishes)
    text = the_key_in(answer)
    grant = find_key(digest(text))
    assert grant is not None
    assert (grant.tenant_id, grant.scopes, grant.models) == (furnished.id, {"embeddings", "usage:read"}, {"small"})
    assert [str(each) for each in grant.networks] == ["10.0.0.0/8", "192.168.1.1/32"]
    assert version(furnished.id) > before
    assert {"private", "no-store"} <= set(answer.headers["Cache-Control"].split(", "))
    assert text not in kept(owner)
    row = key_row(name="search")
    assert row.created_by.email == "owner@acme.example"
    for url in (page("tenants_apikey_changelist"), page("tenants_apikey_change", row.pk), page("index")):
        assert text not in read(owner, url).text


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"scopes": []}, "This field is required"),
        ({"scopes": ["operator"]}, "Select a valid choice"),
        ({"networks": "nonsense"}, "write an address or a range"),
        ({"models_allowed": ["large"]}, "Select a valid choice"),
        ({"expires_at_0": "2020-01-01", "expires_at_1": "00:00"}, "has passed already"),
    ],
)
def test_a_key_that_is_refused_says_why(owner: Any, wrong: dict[str, Any], said: str) -> None:
    answer = fill(owner, page("tenants_apikey_add"), **({"name": "wrong", "scopes": ["embeddings"]} | wrong))
    assert answer.status_code == 200
    assert said in answer.content.decode()
    assert not KEY.search(answer.content.decode())


def test_rotating_shows_the_successor_once_and_lets_the_old_one_live_on(owner: Any, furnished: Party) -> None:
    from tenants.keys import digest
    from tenants.loading import find_key

    old = key_row(name="acme key")
    answer = fill(owner, page("tenants_apikey_rotate", old.pk), overlap_seconds="600")
    text = the_key_in(answer)
    grant = find_key(digest(text))
    assert grant is not None
    assert grant.scopes == set(old.scopes)
    assert text not in kept(owner)
    old.refresh_from_db()
    assert old.revoked_at is None
    assert old.expires_at is not None


def test_too_long_an_overlap_is_refused_by_the_field(owner: Any, furnished: Party) -> None:
    old = key_row(name="acme key")
    answer = fill(owner, page("tenants_apikey_rotate", old.pk), overlap_seconds="99999999")
    assert "less than or equal to" in answer.content.decode()


def test_revoking(owner: Any, furnished: Party) -> None:
    row, before = key_row(name="acme key"), version(furnished.id)
    assert owner.post(page("tenants_apikey_revoke", row.pk)).status_code == 302
    row.refresh_from_db()
    assert row.revoked_at is not None
    assert version(furnished.id) > before
    # What has ended offers nothing, and is refused when asked all the same.
    assert page("tenants_apikey_rotate", row.pk) not in read(owner, page("tenants_apikey_change", row.pk)).links
    answer = owner.post(page("tenants_apikey_rotate", row.pk), {"overlap_seconds": "0"})
    assert "has ended already" in answer.content.decode()


def test_an_operator_says_whom_a_key_is_for(chief: Any, furnished: Party) -> None:
    url = page("tenants_apikey_add")
    assert "Whom is this" in read(chief, url).text
    the_key_in(fill(chief, f"{url}?tenant={furnished.id}", name="theirs", scopes=["embeddings"]))
    the_key_in(fill(chief, f"{url}?tenant=platform", name="ours", scopes=["operator"]))
    assert key_row(name="theirs").tenant_id == furnished.id
    assert key_row(name="ours").tenant_id is None
