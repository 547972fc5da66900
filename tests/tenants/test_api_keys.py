"""`/api/v1/api-keys`: minting, rotating, revoking; and that nobody gives away what they do not have."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from ipaddress import ip_network
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from core.changes import Change
from core.clock import utc_now
from tenants.loading import find_grant
from tenants.minting import mint_key, revoke_key
from tenants.models import ApiKey
from tenants.rights import Rights
from tests.conftest import Party, make_party

KEYS = "/api/v1/api-keys"
CATALOG = "/api/v1/embedding-models/catalog"
NOBODY = "00000000-0000-4000-8000-000000000000"
USED = "/api/v1/tenant-models"


def soon(**later: int) -> str:
    return (utc_now() + timedelta(**later)).isoformat()


def test_a_key_is_shown_once(acme: Party, as_key: Any) -> None:
    answer = acme.api.post(KEYS, {"name": "search", "scopes": ["models:read"]})
    minted = answer.json()
    assert answer.status_code == 201, minted
    assert answer["Cache-Control"] == "no-store"
    assert minted["tenant"] == str(acme.id)
    assert minted["key"].startswith(minted["prefix"])
    assert as_key(minted["key"]).get(USED).status_code == 200
    told = acme.api.get(KEYS).content + acme.api.get(f"{KEYS}/{minted['id']}").content
    assert minted["key"].encode() not in told
    assert ApiKey.objects.filter(digest=minted["key"].encode()).count() == 0


@pytest.mark.parametrize(
    ("change", "status", "field"),
    [
        ({"scopes": []}, 400, "scopes"),
        ({"scopes": ["everything"]}, 400, "scopes[0]"),
        ({"scopes": ["operator"]}, 400, "scopes"),
        ({"name": ""}, 400, "name"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, 400, "expires_at"),
        ({"expires_at": "tomorrow"}, 400, "expires_at"),
        ({"networks": ["10.0.0.1/8"]}, 400, "networks[0]"),
        ({"networks": ["home"]}, 400, "networks[0]"),
        ({"models": ["no-such-model"]}, 400, "models"),
        ({"colour": "red"}, 400, "colour"),
        ({"tenant": NOBODY}, 403, "tenant"),
    ],
)
def test_bad_input_is_named(change: dict[str, Any], status: int, field: str, acme: Party) -> None:
    answer = acme.api.post(KEYS, {"name": "search", "scopes": ["embeddings"]} | change)
    assert (answer.status_code, list(answer.json()["errors"])) == (status, [field]), answer.json()


def test_restrictions_are_inherited(bound: str, as_key: Any) -> None:
    child = as_key(bound).post(KEYS, {"name": "child", "scopes": ["embeddings"]}).json()
    assert (child["models"], child["networks"], child["agent_id"]) == (["small"], ["127.0.0.0/8"], "crawler")
    assert child["expires_at"] is not None


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"scopes": ["embeddings", "usage:read"]}, "scopes"),
        ({"scopes": ["admin"]}, "scopes"),
        ({"models": ["small", "large"]}, "models"),
        ({"networks": ["10.0.0.0/8"]}, "networks"),
        ({"networks": ["0.0.0.0/0"]}, "networks"),
        ({"agent_id": "other"}, "agent_id"),
        ({"expires_at": "2999-01-01T00:00:00Z"}, "expires_at"),
    ],
)
def test_nobody_gives_away_more_than_they_have(change: dict[str, Any], field: str, bound: str, as_key: Any) -> None:
    answer = as_key(bound).post(KEYS, {"name": "child", "scopes": ["embeddings"]} | change)
    assert (answer.status_code, list(answer.json()["errors"])) == (403, [field])


def test_less_may_be_given(bound: str, as_key: Any) -> None:
    less = {"networks": ["127.1.0.0/16"], "expires_at": soon(hours=1), "agent_id": "crawler", "models": ["small"]}
    assert as_key(bound).post(KEYS, {"name": "c", "scopes": ["embeddings"]} | less).status_code == 201


def test_only_keys_that_may_write_keys_do(acme: Party, mint: Callable[..., str], as_key: Any) -> None:
    answer = as_key(mint(acme.id, "embeddings", "models:write", "usage:read")).get(KEYS)
    assert (answer.status_code, answer.json()["code"]) == (403, "key_not_permitted")
    assert "keys:write" in answer.json()["detail"]


def test_a_revoked_key_ends_with_all_that_it_minted(acme: Party, as_key: Any) -> None:
    child = acme.api.post(KEYS, {"name": "child", "scopes": ["keys:write", "models:read"]}).json()
    grandchild = as_key(child["key"]).post(KEYS, {"name": "grandchild", "scopes": ["models:read"]}).json()
    sibling = acme.api.post(KEYS, {"name": "sibling", "scopes": ["models:read"]}).json()
    assert acme.api.delete(f"{KEYS}/{child['id']}").status_code == 204
    outcomes = [as_key(each["key"]).get(USED).status_code for each in (child, grandchild, sibling)]
    assert outcomes == [401, 401, 200]
    assert acme.api.get(f"{KEYS}/{child['id']}").json()["revoked_at"] is not None


def test_what_an_operator_minted_for_a_tenant_outlives_the_operators_key(
    operator: Any, acme: Party, as_key: Any
) -> None:
    leaving = operator.post(KEYS, {"name": "leaving", "scopes": ["operator"]}).json()
    platforms = as_key(leaving["key"]).post(KEYS, {"name": "p", "scopes": ["operator"]}).json()
    tenants = as_key(leaving["key"]).post(KEYS, {"name": "t", "scopes": ["admin"], "tenant": str(acme.id)}).json()
    assert operator.delete(f"{KEYS}/{leaving['id']}").status_code == 204
    assert as_key(platforms["key"]).get(KEYS).status_code == 401
    assert as_key(tenants["key"]).get(USED).status_code == 200


def test_rotation_overlaps_and_hands_over(acme: Party, as_key: Any) -> None:
    old = acme.api.post(KEYS, {"name": "old", "scopes": ["keys:write", "models:read"]}).json()
    child = as_key(old["key"]).post(KEYS, {"name": "child", "scopes": ["models:read"]}).json()
    answer = acme.api.post(f"{KEYS}/{old['id']}/rotate", {"overlap_seconds": 3600})
    new = answer.json()
    assert answer.status_code == 201, new
    assert new["id"] != old["id"]
    assert {name: new[name] for name in ("name", "scopes", "models")} == {
        name: old[name] for name in ("name", "scopes", "models")
    }
    assert [as_key(each["key"]).get(USED).status_code for each in (old, new, child)] == [200, 200, 200]
    assert acme.api.get(f"{KEYS}/{old['id']}").json()["expires_at"] is not None
    acme.api.delete(f"{KEYS}/{old['id']}")
    assert [as_key(each["key"]).get(USED).status_code for each in (old, new, child)] == [401, 200, 200]


def test_rotation_without_overlap_ends_the_old_key(acme: Party, as_key: Any) -> None:
    old = acme.api.post(KEYS, {"name": "old", "scopes": ["models:read"]}).json()
    new = acme.api.post(f"{KEYS}/{old['id']}/rotate", {}).json()
    assert [as_key(each["key"]).get(USED).status_code for each in (old, new)] == [401, 200]
    assert acme.api.post(f"{KEYS}/{old['id']}/rotate", {}).json()["code"] == "conflict"


def test_a_small_key_cannot_become_a_great_one_by_rotating_it(
    acme: Party, mint: Callable[..., str], as_key: Any
) -> None:
    answer = as_key(mint(acme.id, "keys:write")).post(f"{KEYS}/{acme.key_id}/rotate", {})
    assert (answer.status_code, answer.json()["code"]) == (403, "key_not_permitted")
    assert acme.api.get(USED).status_code == 200


@pytest.mark.parametrize("seconds", [-1, 31 * 24 * 3600, "long"])
def test_an_overlap_has_bounds(seconds: Any, acme: Party) -> None:
    answer = acme.api.post(f"{KEYS}/{acme.key_id}/rotate", {"overlap_seconds": seconds})
    assert (answer.status_code, list(answer.json()["errors"])) == (400, ["overlap_seconds"])


def test_mallory_reaches_no_key_of_acmes(acme: Party, mallory: Party) -> None:
    assert [each["id"] for each in mallory.api.get(KEYS).json()["results"]] == [str(mallory.key_id)]
    url = f"{KEYS}/{acme.key_id}"
    refused = [mallory.api.get(url), mallory.api.delete(url), mallory.api.post(f"{url}/rotate", {})]
    assert {each.status_code for each in refused} == {404}
    forged = mallory.api.post(KEYS, {"name": "m", "scopes": ["admin"], "tenant": str(acme.id)})
    assert forged.status_code == 403
    assert mallory.api.get(f"{KEYS}?tenant={acme.id}").status_code == 403
    assert acme.api.get(USED).status_code == 200


def test_an_operator_works_for_a_tenant_with_a_key_that_it_mints(operator: Any, acme: Party, as_key: Any) -> None:
    refused = operator.get(USED)
    assert refused.status_code == 403
    assert "mint a key" in refused.json()["detail"]
    minted = operator.post(KEYS, {"name": "for acme", "scopes": ["admin"], "tenant": str(acme.id)}).json()
    assert minted["tenant"] == str(acme.id)
    assert as_key(minted["key"]).get(USED).status_code == 200
    names = [each["name"] for each in operator.get(f"{KEYS}?tenant={acme.id}").json()["results"]]
    assert names == ["for acme", "all"]
    assert operator.post(KEYS, {"name": "x", "scopes": ["admin"], "tenant": str(uuid4())}).status_code == 404
    assert operator.get(f"{KEYS}?tenant=acme").status_code == 400


def test_expired_revoked_and_mistyped_keys_are_401(acme: Party, mint: Callable[..., str], as_key: Any) -> None:
    expired = mint(acme.id, "models:read", expires_at=utc_now() + timedelta(days=1))
    ApiKey.objects.filter(expires_at__isnull=False).update(expires_at=utc_now())
    for key in (expired, acme.key[:-1] + "-", "sk-openai", None):
        answer = as_key(key).get(USED)
        assert (answer.status_code, answer.json()["code"]) == (401, "invalid_api_key")
        assert answer["WWW-Authenticate"].startswith("Bearer")


def test_a_mistyped_key_costs_no_query(acme: Party, as_key: Any) -> None:
    with CaptureQueriesContext(connection) as queries:
        assert as_key(acme.key.swapcase()).get(CATALOG).status_code == 401
    assert [each["sql"] for each in queries if "tenants_apikey" in each["sql"]] == []


def test_a_key_bound_to_networks_works_from_there_only(acme: Party, mint: Callable[..., str], as_key: Any) -> None:
    api = as_key(mint(acme.id, "models:read", networks=(ip_network("10.0.0.0/8"),)))
    assert api.get(USED, REMOTE_ADDR="10.9.9.9").status_code == 200
    assert api.get(USED, REMOTE_ADDR="192.168.0.1").status_code == 403


def test_minting_and_revoking_are_published(acme: Party, operator: Any, changes: Any, committed: Any) -> None:
    with committed():
        minted = acme.api.post(KEYS, {"name": "x", "scopes": ["embeddings"]}).json()
        acme.api.delete(f"{KEYS}/{minted['id']}")
        platform = operator.post(KEYS, {"name": "x", "scopes": ["operator"]}).json()
        operator.delete(f"{KEYS}/{platform['id']}")
    assert changes() == [Change(acme.id), Change(acme.id), Change(), Change()]


def test_the_list_pages_by_cursor_at_constant_cost(acme: Party, mint: Callable[..., str]) -> None:
    def page(url: str) -> tuple[dict[str, Any], int]:
        with CaptureQueriesContext(connection) as queries:
            answer = acme.api.get(url)
        assert answer.status_code == 200, answer.json()
        return answer.json(), len(queries)

    _, once = page(KEYS)
    for _ in range(49):
        mint(acme.id, "embeddings")
    found, now = page(KEYS)
    assert (len(found["results"]), now) == (50, once)
    first, _ = page(f"{KEYS}?limit=30")
    second, _ = page(first["next"])
    again, _ = page(second["previous"])
    ids = [each["id"] for each in first["results"] + second["results"]]
    assert (len(ids), len(set(ids))) == (50, 50)
    assert (second["next"], again["results"]) == (None, first["results"])


@pytest.mark.parametrize("query", ["limit=0", "limit=201", "limit=many", "cursor=forged", "colour=red", "tenant=x"])
def test_a_query_that_cannot_be_meant_is_refused(query: str, acme: Party) -> None:
    answer = acme.api.get(f"{KEYS}?{query}")
    assert (answer.status_code, list(answer.json()["errors"])) == (400, [query.partition("=")[0]])


@pytest.mark.django_db(transaction=True)
def test_a_key_that_is_being_revoked_leaves_no_child_behind(at_once: Callable[..., list[Any]]) -> None:
    acme = make_party("acme")
    grant = find_grant(acme.key_id)

    def give_birth() -> Any:
        return mint_key(tenant_id=acme.id, name="child", rights=Rights(frozenset({"embeddings"})), creator=grant)

    at_once(*[give_birth] * 4, lambda: revoke_key(key_id=acme.key_id, tenant_id=acme.id), *[give_birth] * 4)
    assert ApiKey.objects.filter(tenant_id=acme.id, revoked_at=None).count() == 0
