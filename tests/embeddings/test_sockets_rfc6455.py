"""RFC 6455, octet by octet, on the shipped server: an echo beside the product, and the product's own route."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.asyncio.client import connect

from config.up.ports import free_port
from tests.embeddings.agents import GENERATE, frame
from tests.embeddings.raw_sockets import BYTES, CLOSE, CONTINUED, PING, PONG, TEXT, RawSocket, framed
from tests.up.processes import CHECKOUT, children_of, eventually, get

pytestmark = pytest.mark.slow
ASKED = json.dumps({"jsonrpc": "2.0", "id": "é", "method": "ping"}, ensure_ascii=False).encode()
ANSWERED = '{"jsonrpc":"2.0","id":"é","result":{"pong":true}}'.encode()
ECHO, AGENTS = "/echo", "/ws/v1/agents"
CUT = {"fin": False}
WHOLE = frame(GENERATE, {"input": "a text of somebody who leaves", "dimensions": 8})


def spoiled(data, changes):
    """A message with some octets changed."""
    found = bytearray(data)
    for place, value in changes:
        found[place % len(found)] = value
    return framed(BYTES, bytes(found))


class Server:
    """`config.web` with `tests.conformance`, one worker."""

    def __init__(self, port: int, web: subprocess.Popen[bytes]) -> None:
        self.port = port
        self.pids = children_of(web.pid)
        self.tasks = self.count()

    def count(self) -> int:
        """Tasks of the worker, but for the one that counts."""
        return int(get(f"http://127.0.0.1:{self.port}/tasks")[1])


@pytest.fixture(scope="module")
def server(platform):
    """Nobody of it died and nothing of it is left when all is over."""
    port = free_port()
    command = [sys.executable, "-m", "config.web", "--application", "tests.conformance:application"]
    with (platform.home / "echo.log").open("wb") as log:
        command += ["--port", str(port)]
        web = subprocess.Popen(command, cwd=CHECKOUT, env=platform.environment, stdout=log, stderr=log)
    try:
        eventually(lambda: get(f"http://127.0.0.1:{port}/readyz")[0] == 200, 120)
        found = Server(port, web)
        yield found
        eventually(lambda: found.count() <= found.tasks, 20)
        assert children_of(web.pid) == found.pids
        assert "Traceback" not in (platform.home / "echo.log").read_text()
    finally:
        web.terminate()
        web.wait(30)


@pytest.fixture(params=[ECHO, AGENTS], ids=["echo", "agents"])
def route(request):
    return request.param


@pytest.fixture
def wire(server, acme, route):
    with RawSocket(server.port, acme[1], route) as opened:
        yield opened


async def test_a_conformance_suite_finds_an_echo_on_the_shipped_server(server):
    async with connect(f"ws://127.0.0.1:{server.port}{ECHO}") as wire:
        for data in ("", "héllo", b"", bytes(range(256)) * 300):
            await wire.send(data)
            assert await wire.recv() == data


# What is right


def pieces(data, *, size=1):
    """A text in frames of so many bytes, also within a letter."""
    cuts = [data[start : start + size] for start in range(0, len(data), size)]
    last = len(cuts) - 1
    return [(CONTINUED if n else TEXT, each, {"fin": n == last}) for n, each in enumerate(cuts)]


MIDDLE = len(ASKED) // 2
HALF, REST = (TEXT, ASKED[:MIDDLE], CUT), (CONTINUED, ASKED[MIDDLE:], {})


@pytest.mark.parametrize(
    ("sent", "pongs"),
    [
        ([(TEXT, ASKED, {})], []),
        (pieces(ASKED), []),
        (pieces(ASKED, size=7), []),
        ([(TEXT, b"", CUT), (CONTINUED, b"", CUT), (CONTINUED, ASKED, CUT), (CONTINUED, b"", {})], []),
        ([HALF, (PING, b"", {}), (PING, b"x" * 125, {}), REST], [b"", b"x" * 125]),
        ([(PING, b"\x00\xff\xfe", {}), (TEXT, ASKED, {})], [b"\x00\xff\xfe"]),
        ([(PONG, b"", {}), HALF, (PONG, b"nobody asked", {}), REST], []),
    ],
    ids=["whole", "bytes", "pieces", "with nothing", "pings between", "a ping of any bytes", "pongs of nobody's"],
)
@pytest.mark.parametrize("step", [1, 1 << 20], ids=["octet by octet", "at once"])
def test_a_message_arrives_however_it_is_cut(wire, route, sent, pongs, step):
    octets = b"".join(framed(opcode, data, **words) for opcode, data, words in sent)
    for start in range(0, len(octets), step):
        wire.wire.sendall(octets[start : start + step])
    for each in pongs:
        assert wire.read() == (PONG, each)
    assert wire.read() == (TEXT, ASKED if route == ECHO else ANSWERED)
    wire.send(CLOSE, struct.pack(">H", 1000))
    assert wire.close_code() == 1000


@pytest.mark.parametrize("size", [125, 126, 127, 65_535, 65_536, 70_000])
def test_each_way_to_write_a_length_is_read(wire, route, size):
    text = ASKED.ljust(size)
    wire.send(TEXT, text)
    assert wire.read() == (TEXT, text if route == ECHO else ANSWERED)


@pytest.mark.parametrize("opcode", [TEXT, BYTES])
def test_a_message_of_nothing_is_one(wire, route, opcode):
    wire.send(opcode)
    found = wire.read()
    assert found[0] == opcode
    assert (found[1] == b"") is (route == ECHO)
    wire.send(TEXT, ASKED)
    assert wire.read()[0] == TEXT


def test_messages_that_come_together_are_answered_in_order(wire, route):
    wire.wire.sendall(b"".join(framed(TEXT, ASKED) + framed(PING, b"%d" % number) for number in range(20)))
    found = [wire.read() for _ in range(40)]
    assert [data for opcode, data in found if opcode == PONG] == [b"%d" % number for number in range(20)]
    assert [each for each in found if each[0] == TEXT] == [(TEXT, ASKED if route == ECHO else ANSWERED)] * 20


# What is not


def closing(code, reason=b""):
    return [(CLOSE, struct.pack(">H", code) + reason, {})]


NO_CODES = (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535)
WRONG_TEXTS = {
    "no UTF-8": [(TEXT, b"\xff\xfe", {})],
    "a surrogate": [(TEXT, b"\xed\xa0\x80", {})],
    "longer than it need be": [(TEXT, b"\xc0\xaf", {})],
    "beyond the last letter": [(TEXT, b"\xf4\x90\x80\x80", {})],
    "half a letter": [(TEXT, b"\xc3", {})],
    "half a letter, and another": [(TEXT, b"\xc3", CUT), (CONTINUED, b"x", {})],
    "half a letter, and nothing": [(TEXT, b"\xe2\x82", CUT), (CONTINUED, b"", {})],
    "wrong before its end": [(TEXT, b"\xce\xba", CUT), (CONTINUED, b"\xed\xa0\x80", CUT)],
    "a reason that is none": closing(1000, b"\xff"),
}
WRONG_FRAMES = {
    "continues nothing": [(CONTINUED, b"x", {})],
    "continues nothing, nor ends": [(CONTINUED, b"x", CUT)],
    "begins anew": [(TEXT, b"x", CUT), (TEXT, b"y", {})],
    "bytes within a text": [(TEXT, b"x", CUT), (BYTES, b"y", {})],
    "a ping in pieces": [(PING, b"x", CUT)],
    "a pong in pieces": [(PONG, b"x", CUT)],
    "a close in pieces": [(CLOSE, b"\x03\xe8", CUT)],
    "a long ping": [(PING, b"x" * 126, {})],
    "a long pong": [(PONG, b"x" * 126, {})],
    "a long close": closing(1000, b"x" * 124),
    "a text without a mask": [(TEXT, b"x", {"masked": False})],
    "a ping without a mask": [(PING, b"x", {"masked": False})],
    "half a close code": [(CLOSE, b"\x03", {})],
    **{f"opcode {each}": [(each, b"x", {})] for each in (*range(3, 8), *range(11, 16))},
    **{f"opcode {each} within a text": [HALF, (each, b"", {})] for each in (3, 11)},
    **{f"bits {each} of a text": [(TEXT, b"x", {"reserved": each})] for each in (1, 2, 4, 7)},
    **{f"bits {each} of a ping": [(PING, b"x", {"reserved": each})] for each in (1, 2, 4)},
    **{f"bits {each} of what continues": [HALF, (CONTINUED, b"x", {"reserved": each})] for each in (1, 4)},
    **{
        f"code {each}": closing(each) for each in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535)
    },
}
WRONG = [
    *(pytest.param(sent, 1007, id=name) for name, sent in WRONG_TEXTS.items()),
    *(pytest.param(sent, 1002, id=name) for name, sent in WRONG_FRAMES.items()),
]


@pytest.mark.parametrize(("sent", "code"), WRONG)
def test_what_the_rfc_forbids_closes_as_it_says(wire, sent, code):
    for opcode, data, words in sent:
        wire.send(opcode, data, **words)
    assert wire.close_code() == code


def test_what_has_ended_is_not_continued(wire):
    for opcode, data, words in (HALF, REST):
        wire.send(opcode, data, **words)
    assert wire.read()[0] == TEXT
    wire.send(CONTINUED, b"x")
    assert wire.close_code() == 1002


@pytest.mark.parametrize("code", [*range(1000, 1004), *range(1007, 1015), 3000, 3999, 4000, 4999])
def test_a_close_is_answered_with_its_own_code(wire, code):
    wire.send(CLOSE, struct.pack(">H", code) + "só".encode().ljust(123))
    wire.send(TEXT, ASKED)  # nobody reads it
    assert wire.close_code() == code


def test_a_close_may_say_nothing(wire):
    wire.send(CLOSE)
    assert wire.close_code() is None


@pytest.mark.parametrize("size", [2**23, 2**63, 2**64 - 1])
def test_a_length_beyond_the_bound_is_refused_before_it_comes(wire, size):
    wire.wire.sendall(struct.pack(">BBQ", 0x82, 0xFF, size))
    assert wire.close_code() == 1009


# What anybody may send


FRAMES = st.lists(
    st.one_of(
        st.binary(max_size=40),
        st.text(max_size=40).map(lambda text: framed(TEXT, text.encode())),
        st.builds(
            lambda opcode, data, fin: framed(opcode, data, fin=fin),
            st.sampled_from([CONTINUED, TEXT, BYTES, PING, PONG, CLOSE]),
            st.binary(max_size=40) | st.just(ASKED) | st.just(WHOLE),
            st.booleans(),
        ),
        st.builds(spoiled, st.just(WHOLE), st.lists(st.tuples(st.integers(0), st.integers(0, 255)), max_size=3)),
    ),
    max_size=6,
)


@settings(max_examples=100, deadline=None)
@given(frames=FRAMES)
def test_sockets_that_say_anything_and_break_off_leave_nothing_behind(server, acme, frames):
    """The server's fixture counts its tasks and processes when all is over."""
    with RawSocket(server.port, acme[1], AGENTS) as wire, suppress(OSError):  # it may have closed
        wire.send(BYTES, WHOLE)
        for each in frames:
            wire.wire.sendall(each)
