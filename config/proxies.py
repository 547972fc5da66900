"""Who the client is where load balancers stand in between: both planes and all doors see the address told here.

Decides which part of `X-Forwarded-For` is believed: read from the right, an entry counts only while the one who wrote
it is in `QUIVER_TRUSTED_PROXIES`. With none set, nothing of it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from ipaddress import ip_network
from typing import Any

from tenants.addresses import parsed

Application = Callable[[Any, Any, Any], Awaitable[None]]


def behind(trusted: Sequence[str], application: Application) -> Application:
    """The application that sees clients instead of these proxies (addresses or CIDR ranges)."""
    networks = [ip_network(each) for each in trusted]
    if not networks:
        return application

    async def seen(scope: Any, receive: Any, send: Any) -> None:
        if scope.get("client"):
            told = b",".join(value for name, value in scope["headers"] if name == b"x-forwarded-for")
            peer, port = scope["client"]
            found = nearest(peer, told.decode("latin-1"), networks)
            scope["client"] = (peer, port) if found == peer else (found, 0)
        await application(scope, receive, send)

    return seen


def nearest(peer: str, forwarded: str, trusted: Sequence[Any]) -> str:
    """The nearest address that is not a proxy of ours, of the peer and what the header tells."""
    found, told = peer, forwarded.split(",")
    while told and (address := parsed(found)) is not None and any(address in network for network in trusted):
        entry = parsed(told.pop().strip())
        if entry is None:
            break
        found = str(entry)
    return found
