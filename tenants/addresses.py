"""Where a request of the control plane comes from.

Decides which part of `X-Forwarded-For` is believed: read from the right, an entry counts only while the one who wrote
it is in `QUIVER_TRUSTED_PROXIES`. With none set, nothing of it.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from django.conf import settings
from django.http import HttpRequest


def client_address(request: HttpRequest) -> str:
    """The nearest address that is not a proxy of ours."""
    trusted = [ip_network(each) for each in settings.QUIVER.trusted_proxies]
    told = request.META.get("HTTP_X_FORWARDED_FOR", "").split(",")
    found = request.META.get("REMOTE_ADDR") or ""
    while told and (address := _parsed(found)) is not None and any(address in network for network in trusted):
        entry = told.pop().strip()
        if _parsed(entry) is None:
            break
        found = entry
    return found


def network_of(address: str) -> str:
    """What one subscriber has: an IPv4 address, or an IPv6 /64, whose addresses they change as they like."""
    parsed = _parsed(address)
    return str(ip_network(f"{parsed}/64", strict=False)) if isinstance(parsed, IPv6Address) else str(parsed)


def _parsed(address: str) -> IPv4Address | IPv6Address | None:
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return None
    return getattr(parsed, "ipv4_mapped", None) or parsed
