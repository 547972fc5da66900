"""What a key may give away, and what of its own it may use: a key's rights never exceed its creator's. Pure.

Decides that what is not said is inherited, and what is said must lie within (`bounded`, at minting); and that what the
creator has lost since is lost to the key as well (`shared`, at use). An expiry counts as a right: a key that ends could
otherwise mint itself a successor that does not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from ipaddress import IPv4Network, IPv6Network

from core.errors import KeyNotPermitted
from tenants.scopes import beyond, common
from tenants.snapshots import KeyGrant

Networks = tuple[IPv4Network | IPv6Network, ...]


@dataclass(frozen=True, slots=True)
class Rights:
    """Empty and None mean: no such restriction."""

    scopes: frozenset[str]
    models: frozenset[str] = frozenset()
    networks: Networks = ()
    agent_id: str = ""
    expires_at: datetime | None = None


def rights_of(grant: KeyGrant) -> Rights:
    return Rights(grant.scopes, grant.models, grant.networks, grant.agent_id, grant.expires_at)


def check_agent(grant: KeyGrant, agent_id: str) -> None:
    """Raises `KeyNotPermitted` where the key is bound to another agent."""
    if grant.agent_id not in ("", agent_id):
        raise KeyNotPermitted(f"This key is bound to the agent {grant.agent_id!r}.", param="agent_id")


def bounded(asked: Rights, creator: Rights) -> Rights:
    """`asked`, with the creator's restrictions where it names none. Raises `KeyNotPermitted` naming what exceeds."""
    excess = beyond(creator.scopes, asked.scopes)
    if excess:
        raise KeyNotPermitted(f"Your key cannot give away the scopes {', '.join(excess)}.", param="scopes")
    if creator.models and not asked.models <= creator.models:
        names = ", ".join(sorted(asked.models - creator.models))
        raise KeyNotPermitted(f"Your key may not use {names}, so it cannot give them away.", param="models")
    if creator.networks and not all(_is_inside(each, creator.networks) for each in asked.networks):
        raise KeyNotPermitted("A network lies outside of those that your own key is bound to.", param="networks")
    if creator.agent_id and asked.agent_id not in ("", creator.agent_id):
        raise KeyNotPermitted(f"Your key is bound to the agent {creator.agent_id}.", param="agent_id")
    if creator.expires_at and asked.expires_at and asked.expires_at > creator.expires_at:
        raise KeyNotPermitted(
            f"Your own key expires at {creator.expires_at:%Y-%m-%dT%H:%M:%SZ}; no key of yours outlives it.",
            param="expires_at",
        )
    return replace(
        asked,
        models=asked.models or creator.models,
        networks=asked.networks or creator.networks,
        agent_id=asked.agent_id or creator.agent_id,
        expires_at=asked.expires_at or creator.expires_at,
    )


def shared(own: Rights, creator: Rights) -> Rights | None:
    """What of `own` the creator has as well; None: nothing that could be used."""
    models = own.models & creator.models if own.models and creator.models else own.models or creator.models
    networks = _both(own.networks, creator.networks)
    found = Rights(
        common(own.scopes, creator.scopes),
        models,
        networks,
        own.agent_id or creator.agent_id,
        min((each for each in (own.expires_at, creator.expires_at) if each is not None), default=None),
    )
    is_lost = (
        not found.scopes
        or (own.models and not models)
        or (own.networks and not networks)
        or creator.agent_id not in ("", found.agent_id)
    )
    return None if is_lost else found


def _both(one: Networks, other: Networks) -> Networks:
    if not one or not other:
        return one or other
    inner = [each for each in one if _is_inside(each, other)]
    return tuple(dict.fromkeys([*inner, *(each for each in other if _is_inside(each, one))]))


def _is_inside(network: IPv4Network | IPv6Network, outer: Networks) -> bool:
    return any(
        (isinstance(network, IPv4Network) and isinstance(each, IPv4Network) and network.subnet_of(each))
        or (isinstance(network, IPv6Network) and isinstance(each, IPv6Network) and network.subnet_of(each))
        for each in outer
    )
