"""No key is ever beyond its creator: thousands of random attempts by keys and by people of all roles, judged by an
oracle that knows nothing of how Quiver decides."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from django.db.models import OuterRef, Subquery

from core.clock import utc_now
from core.errors import QuiverError
from tenants.loading import find_grant
from tenants.members import add_member, change_role, remove_member, set_active
from tenants.minting import change_key, mint_key, revoke_key, rotate_key
from tenants.models import ApiKey, Membership, User
from tenants.rights import Rights
from tests.admin.people import person
from tests.conftest import make_party

SCOPES = (
    "embeddings",
    "models:read",
    "models:write",
    "usage:read",
    "billing:write",
    "agents:write",
    "keys:write",
    "collections:read",
    "collections:write",
)
MODELS, AGENTS, HOURS = ("small", "large", "other"), ("x", "y"), (1, 24, 48, 1000)
ADDRESSES = ("10.0.0.1", "10.1.0.1", "192.168.0.1", "fd00::1")
NETWORKS = ("10.0.0.0/8", "10.1.0.0/16", "0.0.0.0/0", "192.168.0.0/24", "fd00::/8", "::/0")
READING = {"models:read", "usage:read", "collections:read"}
OF_ROLES = {"owner": set(SCOPES), "admin": set(SCOPES), "billing": READING | {"billing:write"}, "viewer": READING}
RUNS, WORLDS, ATTEMPTS = 10, 5, 200  # 10,000 in all, in worlds that stay small


@dataclass(frozen=True)
class Reach:
    """What somebody can do: each combination of these."""

    scopes: frozenset[str]
    models: frozenset[str]
    addresses: frozenset[str]
    agents: frozenset[str]
    hours: frozenset[int]

    def __and__(self, other: Reach) -> Reach:
        return Reach(*(getattr(self, each.name) & getattr(other, each.name) for each in fields(self)))

    def __le__(self, other: Reach) -> bool:
        return self.is_nothing or all(getattr(self, f.name) <= getattr(other, f.name) for f in fields(self))

    @property
    def is_nothing(self) -> bool:
        return not all(getattr(self, each.name) for each in fields(self))


ALL = Reach(*(frozenset(each) for each in (SCOPES, MODELS, ADDRESSES, AGENTS, HOURS)))
NOTHING = Reach(*(frozenset() for _ in range(5)))


def of(scopes: Any, models: Any, networks: Any, agent_id: str, expires_at: datetime | None, now: datetime) -> Reach:
    """What these restrictions leave, tried out address by address and hour by hour."""
    inside = [a for a in ADDRESSES if not networks or any(ip_address(a) in ip_network(str(n)) for n in networks)]
    return Reach(
        frozenset(SCOPES if {"admin", "operator"} & set(scopes) else scopes),
        frozenset(models or MODELS),
        frozenset(inside),
        frozenset([agent_id] if agent_id else AGENTS),
        frozenset(hour for hour in HOURS if expires_at is None or now + timedelta(hours=hour) < expires_at),
    )


class World:
    """A tenant whose keys and people try to get hold of more; one outsider, and the platform's operator."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.now = utc_now()
        self.tenant = make_party(f"acme-{seed}").id
        self.owner = person(f"owner-{seed}@acme.test", **{str(self.tenant): "owner"})
        self.people = [person(f"a-{role}-{seed}@acme.test", **{str(self.tenant): role}) for role in OF_ROLES]
        self.outsider = person(f"mallory-{seed}@mallory.test")
        self.operator = person(f"operator-{seed}@quiver.test", is_operator=True)
        self.accepted = 0
        self.look()

    def look(self) -> None:
        """Reads all rows once: what was made, and what somebody has before the next step."""
        rows = ApiKey.objects.filter(tenant_id=self.tenant).select_related("created_by").order_by("created_at", "id")
        self.rows = {row.id: row for row in rows}
        role = Membership.objects.filter(tenant_id=self.tenant, user_id=OuterRef("id")).values("role")
        people = User.objects.values_list("id", "is_active", Subquery(role))
        self.roles = {user_id: role if is_active else None for user_id, is_active, role in people}

    def key(self) -> ApiKey:
        return self.dice.choice(list(self.rows.values()))

    def rights(self) -> Rights:
        dice = self.dice
        hour = dice.choice([None, None, *HOURS])
        return Rights(
            frozenset(dice.sample((*SCOPES, "admin"), dice.choice([1, 1, 2, 4]))),
            frozenset(dice.sample(MODELS, dice.choice([0, 0, 1, 2]))),
            tuple(ip_network(each) for each in dice.sample(NETWORKS, dice.choice([0, 0, 1, 2]))),
            dice.choice(["", "", "", *AGENTS]),
            None if hour is None else self.now + timedelta(hours=hour, minutes=30),
        )

    def actor(self) -> Any:
        if self.dice.random() < 0.6:
            return self.key()
        return self.dice.choice([self.owner, *self.people, self.outsider, self.operator])

    def reach(self, whose: ApiKey | User) -> Reach:
        """What somebody can do, from the rows alone."""
        if isinstance(whose, User):
            return self.reach_of_person(whose)
        row = self.rows[whose.id]
        if row.revoked_at is not None:
            return NOTHING
        found = self.own(row)
        if row.created_by is not None:
            found &= self.reach_of_person(row.created_by)
        return found & self.reach(self.rows[row.created_with_id]) if row.created_with_id else found

    def reach_of_person(self, user: User) -> Reach:
        if user.is_superuser:
            return ALL
        role = self.roles[user.pk]
        return replace(ALL, scopes=frozenset(OF_ROLES[role] if role else ()))

    def attempt(self) -> None:
        """One random step; what it yields must lie within what its actor had before. Refusals are what is hoped for."""
        step = self.dice.choices([self.mint, self.change, self.rotate, self.stir], [50, 35, 10, 5])[0]
        with suppress(QuiverError):  # a refusal changed nothing
            step()

    def mint(self) -> None:
        actor, rights = self.actor(), self.rights()
        had = self.reach(actor)
        if isinstance(actor, User):
            made = mint_key(tenant_id=self.tenant, name="k", rights=rights, created_by=actor)[0]
        else:
            grant = find_grant(actor.id)
            if grant is None:
                return
            made = mint_key(tenant_id=self.tenant, name="k", rights=rights, creator=grant)[0]
        self.check(made, had)

    def change(self) -> None:
        actor, target, rights = self.actor(), self.key(), self.rights()
        had, was = self.reach(actor), self.own(target)
        words = {"models": rights.models, "networks": rights.networks, "expires_at": rights.expires_at}
        chosen = self.dice.sample(sorted(words), self.dice.choice([1, 1, 2, 3]))
        changed = change_key(
            key_id=target.id, tenant_id=self.tenant, by=self.asking(actor), **{name: words[name] for name in chosen}
        )
        assert was <= had, "somebody changed a key that has more than they"
        self.check(changed, had)

    def rotate(self) -> None:
        actor, target = self.actor(), self.key()
        had = self.reach(actor)
        overlap = timedelta(hours=self.dice.choice([0, 2]))
        self.check(rotate_key(key_id=target.id, tenant_id=self.tenant, overlap=overlap, by=self.asking(actor))[0], had)

    def stir(self) -> None:
        """Makers lose what they had, or get it back."""
        user = User.objects.get(pk=self.dice.choice(self.people).pk)
        role = self.dice.choice(list(OF_ROLES))
        self.dice.choice(
            [
                lambda: add_member(tenant_id=self.tenant, user=user, role=role),
                lambda: change_role(tenant_id=self.tenant, user_id=user.pk, role=role, by=self.owner),
                lambda: remove_member(tenant_id=self.tenant, user_id=user.pk, by=self.owner),
                lambda: set_active(user_id=user.pk, is_active=not user.is_active, by=self.operator),
                lambda: revoke_key(key_id=self.key().id, tenant_id=self.tenant),
            ]
        )()
        self.look()

    def asking(self, actor: Any) -> Any:
        if isinstance(actor, User):
            return actor
        grant = find_grant(actor.id)
        if grant is None:
            raise QuiverError("this key is refused at the door")
        return grant

    def own(self, row: ApiKey) -> Reach:
        return of(row.scopes, row.models_allowed, row.networks, row.agent_id, row.expires_at, self.now)

    def check(self, row: ApiKey, had: Reach) -> None:
        self.look()
        assert self.own(self.rows[row.id]) <= had
        assert not had.is_nothing
        self.accepted += 1

    def check_all(self) -> None:
        """What each key is granted at use is what the rows of its whole line leave, neither more nor less."""
        self.look()
        for row in self.rows.values():
            grant = find_grant(row.id)
            expected = self.reach(row)
            if grant is None:
                assert expected.is_nothing
            else:
                granted = of(grant.scopes, grant.models, grant.networks, grant.agent_id, grant.expires_at, self.now)
                assert granted == expected or (granted.is_nothing and expected.is_nothing)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("run", range(RUNS))
def test_no_attempt_yields_a_key_beyond_its_creator(run: int, add_model: Callable[..., Any]) -> None:
    for name in MODELS:
        add_model(name)
    worlds = [World(run * WORLDS + number) for number in range(WORLDS)]
    for world in worlds:
        for _ in range(ATTEMPTS):
            world.attempt()
        world.check_all()
    assert all(world.accepted > 10 for world in worlds)
