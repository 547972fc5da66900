"""Addresses that lead into our own network, a listener that counts who comes, and a resolver that lies."""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Self

# `{port}` is where the listener is. Every one of these must be left alone.
ADDRESSES = (
    # loopback and "this machine", in all notations
    "https://127.0.0.1:{port}/",
    "https://127.0.0.2:{port}/",
    "https://127.255.255.254:{port}/",
    "https://localhost:{port}/",
    "https://localhost.:{port}/",
    "https://LOCALHOST:{port}/",
    "https://foo.localhost:{port}/",
    "https://localhost.localdomain:{port}/",
    "https://0.0.0.0:{port}/",
    "https://0:{port}/",
    "https://2130706433:{port}/",
    "https://0x7f000001:{port}/",
    "https://0x7f.0x0.0x0.0x1:{port}/",
    "https://0177.0.0.1:{port}/",
    "https://017700000001:{port}/",
    "https://127.1:{port}/",
    "https://127.0.1:{port}/",
    "https://127.0.0.1.:{port}/",
    "https://127.000.000.001:{port}/",
    "https://[::1]:{port}/",
    "https://[::]:{port}/",
    "https://[0:0:0:0:0:0:0:1]:{port}/",
    "https://[::1%25lo]:{port}/",
    "https://[::ffff:127.0.0.1]:{port}/",
    "https://[::ffff:7f00:1]:{port}/",
    "https://[::127.0.0.1]:{port}/",
    "https://[64:ff9b::127.0.0.1]:{port}/",
    "https://[64:ff9b:1::7f00:1]:{port}/",
    "https://[2002:7f00:1::]:{port}/",
    "https://[2001:0:7f00:1::]:{port}/",
    # private, shared, link-local, reserved
    "https://10.0.0.1:{port}/",
    "https://172.16.0.1:{port}/",
    "https://192.168.1.1:{port}/",
    "https://100.64.0.1:{port}/",
    "https://198.18.0.1:{port}/",
    "https://192.0.2.1:{port}/",
    "https://224.0.0.1:{port}/",
    "https://240.0.0.1:{port}/",
    "https://255.255.255.255:{port}/",
    "https://[fc00::1]:{port}/",
    "https://[fd12:3456::1]:{port}/",
    "https://[fe80::1]:{port}/",
    "https://[fec0::1]:{port}/",
    "https://[ff02::1]:{port}/",
    "https://[2001:db8::1]:{port}/",
    # metadata services
    "https://169.254.169.254:{port}/latest/meta-data/",
    "https://2852039166:{port}/",
    "https://[::ffff:169.254.169.254]:{port}/",
    "https://[fd00:ec2::254]:{port}/",
    "https://100.100.100.200:{port}/",
    "https://168.63.129.16:{port}/",
    "https://metadata.google.internal:{port}/",
    "https://METADATA.google.internal.:{port}/",
    "https://metadata:{port}/",
    # names that lead there (see NAMES)
    "https://inside.example.com:{port}/",
    "https://inside6.example.com:{port}/",
    "https://mixed.example.com:{port}/",
    "https://mapped.example.com:{port}/",
    "https://meta.example.com:{port}/",
    "https://xn--nxasmq6b.example.com:{port}/",
    "https://127.0.0.1.nip.example.com:{port}/",
    "https://nowhere.example.com:{port}/",
    "https://database:{port}/",
    "https://vault.internal:{port}/",
    # tricks with the form
    "https://example.com@127.0.0.1:{port}/",
    "https://example.com:x@127.0.0.1:{port}/",
    "https://127.0.0.1:{port}#@example.com/",
    "https://127.0.0.1:{port}\\@example.com/",
    "https://example.com\\.127.0.0.1:{port}/",
    "https://127.0.0.1%2f:{port}/",
    "https://127.0.0.1\t:{port}/",
    "https:// 127.0.0.1:{port}/",
    "https://\uff11\uff12\uff17.0.0.1:{port}/",
    "https://\u2460\u2461\u2466.0.0.1:{port}/",
    "https://127\u30020\u30020\u30021:{port}/",
    "https://inside.example.com:{port}/\r\nHost: x",
    "http://inside.example.com:{port}/",
    "http://127.0.0.1:{port}/",
    "HTTPS://127.0.0.1:{port}/",
    "//127.0.0.1:{port}/",
    "gopher://127.0.0.1:{port}/",
    "file:///etc/passwd",
    "127.0.0.1:{port}",
)
NAMES: Mapping[str, Sequence[str]] = {
    "inside.example.com": ["127.0.0.1"],
    "inside6.example.com": ["::1"],
    "mixed.example.com": ["93.184.216.34", "127.0.0.1"],
    "mapped.example.com": ["::ffff:127.0.0.1"],
    "meta.example.com": ["169.254.169.254"],
    "xn--nxasmq6b.example.com": ["127.0.0.1"],
    "127.0.0.1.nip.example.com": ["127.0.0.1"],
    "localhost.localdomain": ["127.0.0.1"],
    "database": ["127.0.0.1"],
    "vault.internal": ["127.0.0.1"],
    "hooks.example.com": ["127.0.0.1"],
    "foo.localhost": ["127.0.0.1"],
}


class Listener:
    """Listens on every address of this machine and counts connections; answers nothing."""

    def __enter__(self) -> Self:
        has_both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if has_both else socket.AF_INET
        self._server = socket.create_server(("", 0), family=family, dualstack_ipv6=has_both)
        self.port: int = self._server.getsockname()[1]
        self.connections = 0
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            self.connections += 1
            connection.close()

    def addresses(self) -> list[str]:
        return [each.format(port=self.port) for each in ADDRESSES]


class LyingResolver:
    """Knows `names`, one answer after the other where there are several lists, and asks the machine for addresses that
    are none of them: numbers are resolved as they always are."""

    def __init__(self, names: Mapping[str, Sequence[str]] | None = None) -> None:
        self.names: dict[str, Sequence[str]] = dict(NAMES if names is None else names)
        self.asked: list[str] = []
        self._real = socket.getaddrinfo

    def then(self, name: str, *answers: Sequence[str]) -> None:
        """Another answer each time; the last one stays."""
        self._next = iter(answers)
        self._turning, self.names[name] = name, ()

    def __call__(self, host: Any, port: Any, *arguments: Any, **options: Any) -> list[Any]:
        name = str(host).lower().removesuffix(".")
        self.asked.append(name)
        if name == getattr(self, "_turning", None):
            self.names[name] = next(self._next, self.names[name])
        if name in self.names:
            return [self._entry(each, port) for each in self.names[name]]
        if name.endswith((".com", ".internal")):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return self._real(host, port, *arguments, **options)

    def _entry(self, address: str, port: Any) -> Any:
        is_six = ":" in address
        where = (address, int(port or 0), 0, 0) if is_six else (address, int(port or 0))
        return (socket.AF_INET6 if is_six else socket.AF_INET, socket.SOCK_STREAM, 6, "", where)
