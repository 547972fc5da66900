"""Where our requests may go: what an address is, and who may lead us there. Pure: names are resolved by who connects.

Two rules over one table. An **operator's** address (providers) may be private: vLLM and TEI run there. A **tenant's**
(webhooks) must be public, unless the operator's allow-list names it. A cloud's metadata service, which hands out the
machine's own credentials, is nobody's, under whatever name or notation, on the allow-list or not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_METADATA = [
    ip_network(text)
    for text in (
        "169.254.0.0/16",  # AWS, Azure, Google, Oracle, containers on ECS
        "fe80::/10",
        "fd00:ec2::/32",  # AWS
        "fd20:ce::254/128",  # Google
        "100.100.100.200/32",  # Alibaba
        "192.0.0.192/32",  # Oracle
        "168.63.129.16/32",  # Azure's wire server
    )
]
_METADATA_NAMES = ("metadata.google.internal", "metadata.goog", "metadata", "instance-data")
# Of IPv6 only global unicast is public, and of that not what tunnels, translates or documents.
_GLOBAL_UNICAST = ip_network("2000::/3")
_NOT_PUBLIC = [
    ip_network(text)
    for text in (
        "2001::/23",  # Teredo, ORCHID, benchmarks
        "2001:db8::/32",
        "2002::/16",  # 6to4: leads to any IPv4 address
        "3fff::/20",
        "192.88.99.0/24",  # 6to4 relays
        "100.64.0.0/10",  # shared by carriers
    )
]
_NAT64 = ip_network("64:ff9b::/96")
_LOCAL_NAMES = ("localhost", "local", "internal", "intranet", "lan", "home", "corp", "home.arpa", "arpa", "onion")
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?|_[a-z0-9-]{1,62}")
_NUMBER = re.compile(r"0x[0-9a-f]*|[0-9]+")
TLS_PORTS = frozenset({443, 8443})
MOST_LETTERS = 2000


class EgressRefused(Exception):
    """This address must not be called. The message says why, in words for whoever gave it."""


@dataclass(frozen=True, slots=True)
class Target:
    """An address, taken apart."""

    scheme: str
    host: str  # in lower case, without a dot at its end; of IPv6 without brackets
    port: int
    path: str  # with its query


@dataclass(frozen=True, slots=True)
class Allowed:
    """What the operator's setting lets tenants reach though it is not public: networks, and hosts by their names."""

    networks: tuple[Network, ...] = ()
    hosts: frozenset[str] = frozenset()

    @classmethod
    def of(cls, entries: Iterable[str]) -> Allowed:
        """Raises `ValueError` for what is neither a range nor a host's name."""
        networks: list[Network] = []
        hosts: set[str] = set()
        for entry in entries:
            try:
                networks.append(ip_network(entry))
            except ValueError:
                if not _is_name(entry.lower()):
                    raise ValueError(f"{entry!r} is neither a range such as 10.0.0.0/8 nor a host's name") from None
                hosts.add(entry.lower())
        return cls(tuple(networks), frozenset(hosts))

    def names(self, host: str) -> bool:
        """Whether the host stands there by itself."""
        return host in self.hosts or any(each in network for each in _literal(host) for network in self.networks)


NOTHING = Allowed()


def is_metadata_name(host: str) -> bool:
    """Whether a name (lower case, no dot at its end) is that of a metadata service."""
    return host in _METADATA_NAMES or host.endswith(tuple(f".{each}" for each in _METADATA_NAMES))


def is_metadata(address: Address) -> bool:
    """Whether it is a metadata service's or link-local, also by way of a translation."""
    return any(each in network for each in _all_of(address) for network in _METADATA)


def is_public(address: Address) -> bool:
    """Whether everybody on the internet could reach it. What carries another address within is not: it leads there."""
    if is_metadata(address) or any(address in network for network in _NOT_PUBLIC):
        return False
    if isinstance(address, IPv6Address):
        return address in _GLOBAL_UNICAST and address.is_global
    return address.is_global and not address.is_multicast and not address.is_reserved


def checked_target(url: str, allowed: Allowed = NOTHING) -> Target:
    """A tenant's address as far as it can be judged without asking the network. Raises `EgressRefused`."""
    target = _taken_apart(url)
    is_named = allowed.names(target.host)
    if is_metadata_name(target.host):
        raise EgressRefused("leads to a cloud's metadata service")
    if target.scheme != "https" and not is_named:
        raise EgressRefused("must begin with https://")
    if target.port not in TLS_PORTS and not is_named:
        raise EgressRefused(f"must have the port {' or '.join(map(str, sorted(TLS_PORTS)))}")
    literal = _literal(target.host)
    if literal:
        check_addresses(literal, target.host, allowed)
    elif not is_named and ("." not in target.host or _is_local(target.host)):
        raise EgressRefused("must name a host on the internet")
    return target


def check_addresses(found: Iterable[Address], host: str, allowed: Allowed = NOTHING) -> None:
    """Whether a tenant's host may be called at all that it resolves to. Raises `EgressRefused`; what the name led to is
    not told, or it would tell what our own network looks like."""
    addresses = list(found)
    is_named = host in allowed.hosts
    for each in addresses:
        is_allowed = is_named or any(each in network for network in allowed.networks)
        if is_metadata(each) or not (is_allowed or is_public(each)):
            raise EgressRefused("does not lead to a public address")
    if not addresses:
        raise EgressRefused("does not lead to a public address")


def _taken_apart(url: str) -> Target:
    if len(url) > MOST_LETTERS or not url.isascii() or not url.isprintable() or set(url) & set(' \\"<>^`{|}'):
        raise EgressRefused("must be written in plain letters, without spaces, such as https://host/path")
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").removesuffix("."), parts.port
    except ValueError as error:
        raise EgressRefused("is no address") from error
    if parts.scheme not in ("http", "https") or not host:
        raise EgressRefused("must look like https://host/path")
    if "@" in parts.netloc or "#" in url:
        raise EgressRefused("must not carry a user or a fragment")
    if "%" in parts.netloc or parts.netloc.endswith(":"):
        raise EgressRefused("must name a host plainly")
    if not _literal(host) and not _is_name(host):
        raise EgressRefused("must name a host plainly; an address is written as 192.0.2.1 or [2001:db8::1]")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    usual = 443 if parts.scheme == "https" else 80
    return Target(parts.scheme, host, usual if port is None else port, path)


def _literal(host: str) -> list[Address]:
    """The address that a host is, if it is one in its usual form."""
    try:
        return [ip_address(host)]
    except ValueError:
        return []


def _is_name(host: str) -> bool:
    labels = host.split(".")
    # A number at the end makes it an address to whoever resolves it: 2130706433, 0x7f.1, 127.1.
    return len(host) <= 253 and all(map(_LABEL.fullmatch, labels)) and not _NUMBER.fullmatch(labels[-1])


def _is_local(host: str) -> bool:
    return host in _LOCAL_NAMES or host.endswith(tuple(f".{each}" for each in _LOCAL_NAMES))


def _all_of(address: Address) -> list[Address]:
    """The address, and the one that it carries."""
    if isinstance(address, IPv4Address):
        return [address]
    inner = address.ipv4_mapped or address.sixtofour
    if address in _NAT64 or int(address) >> 32 == 0:  # or "compatible", as ::169.254.169.254
        inner = IPv4Address(int(address) & 0xFFFF_FFFF)
    return [address] if inner is None else [address, inner]
