"""A key's limits count what replaced the key and what it made: no key sheds its own by rotating itself or minting."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from audit.models import AuditEvent
from billing.limit_terms import applying
from billing.loading import load_limits
from billing.models import Counter
from core.clock import utc_now
from tenants.loading import find_grant
from tenants.minting import mint_key, remint_key, rotate_key
from tenants.rights import Rights
from tests.admin.people import person
from tests.billing.counting import used
from tests.conftest import Party

KEYS, LIMITS = "/api/v1/api-keys", "/api/v1/limits"
SOME_MODEL = UUID(int=1)


def cap(party: Party, key_id: object, **words: Any) -> str:
    asked = {"scope": "key", "scope_id": str(key_id), "measure": "tokens", "period": "day", "amount": "100"}
    answer = party.api.post(LIMITS, asked | words)
    assert answer.status_code == 201, answer.json()
    return str(answer.json()["id"])


def limits_of(party: Party, key_id: object) -> list[str]:
    """Those that a request with this key is held on, as the data plane loads them."""
    grant = find_grant(UUID(str(key_id)))
    assert grant is not None
    found = applying(load_limits(party.id), tenant_model_id=SOME_MODEL, agent_id="", lines=grant.lines)
    return [str(each.limit_id) for each in found]


def test_a_limit_goes_over_to_the_successor_and_stays_the_same(acme: Party, as_key: Any) -> None:
    old = acme.api.post(KEYS, {"name": "old", "scopes": ["keys:write"]}).json()
    limit_id = cap(acme, old["id"])
    told = AuditEvent.objects.count()
    new = as_key(old["key"]).post(f"{KEYS}/{old['id']}/rotate", {"overlap_seconds": 3600}).json()
    newest = as_key(new["key"]).post(f"{KEYS}/{new['id']}/rotate", {"overlap_seconds": 3600}).json()
    shown = acme.api.get(LIMITS, {"scope": "key"}).json()["results"]
    assert [(each["id"], each["scope_id"]) for each in shown] == [(limit_id, newest["id"])]
    assert [limits_of(acme, each["id"]) for each in (old, new, newest)] == [[limit_id]] * 3
    assert AuditEvent.objects.count() == told + 2  # the rotations


def test_whoever_rotates_a_key_its_limit_holds_on(acme: Party, as_key: Any) -> None:
    owner = person("olivia@example.com", **{str(acme.id): "owner"})
    old = acme.api.post(KEYS, {"name": "old", "scopes": ["embeddings"]}).json()
    limit_id = cap(acme, old["id"])
    by_key = acme.api.post(f"{KEYS}/{old['id']}/rotate", {}).json()
    by_person, _ = rotate_key(key_id=UUID(by_key["id"]), tenant_id=acme.id, overlap=timedelta(0), by=owner)
    assert limits_of(acme, by_person.id) == [limit_id]
    assert limits_of(acme, acme.key_id) == []


def test_what_a_key_made_counts_on_its_limits_and_on_its_own(acme: Party, as_key: Any) -> None:
    maker = acme.api.post(KEYS, {"name": "maker", "scopes": ["keys:write"]}).json()
    of_maker = cap(acme, maker["id"])
    child = as_key(maker["key"]).post(KEYS, {"name": "child", "scopes": ["keys:write"]}).json()
    grandchild = as_key(child["key"]).post(KEYS, {"name": "grandchild", "scopes": ["keys:write"]}).json()
    of_child = cap(acme, child["id"])
    new = as_key(child["key"]).post(f"{KEYS}/{child['id']}/rotate", {}).json()
    assert limits_of(acme, maker["id"]) == [of_maker]
    assert {*limits_of(acme, new["id"])} == {*limits_of(acme, grandchild["id"])} == {of_maker, of_child}


def test_a_key_that_another_rotates_counts_with_that_as_well(acme: Party, as_key: Any) -> None:
    capped = acme.api.post(KEYS, {"name": "capped", "scopes": ["keys:write"]}).json()
    free = acme.api.post(KEYS, {"name": "free", "scopes": ["keys:write"]}).json()
    limit_id = cap(acme, capped["id"])
    taken = as_key(capped["key"]).post(f"{KEYS}/{free['id']}/rotate", {}).json()
    assert limits_of(acme, taken["id"]) == [limit_id]


def test_the_ledger_is_added_up_over_the_line_and_its_children(acme: Party, as_key: Any) -> None:
    """A limit that is set afterwards begins with what all of them used."""
    old = acme.api.post(KEYS, {"name": "old", "scopes": ["keys:write", "embeddings"]}).json()
    child = as_key(old["key"]).post(KEYS, {"name": "child", "scopes": ["embeddings"]}).json()
    new = as_key(old["key"]).post(f"{KEYS}/{old['id']}/rotate", {"overlap_seconds": 60}).json()
    for number, key in enumerate((old["id"], child["id"], new["id"], acme.key_id)):
        used(utc_now(), acme.id, key_id=key, tokens=10**number)
    sums = [Counter.objects.get(limit_id=cap(acme, each["id"])).settled for each in (new, child)]
    assert sums == [111, 10]


def test_two_limits_set_on_two_keys_of_a_line_both_hold(acme: Party, as_key: Any) -> None:
    old = acme.api.post(KEYS, {"name": "old", "scopes": ["keys:write"]}).json()
    new = as_key(old["key"]).post(f"{KEYS}/{old['id']}/rotate", {"overlap_seconds": 60}).json()
    both = {cap(acme, old["id"]), cap(acme, new["id"], amount="50")}
    assert {*limits_of(acme, old["id"])} == {*limits_of(acme, new["id"])} == both


def test_a_key_whose_text_was_lost_has_the_limits_of_the_lost(acme: Party) -> None:
    lost, _ = mint_key(tenant_id=acme.id, name="demo", rights=Rights(frozenset({"embeddings"})))
    limit_id = cap(acme, lost.id)
    found, _ = remint_key(tenant_id=acme.id, name="demo", rights=Rights(frozenset({"embeddings"})))
    assert limits_of(acme, found.id) == [limit_id]


def test_a_child_cannot_rotate_the_key_that_it_comes_from(acme: Party, as_key: Any) -> None:
    """Each would have made the other, and neither would live."""
    maker = acme.api.post(KEYS, {"name": "maker", "scopes": ["keys:write"]}).json()
    child = as_key(maker["key"]).post(KEYS, {"name": "child", "scopes": ["keys:write"]}).json()
    answer = as_key(child["key"]).post(f"{KEYS}/{maker['id']}/rotate", {})
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    assert [as_key(each["key"]).get(KEYS).status_code for each in (maker, child)] == [200, 200]


def test_what_an_operator_minted_rotates_and_changes_itself(operator: Any, acme: Party, as_key: Any) -> None:
    """Its maker is a key of the platform, which a tenant does not see."""
    key = operator.post(KEYS, {"name": "t", "scopes": ["keys:write"], "tenant": str(acme.id)}).json()
    assert as_key(key["key"]).patch(f"{KEYS}/{key['id']}", {"name": "renamed"}).status_code == 200
    answer = as_key(key["key"]).post(f"{KEYS}/{key['id']}/rotate", {})
    assert answer.status_code == 201, answer.json()
