"""WebSocket frames written by hand, octet by octet, also those that no client would send."""

from __future__ import annotations

import os
import socket
import struct

CONTINUED, TEXT, BYTES, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
Frame = tuple[int, bytes]  # opcode and payload


def framed(opcode: int, data: bytes = b"", *, fin: bool = True, reserved: int = 0, masked: bool = True) -> bytes:
    size = len(data)
    mark = 0x80 * masked
    if size < 126:
        length = bytes([size | mark])
    elif size < 65_536:
        length = struct.pack(">BH", 126 | mark, size)
    else:
        length = struct.pack(">BQ", 127 | mark, size)
    mask = os.urandom(4)
    body = (mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(data))) if masked else data
    return bytes([0x80 * fin | reserved << 4 | opcode]) + length + body


class RawSocket:
    """A socket without any rules. `with RawSocket(port, key) as wire`."""

    def __init__(self, port: int, key: str, path: str = "/ws/v1/agents") -> None:
        self.wire = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.wire.sendall(
            f"GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
            f"X-API-Key: {key}\r\n\r\n".encode()
        )
        head = b""
        while b"\r\n\r\n" not in head:
            head += self.wire.recv(1)
        self.status = int(head.split()[1])

    def __enter__(self) -> RawSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self.wire.close()

    def send(self, opcode: int, data: bytes = b"", *, fin: bool = True, reserved: int = 0, masked: bool = True) -> None:
        self.wire.sendall(framed(opcode, data, fin=fin, reserved=reserved, masked=masked))

    def read(self) -> Frame:
        """The next frame."""
        first, second = self._exactly(2)
        assert (first & 0x70, second & 0x80) == (0, 0), "a server neither reserves bits nor masks"
        size = second & 0x7F
        if size == 126:
            (size,) = struct.unpack(">H", self._exactly(2))
        elif size == 127:
            (size,) = struct.unpack(">Q", self._exactly(8))
        return first & 0xF, self._exactly(size)

    def close_code(self) -> int | None:
        """Of the close frame that comes next, behind which there is nothing; None: it says nothing."""
        opcode, data = self.read()
        assert opcode == CLOSE, (opcode, data)
        assert self.wire.recv(1) == b"", "something follows the close"
        return struct.unpack(">H", data[:2])[0] if data else None

    def _exactly(self, size: int) -> bytes:
        found = b""
        while len(found) < size:
            more = self.wire.recv(size - len(found))
            assert more, "the server has gone"
            found += more
        return found
