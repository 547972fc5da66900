"""TCP ports of this machine: which one is free."""

from __future__ import annotations

import errno
import socket

from config.up.failures import UpError

LOOPBACK = "127.0.0.1"


def free_port(preferred: int | None = None) -> int:
    """The preferred port when nobody has it, else any free one. Somebody may still take it before it is used."""
    if preferred is not None and _refusal(LOOPBACK, preferred) is None:
        return preferred
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def require_free(host: str, port: int) -> None:
    """Raises `UpError` when the web could not listen there."""
    error = _refusal(host, port)
    if error is None:
        return
    if error.errno == errno.EADDRINUSE:
        raise UpError(f"port {port} of {host} is in use; choose another with --port")
    raise UpError(f"cannot listen on {host} port {port}: {error.strerror or error}")


def _refusal(host: str, port: int) -> OSError | None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)  # two sockets that only bound do not see each other
        except OSError as error:
            return error
    return None
