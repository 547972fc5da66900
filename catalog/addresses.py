"""Which addresses an operator may give a provider, by the rule of `core.egress`. It is looked at again whenever a
connection is made (`providers.http_client`).
Failure: a name that does not resolve here is let through: the web workers may sit in another network, and a call to an
address that nobody has fails by itself.
"""

from __future__ import annotations

import socket
from ipaddress import ip_address
from urllib.parse import urlsplit

from core.egress import Address, is_metadata, is_metadata_name
from core.errors import InvalidRequest


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
    if is_metadata_name(name):
        return "leads to a cloud's metadata service"
    if any(is_metadata(address) for address in _addresses(name, port)):
        return "leads to a link-local address or a cloud's metadata service"
    return ""


def _addresses(host: str, port: int) -> list[Address]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return [ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
