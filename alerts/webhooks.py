"""Posts to an address that a tenant gave, and to no other: the guard of `core.egress` put between name and connection.

Owns the connection. A name is resolved once, what it led to is judged, and that very address is connected to, so that a
name which means something else a moment later leads nowhere. Redirects are answers like any other, no proxy of the
environment is used, and of the answer only its status is read. Signed as https://www.standardwebhooks.com asks
(`webhook-id`, `webhook-timestamp`, `webhook-signature`).

Failure: `EgressRefused` for where we do not go; `OSError` for everything that may be better later: no connection, no
answer in time, a status that is no 2xx.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from ipaddress import ip_address

from core.egress import Allowed, EgressRefused, Target, check_addresses, checked_target

CONNECT_TIMEOUT_S = 5.0
TIMEOUT_S = 15.0  # for all of it, however slowly the other side drips
_PREFIX = "whsec_"


class WebhookFailed(OSError):
    """The other side answered, and not with a 2xx."""


def new_secret() -> str:
    """What a channel is signed with, in the form that libraries of Standard Webhooks take."""
    return _PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def signed(body: bytes, *, secret: str, message_id: str, at: int) -> dict[str, str]:
    """The headers that prove who sent this body, and when. `message_id` stays the same when it is sent again."""
    key = base64.b64decode(secret.removeprefix(_PREFIX))
    digest = hmac.digest(key, f"{message_id}.{at}.".encode() + body, hashlib.sha256)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(at),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


def post(url: str, body: bytes, headers: Mapping[str, str], *, allowed: Allowed, timeout_s: float = TIMEOUT_S) -> None:
    """Returns when the other side took it."""
    target = checked_target(url, allowed)
    ends = time.monotonic() + timeout_s
    wire = _connected(target, _addresses(target, allowed), ends)
    # A timeout of the socket is for each read; who drips a byte a second would hold this worker for ever.
    timer = threading.Timer(max(0.0, ends - time.monotonic()), _cut, (wire,))
    timer.daemon = True
    timer.start()
    try:
        status = _asked(target, wire, body, headers)
    except (ssl.SSLError, http.client.HTTPException, ValueError) as error:
        raise OSError(f"{type(error).__name__}: the answer cannot be read") from error
    finally:
        timer.cancel()
        wire.close()
    if 300 <= status < 400:
        raise WebhookFailed(f"it answered {status}: redirects are not followed; give the address where it ends")
    if not 200 <= status < 300:
        raise WebhookFailed(f"it answered {status}")


def _addresses(target: Target, allowed: Allowed) -> list[str]:
    try:
        found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        found = []
    addresses = [str(entry[4][0]) for entry in found]
    if not addresses and not allowed.names(target.host):  # the same words as for a private one: nothing is told by them
        raise EgressRefused("does not lead to a public address")
    if any("%" in each for each in addresses):
        raise EgressRefused("does not lead to a public address")
    check_addresses([ip_address(each) for each in addresses], target.host, allowed)
    return addresses


def _connected(target: Target, addresses: list[str], ends: float) -> socket.socket:
    """A connection to the first that answers, with TLS if that is asked for; never by name again."""
    failure: OSError = OSError("no connection in time")
    for address in addresses:
        left = min(CONNECT_TIMEOUT_S, ends - time.monotonic())
        if left <= 0:
            break
        try:
            wire = socket.create_connection((address, target.port), timeout=left)
        except OSError as error:
            failure = OSError(f"no connection: {error.strerror or type(error).__name__}")
            continue
        if target.scheme == "http":
            return wire
        try:
            return _tls().wrap_socket(wire, server_hostname=target.host)
        except OSError as error:
            wire.close()
            failure = OSError(f"no TLS: {getattr(error, 'verify_message', '') or type(error).__name__}")
    raise failure


def _asked(target: Target, wire: socket.socket, body: bytes, headers: Mapping[str, str]) -> int:
    connection = http.client.HTTPConnection(target.host, target.port)
    connection.sock = wire
    host = f"[{target.host}]" if ":" in target.host else target.host
    usual = target.port == (443 if target.scheme == "https" else 80)
    named = {"Host": host if usual else f"{host}:{target.port}", "Connection": "close", "User-Agent": "quiver"}
    connection.request("POST", target.path, body, {**named, "Content-Type": "application/json", **headers})
    return connection.getresponse().status


def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


def _cut(wire: socket.socket) -> None:
    with suppress(OSError):
        wire.shutdown(socket.SHUT_RDWR)
