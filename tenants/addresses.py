"""Addresses of clients, as text from a socket or a proxy. Which address is the client's is `config.proxies`'s. Pure."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network


def parsed(address: str) -> IPv4Address | IPv6Address | None:
    """None where it is none; an IPv4 address in IPv6's clothes is an IPv4 address."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def network_of(address: str) -> str:
    """What one subscriber has: an IPv4 address, or an IPv6 /64, whose addresses they change as they like."""
    found = parsed(address)
    return str(ip_network(f"{found}/64", strict=False)) if isinstance(found, IPv6Address) else str(found)
