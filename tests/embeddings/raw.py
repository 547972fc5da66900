"""HTTP written by hand, for requests that no client would send."""

from __future__ import annotations

import socket
from contextlib import suppress

CHUNK = bytes(256 * 1024)


class Wire:
    """One connection. `with Wire(port) as wire`."""

    def __init__(self, port: int, seconds: float = 30.0) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=seconds)

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def head(self, key: str, *headers: str, path: str = "/v1/embeddings") -> None:
        """The head of a POST of JSON."""
        lines = [f"POST {path} HTTP/1.1", "host: x", "content-type: application/json", f"authorization: Bearer {key}"]
        self.send("\r\n".join([*lines, *headers, "", ""]).encode())

    def pour(self, size: int, *, chunked: bool = False) -> None:
        """So many bytes of white space, or fewer when the server has had enough."""
        frame = b"%x\r\n%b\r\n" % (len(CHUNK), b" " * len(CHUNK)) if chunked else b" " * len(CHUNK)
        with suppress(ConnectionError):
            for _ in range(size // len(CHUNK)):
                self.send(frame)

    def status(self) -> int:
        """The status of the answer."""
        with self._socket.makefile("rb") as stream:
            return int(stream.readline().split()[1])
