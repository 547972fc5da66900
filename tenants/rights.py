"""What a key may give away: a key's rights never exceed its creator's. Pure.

Decides that what is not said is inherited, and what is said must lie within. An expiry counts as a right: a key that
ends could otherwise mint itself a successor that does not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from ipaddress import IPv4Network, IPv6Network

from core.errors import KeyNotPermitted
from tenants.scopes import beyond
from tenants.snapshots import KeyGrant


@dataclass(frozen=True, slots=True)
class Rights:
    """Empty and None mean: no such restriction."""

    scopes: frozenset[str]
    models: frozenset[str] = frozenset()
    networks: tuple[IPv4Network | IPv6Network, ...] = ()
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


def _is_inside(network: IPv4Network | IPv6Network, outer: tuple[IPv4Network | IPv6Network, ...]) -> bool:
    return any(
        (isinstance(network, IPv4Network) and isinstance(each, IPv4Network) and network.subnet_of(each))
        or (isinstance(network, IPv6Network) and isinstance(each, IPv6Network) and network.subnet_of(each))
        for each in outer
    )
