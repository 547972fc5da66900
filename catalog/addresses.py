"""Which addresses an operator may give a provider.

Decides that private networks are fine (vLLM, Ollama and TEI live there) and that a cloud's metadata service, which
hands out the machine's own credentials, never is, under whatever name or notation.
Failure: a name that does not resolve here is let through: the web workers may sit in another network, and a call to an
address that nobody has fails by itself.
"""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit

from core.errors import InvalidRequest

_FORBIDDEN = [
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
_FORBIDDEN_NAMES = ("metadata.google.internal", "metadata.goog", "metadata", "instance-data")
_NAT64 = ip_network("64:ff9b::/96")


def check_base_url(base_url: str, *, name: str = "base_url", param: str = "base_url") -> None:
    """Raises `InvalidRequest` for what is no plain http(s) address or leads to a metadata service. Resolves names.
    `name` is what the message calls the address, `param` the field that it came in."""
    why = _fault(base_url)
    if why:
        raise InvalidRequest(f"`{name}` {why}.", param=param)


def _fault(base_url: str) -> str:
    try:
        url = urlsplit(base_url)
        host, port = url.hostname, url.port or 0
    except ValueError as error:
        return f"is no address: {error}"
    if url.scheme not in ("http", "https") or not host or not base_url.isascii() or not base_url.isprintable():
        return "must look like https://host[:port][/path]"
    if url.username is not None or "?" in base_url or "#" in base_url or " " in base_url:
        return "must not carry a user, a query, a fragment or a space; credentials go into `secret`"
    name = host.rstrip(".").lower()
    if name in _FORBIDDEN_NAMES or name.endswith(tuple(f".{each}" for each in _FORBIDDEN_NAMES)):
        return "leads to a cloud's metadata service"
    if any(_is_forbidden(address) for address in _addresses(name, port)):
        return "leads to a link-local address or a cloud's metadata service"
    return ""


def _addresses(host: str, port: int) -> list[IPv4Address | IPv6Address]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return [ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]


def _is_forbidden(address: IPv4Address | IPv6Address) -> bool:
    inner: IPv4Address | None = None
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            inner = IPv4Address(int(address) & 0xFFFF_FFFF)
    return any(each is not None and each in network for each in (address, inner) for network in _FORBIDDEN)
