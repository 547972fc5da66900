"""Which frames of a client's tell that it is there."""

from __future__ import annotations

import asyncio

import pytest

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
