"""Which frames of a client's tell that it is there, and how a large one goes out."""

from __future__ import annotations

import asyncio

import pytest
from websockets.protocol import State

from config.socket_protocol import SocketProtocol
from tests.embeddings.raw_sockets import CONTINUED, PING, PONG, TEXT, framed


@pytest.mark.parametrize(
    ("opcode", "data", "tells"),
    [
        (TEXT, b"{}", True),
        (CONTINUED, b"{}", True),
        (PING, b"", True),
        (PONG, b"of its own accord", True),
        (PONG, b"ours", False),
    ],
    ids=["text", "a piece", "a ping", "a pong of its own", "a pong to our ping"],
)
async def test_all_but_the_answer_to_our_ping_tell_that_a_client_is_there(opcode, data, tells):
    protocol = SocketProtocol.__new__(SocketProtocol)
    protocol.reader = asyncio.StreamReader()
    protocol.pings = {b"ours": None}
    protocol.reader.feed_data(framed(opcode, data))
    assert (await protocol.read_frame(None)).data == data
    assert (protocol.heard_at > 0) is tells


class Wire(asyncio.Transport):
    """The pieces that were written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[bytes] = []

    def write(self, data):
        self.pieces.append(data)

    def writelines(self, pieces):
        self.pieces.extend(pieces)

    def is_closing(self):
        return False


async def test_large_text_that_is_bytes_already_goes_out_as_text_without_a_copy():
    protocol = SocketProtocol.__new__(SocketProtocol)
    protocol.state, protocol.transport, protocol._paused = State.OPEN, Wire(), False
    protocol.transfer_data_task = asyncio.get_running_loop().create_future()
    large = "é".encode() * 50_000
    await protocol.send(memoryview(large))
    await protocol.send("é")
    head, data, small = protocol.transport.pieces
    assert (head, small) == (b"\x81\x7f" + len(large).to_bytes(8), b"\x81\x02" + "é".encode())
    assert data is large
