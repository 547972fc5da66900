"""Binary frames: what is written reads back, what another library wrote is read, and nothing odd gets through."""

from __future__ import annotations

import json
import re
import zlib
from pathlib import Path

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embeddings import frames, rpc
from embeddings.frames import BadFrame, Type
from embeddings.methods import BY_NUMBER
from tests.embeddings.agents import HEADER, MAGIC, Reply, frame, vectors_of

PAGE = Path(__file__).resolve().parents[2] / "docs" / "sockets.md"


def is_read_or_refused(data: bytes) -> bool:
    """Anything else is raised."""
    try:
        asked = rpc.read(data)
        return asked is None or bool(asked.method)
    except rpc.Refused as refused:
        return Reply(refused.answer).type == Type.ERROR


def changed(**words: int) -> bytes:
    """A sound frame with these words of its header changed."""
    sound = frame(64, {"input": "a"}, sequence=7)
    names = ("magic", "version", "type", "flags", "sequence", "method", "reserved", "size")
    header = dict(zip(names, HEADER.unpack_from(sound), strict=True)) | words
    return HEADER.pack(*header.values()) + sound[HEADER.size :]


@given(
    type=st.sampled_from(Type),
    sequence=st.integers(0, 2**64 - 1),
    method=st.sampled_from(sorted(BY_NUMBER)),
    payload=st.binary(max_size=5000),
    deflate=st.booleans(),
)
def test_what_is_written_is_what_the_other_side_reads(type, sequence, method, payload, deflate):
    written = frames.write(type, sequence, method, msgpack.packb({"p": payload}), deflate=deflate)
    found = Reply(written)
    assert (found.type, found.sequence, found.method, found.body) == (type, sequence, method, {"p": payload})


@given(sequence=st.integers(0, 2**64 - 1), text=st.text(max_size=3000), flags=st.sampled_from([0, 1, 4, 5]))
def test_what_another_library_wrote_is_read(sequence, text, flags):
    found = frames.read(frame(64, {"input": text}, sequence=sequence, flags=flags))
    assert (found.sequence, found.method, msgpack.unpackb(found.payload)) == (sequence, 64, {"input": text})


@pytest.mark.parametrize(
    ("words", "sequence"),
    [
        ({"magic": 0x4D435058}, 0),
        ({"version": 2}, 7),
        ({"type": 1}, 7),
        ({"type": 99}, 7),
        ({"flags": 2}, 7),
        ({"size": 3}, 7),
        ({"size": 4000}, 7),
    ],
    ids=["magic", "version", "a server's type", "no type", "flags", "too short", "too long"],
)
def test_a_wrong_header_is_refused(words, sequence):
    with pytest.raises(BadFrame) as caught:
        frames.read(changed(**words))
    assert (caught.value.sequence, caught.value.is_too_large) == (sequence, False)


def test_a_payload_that_is_told_as_too_large_is_refused_as_such():
    with pytest.raises(BadFrame) as caught:
        frames.read(changed(size=frames.MOST_PAYLOAD + 1))
    assert caught.value.is_too_large


@pytest.mark.parametrize("size", [frames.MOST_INFLATED, frames.MOST_INFLATED + 1])
def test_nothing_inflates_beyond_the_bound(size):
    payload = zlib.compress(bytes(size), 9)
    bomb = HEADER.pack(MAGIC, 1, 0, 1, 1, 64, 0, len(payload)) + payload
    if size <= frames.MOST_INFLATED:
        assert len(frames.read(bomb).payload) == size
    else:
        with pytest.raises(BadFrame) as caught:
            frames.read(bomb)
        assert caught.value.is_too_large


@pytest.mark.parametrize(
    "spoil",
    [lambda z: z[:-3], lambda z: z + b"more", lambda z: b"no zlib at all", lambda z: b""],
    ids=["cut off", "with something behind", "another thing", "nothing"],
)
def test_a_deflated_payload_must_be_whole(spoil):
    payload = spoil(zlib.compress(b"x" * 100))
    with pytest.raises(BadFrame):
        frames.read(HEADER.pack(MAGIC, 1, 0, 1, 1, 64, 0, len(payload)) + payload)


@given(data=st.binary(max_size=200))
def test_whatever_comes_is_read_or_refused(data):
    assert is_read_or_refused(data)


@given(data=st.binary(min_size=1, max_size=60), at=st.integers(0, 60))
def test_a_sound_frame_with_some_of_it_changed(data, at):
    sound = frame(64, {"input": "some text", "dimensions": 8})
    spoiled = sound[:at] + data + sound[at + len(data) :]
    assert is_read_or_refused(spoiled)


def test_the_page_for_authors_of_clients_shows_frames_as_they_are():
    shown = re.findall(r"```hex\n(.*?)```", PAGE.read_text(), re.DOTALL)
    ping, asked, answer, error, deflated = [Reply(bytes.fromhex(each)) for each in shown]
    assert (ping.type, ping.method, ping.body) == (Type.REQUEST, 8, {})
    assert (asked.sequence, asked.method, asked.body) == (2, 64, {"input": "hello", "dimensions": 2})
    assert vectors_of(answer.body)[0].tolist() == pytest.approx([0.6, 0.8])
    assert (error.type, error.body["code"]) == (Type.ERROR, -32010)
    assert (deflated.flags, deflated.method, deflated.body) == (1, 66, {"agent_id": "a" * 40})
    requests = [rpc.read(bytes.fromhex(each)).method.name for each in (shown[0], shown[1], shown[4])]
    assert requests == ["ping", "embedding.generate", "agent.register"]


def test_the_page_shows_requests_that_are_taken():
    (block,) = re.findall(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert [rpc.read(line).method.name for line in block.splitlines()] == ["agent.register", "embedding.generate"]
    assert all(json.loads(line)["jsonrpc"] == "2.0" for line in block.splitlines())
