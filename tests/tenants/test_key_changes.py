"""Keys that are changed, found, shrunk with their makers; and when they were last used."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from audit.models import AuditEvent
from core.clock import utc_now
from core.errors import KeyNotPermitted
from tenants import key_use
from tenants.loading import MOST_GENERATIONS
from tenants.members import add_member, remove_member
from tenants.minting import change_key, mint_key, record_use, rotate_key
from tenants.models import ApiKey, Tenant
from tenants.rights import Rights
from tests.admin.people import person
from tests.conftest import Party

KEYS, USED = "/api/v1/api-keys", "/api/v1/tenant-models"


def soon(**later: int) -> str:
    return (utc_now() + timedelta(**later)).isoformat()


def test_a_key_is_renamed_and_narrowed(acme: Party, add_model: Callable[..., Any], as_key: Any) -> None:
    add_model("small")
    made = acme.api.post(KEYS, {"name": "old", "scopes": ["models:read"]})
    key, url = made.json(), f"{KEYS}/{made.json()['id']}"
    change = {"name": "new", "models": ["small"], "networks": ["10.0.0.0/8"], "expires_at": soon(hours=1)}
    answer = acme.api.patch(url, change, headers={"If-Match": made["ETag"]})
    shown = answer.json()
    assert answer.status_code == 200, shown
    assert (shown["name"], shown["models"], shown["networks"]) == ("new", ["small"], ["10.0.0.0/8"])
    assert (shown["scopes"], answer["ETag"]) == (["models:read"], acme.api.get(url)["ETag"])
    assert as_key(key["key"]).get(USED).status_code == 403
    assert as_key(key["key"]).get(USED, REMOTE_ADDR="10.1.1.1").status_code == 200
    assert acme.api.patch(url, {"name": "newer"}, headers={"If-Match": made["ETag"]}).status_code == 412
    assert acme.api.patch(url, {"models": [], "networks": [], "expires_at": None}).json()["models"] == []


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"scopes": ["admin"]}, "scopes"),
        ({"agent_id": "other"}, "agent_id"),
        ({"revoked_at": None, "name": ""}, "name"),
        ({"models": ["no-such-model"]}, "models"),
        ({"networks": ["home"]}, "networks[0]"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_change_that_makes_no_sense_is_named(change: dict[str, Any], field: str, acme: Party) -> None:
    made = acme.api.post(KEYS, {"name": "k", "scopes": ["models:read"]}).json()
    answer = acme.api.patch(f"{KEYS}/{made['id']}", change)
    assert (answer.status_code, list(answer.json()["errors"])) == (400, [field])


@pytest.mark.parametrize("change", [{"expires_at": None}, {"models": ["small", "large"]}, {"networks": ["0.0.0.0/0"]}])
def test_a_key_cannot_widen_itself(change: dict[str, Any], bound: str, as_key: Any) -> None:
    api = as_key(bound)
    own = next(each for each in api.get(KEYS).json()["results"] if each["agent_id"])
    before = {name: own[name] for name in change}
    api.patch(f"{KEYS}/{own['id']}", change)
    assert {name: api.get(f"{KEYS}/{own['id']}").json()[name] for name in change} == before


def test_a_small_key_changes_no_great_one(acme: Party, mint: Callable[..., str], as_key: Any) -> None:
    for change in ({"name": "mine"}, {"expires_at": soon(hours=1)}):
        answer = as_key(mint(acme.id, "keys:write")).patch(f"{KEYS}/{acme.key_id}", change)
        assert (answer.status_code, answer.json()["code"]) == (403, "key_not_permitted")


def test_what_a_key_loses_is_lost_to_those_that_it_minted(
    acme: Party, add_model: Callable[..., Any], as_key: Any
) -> None:
    parent = acme.api.post(KEYS, {"name": "parent", "scopes": ["keys:write", "models:read"]}).json()
    child = as_key(parent["key"]).post(KEYS, {"name": "child", "scopes": ["models:read"]}).json()
    acme.api.patch(f"{KEYS}/{parent['id']}", {"networks": ["10.0.0.0/8"]})
    assert as_key(child["key"]).get(USED).status_code == 403
    assert as_key(child["key"]).get(USED, REMOTE_ADDR="10.1.1.1").status_code == 200
    answer = acme.api.patch(f"{KEYS}/{child['id']}", {"networks": ["192.168.0.0/16"]})
    assert (answer.status_code, list(answer.json()["errors"])) == (403, ["networks"])


def test_a_revoked_key_is_not_changed(acme: Party) -> None:
    made = acme.api.post(KEYS, {"name": "k", "scopes": ["models:read"]}).json()
    acme.api.delete(f"{KEYS}/{made['id']}")
    assert acme.api.patch(f"{KEYS}/{made['id']}", {"name": "x"}).json()["code"] == "conflict"


@pytest.mark.parametrize(("role", "status"), [("admin", 200), ("billing", 200), ("viewer", 200), (None, 401)])
def test_a_key_shrinks_with_the_role_of_who_made_it(role: Any, status: int, acme: Party, as_key: Any) -> None:
    maker = person("maker@acme.test", **{str(acme.id): "admin"})
    rights = Rights(frozenset({"models:read", "models:write", "keys:write"}))
    key = mint_key(tenant_id=acme.id, name="k", rights=rights, created_by=maker)[1]
    child = as_key(key).post(KEYS, {"name": "child", "scopes": ["models:write", "models:read"]}).json()["key"]
    if role is None:
        remove_member(tenant_id=acme.id, user_id=maker.pk, by=person("operator@quiver.test", is_operator=True))
    else:
        add_member(tenant_id=acme.id, user=maker, role=role)
    for each in (key, child):
        assert as_key(each).get(USED).status_code == status
        assert as_key(each).post(USED, {}).status_code == {"admin": 400, None: 401}.get(role, 403)


def test_a_key_rotated_by_somebody_else_outlives_who_made_it(acme: Party, as_key: Any) -> None:
    maker, other = (person(f"{name}@acme.test", **{str(acme.id): "owner"}) for name in ("maker", "other"))
    row, old = mint_key(tenant_id=acme.id, name="k", rights=Rights(frozenset({"models:read"})), created_by=maker)
    _, new = rotate_key(key_id=row.id, tenant_id=acme.id, overlap=timedelta(hours=1), by=other)
    remove_member(tenant_id=acme.id, user_id=maker.pk, by=other)
    assert [as_key(each).get(USED).status_code for each in (old, new)] == [401, 200]


@pytest.mark.parametrize("role", ["billing", "viewer"])
def test_who_may_make_no_keys_makes_none(role: str, acme: Party) -> None:
    someone = person("someone@acme.test", **{str(acme.id): role})
    with pytest.raises(KeyNotPermitted):
        mint_key(tenant_id=acme.id, name="k", rights=Rights(frozenset({"models:read"})), created_by=someone)
    with pytest.raises(KeyNotPermitted):
        change_key(key_id=acme.key_id, tenant_id=acme.id, by=someone, name="mine")


def test_keys_do_not_mint_each_other_for_ever(acme: Party, as_key: Any) -> None:
    key = acme.key
    for _ in range(MOST_GENERATIONS - 1):
        key = as_key(key).post(KEYS, {"name": "next", "scopes": ["keys:write"]}).json()["key"]
    answer = as_key(key).post(KEYS, {"name": "next", "scopes": ["keys:write"]})
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")


def test_keys_are_filtered_and_ordered(acme: Party, mallory: Party) -> None:
    def made(name: str, **more: Any) -> Any:
        return acme.api.post(KEYS, {"name": name, "scopes": ["models:read"], **more}).json()

    gone, late, bot = made("gone"), made("late", expires_at=soon(hours=1)), made("bot", agent_id="crawler")
    acme.api.delete(f"{KEYS}/{gone['id']}")
    ApiKey.objects.filter(id=late["id"]).update(expires_at=utc_now())

    def names(query: str) -> list[str]:
        answer = acme.api.get(f"{KEYS}?{query}")
        assert answer.status_code == 200, answer.json()
        return [each["name"] for each in answer.json()["results"]]

    assert names("standing=active") == ["bot", "all"]
    assert (names("standing=expired"), names("standing=revoked")) == (["late"], ["gone"])
    assert (names("agent_id=crawler"), names("q=LAT"), names(f"q={bot['prefix']}")) == (["bot"], ["late"], ["bot"])
    assert (names("scope=admin"), names("ordering=name")) == (["all"], ["all", "bot", "gone", "late"])
    assert names("ordering=-name&limit=3") == ["late", "gone", "bot"]
    assert names("ordering=created_at") == ["all", "gone", "late", "bot"]
    for wrong in ("ordering=colour", "standing=odd", "scope=everything"):
        answer = acme.api.get(f"{KEYS}?{wrong}")
        assert (answer.status_code, list(answer.json()["errors"])) == (400, [wrong.partition("=")[0]])


def test_use_is_written_for_many_requests_at_once_and_raises_no_version(acme: Party, as_key: Any) -> None:
    key_use.take()
    made = acme.api.post(KEYS, {"name": "k", "scopes": ["models:read"]}).json()
    version = Tenant.objects.get(id=acme.id).version
    with CaptureQueriesContext(connection) as queries:
        answers = {as_key(made["key"]).get(USED).status_code for _ in range(20)}
    assert answers == {200}
    assert [each["sql"] for each in queries if each["sql"].startswith("UPDATE")] == []
    assert acme.api.get(f"{KEYS}/{made['id']}").json()["last_used_at"] is None
    seen = key_use.take()
    with CaptureQueriesContext(connection) as queries:
        record_use(seen)
    assert len(queries) == 1
    used = ApiKey.objects.get(id=made["id"]).last_used_at
    assert used == seen[UUID(made["id"])]
    record_use({UUID(made["id"]): used - timedelta(hours=1)})
    assert ApiKey.objects.get(id=made["id"]).last_used_at == used
    assert Tenant.objects.get(id=acme.id).version == version


def test_use_that_could_not_be_written_is_kept(acme: Party) -> None:
    key_use.take()
    first, later = utc_now(), utc_now() + timedelta(seconds=1)
    key_use.note(acme.key_id, first)
    taken = key_use.take()
    key_use.note(acme.key_id, later)
    key_use.put_back(taken)
    assert key_use.take() == {acme.key_id: later}


def test_mallory_changes_no_key_of_acmes(acme: Party, mallory: Party) -> None:
    for headers in ({}, {"If-Match": "*"}):
        assert mallory.api.patch(f"{KEYS}/{acme.key_id}", {"name": "mine"}, headers=headers).status_code == 404
    assert ApiKey.objects.get(id=acme.key_id).name == "all"


def rotated(as_key: Any, key: dict[str, Any], seconds: int = 3600) -> Any:
    """The successor that a key makes of itself."""
    answer = as_key(key["key"]).post(f"{KEYS}/{key['id']}/rotate", {"overlap_seconds": seconds})
    assert answer.status_code == 201, answer.json()
    return answer.json()


def alive(as_key: Any, *keys: Any) -> list[bool]:
    return [as_key(each["key"]).get(KEYS).status_code == 200 for each in keys]


@pytest.mark.parametrize("seconds", [0, 3600])
def test_revoking_a_key_ends_the_successors_that_it_made_of_itself(seconds: int, acme: Party, as_key: Any) -> None:
    """As a thief would have done it, twice."""
    stolen = acme.api.post(KEYS, {"name": "stolen", "scopes": ["keys:write"]}).json()
    second = rotated(as_key, stolen, seconds)
    third = rotated(as_key, second, seconds)
    child = as_key(third["key"]).post(KEYS, {"name": "child", "scopes": ["keys:write"]}).json()
    assert (second["rotated_from"], third["rotated_from"], child["rotated_from"]) == (stolen["id"], second["id"], None)
    assert acme.api.delete(f"{KEYS}/{stolen['id']}").status_code == 204
    assert alive(as_key, stolen, second, third, child) == [False] * 4


def test_a_successor_ends_its_old_key_and_goes_on(acme: Party, as_key: Any) -> None:
    old = acme.api.post(KEYS, {"name": "old", "scopes": ["keys:write"]}).json()
    child = as_key(old["key"]).post(KEYS, {"name": "child", "scopes": ["keys:write"]}).json()
    other, new = rotated(as_key, old), rotated(as_key, old)
    newest = rotated(as_key, new)
    assert as_key(newest["key"]).delete(f"{KEYS}/{old['id']}").status_code == 204
    assert alive(as_key, old, other, new, newest) == [False, False, True, True]
    assert alive(as_key, child) == [False]  # it had gone over to the first successor


def test_a_key_that_revokes_itself_leaves_nothing(acme: Party, as_key: Any) -> None:
    old = acme.api.post(KEYS, {"name": "old", "scopes": ["keys:write"]}).json()
    new = rotated(as_key, old)
    assert as_key(old["key"]).delete(f"{KEYS}/{old['id']}").status_code == 204
    assert alive(as_key, old, new) == [False, False]


def test_what_somebody_else_rotated_stays_when_the_old_key_is_revoked(acme: Party, as_key: Any) -> None:
    old = acme.api.post(KEYS, {"name": "old", "scopes": ["keys:write"]}).json()
    itself = rotated(as_key, old)
    taken = acme.api.post(f"{KEYS}/{itself['id']}/rotate", {"overlap_seconds": 3600}).json()
    assert acme.api.delete(f"{KEYS}/{old['id']}").status_code == 204
    assert alive(as_key, old, itself, taken) == [False, False, True]


def test_the_audit_log_says_who_revoked_and_how_many_ended(acme: Party, as_key: Any) -> None:
    old = acme.api.post(KEYS, {"name": "old", "scopes": ["keys:write"]}).json()
    rotated(as_key, old)
    acme.api.delete(f"{KEYS}/{old['id']}")
    told = AuditEvent.objects.get(action="api_key.revoked")
    assert (told.actor_kind, told.actor_id, told.subject_id) == ("key", str(acme.key_id), old["id"])
    assert told.after == {"keys_ended": 2}
