"""Binary frames of agents' sockets: a header of 24 bytes, then a MessagePack map. Pure.

Owns the header, its words and bounds, and that nothing is inflated beyond a bound. What a frame says is `rpc.py`'s.
"""

from __future__ import annotations

import struct
import zlib
from enum import IntEnum

import msgspec

MAGIC = 0x4D435057
VERSION = 1
HEADER = struct.Struct(">IBBHQHHI")  # magic, version, type, flags, sequence, method, reserved, payload size
MOST_PAYLOAD = 4 * 1024 * 1024
MOST_FRAME = HEADER.size + MOST_PAYLOAD
MOST_INFLATED = 16 * 1024 * 1024
LEAST_DEFLATED = 1024  # what is smaller is sent as it is, also to those who take zlib
ZLIB, BATCH = 1, 4  # flags
PONG = 9  # the one method that is an answer; a client may send it unasked
_FLAGS = ZLIB | BATCH


class Type(IntEnum):
    REQUEST = 0
    RESPONSE = 1
    NOTIFICATION = 2
    ERROR = 3
    BATCH = 6
    PROGRESS = 7


class Frame(msgspec.Struct, frozen=True, gc=False):
    """A frame that was read; the payload is inflated."""

    type: Type
    sequence: int
    method: int
    payload: bytes
    flags: int = 0


class BadFrame(Exception):
    """What came is no frame of ours; `sequence` is 0 where not even that can be told."""

    def __init__(self, message: str, *, sequence: int = 0, is_too_large: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.sequence = sequence
        self.is_too_large = is_too_large


def read(data: bytes) -> Frame:
    """Raises `BadFrame`."""
    if len(data) < HEADER.size:
        raise BadFrame(f"A binary frame begins with {HEADER.size} bytes of header; here are {len(data)}.")
    magic, version, kind, flags, sequence, method, _, size = HEADER.unpack_from(data)
    if magic != MAGIC:
        raise BadFrame(f"A binary frame begins with {MAGIC:#010x}, not {magic:#010x}.")
    if version != VERSION:
        raise BadFrame(f"Version {version} of frames is not spoken here; send {VERSION}.", sequence=sequence)
    if kind not in (Type.REQUEST, Type.BATCH) and (kind, method) != (Type.RESPONSE, PONG):
        raise BadFrame(f"A client sends frames of type 0 or 6, not {kind}.", sequence=sequence)
    if flags & ~_FLAGS:
        raise BadFrame(f"Flags {flags:#06x}: only 1 (zlib) and 4 (batch) are known.", sequence=sequence)
    if size > MOST_PAYLOAD:
        raise BadFrame(f"A payload has at most {MOST_PAYLOAD} bytes.", sequence=sequence, is_too_large=True)
    if size != len(data) - HEADER.size:
        raise BadFrame(
            f"The header tells of {size} bytes of payload; here are {len(data) - HEADER.size}.", sequence=sequence
        )
    payload = data[HEADER.size :]
    return Frame(Type(kind), sequence, method, _inflated(payload, sequence) if flags & ZLIB else payload, flags)


def write(type: Type, sequence: int, method: int, payload: bytes, *, flags: int = 0, deflate: bool = False) -> bytes:
    """A frame; the payload must not be larger than `MOST_PAYLOAD`."""
    if deflate and len(payload) >= LEAST_DEFLATED:
        payload, flags = zlib.compress(payload, 1), flags | ZLIB
    return HEADER.pack(MAGIC, VERSION, type, flags, sequence, method, 0, len(payload)) + payload


def _inflated(payload: bytes, sequence: int) -> bytes:
    inflater = zlib.decompressobj()
    try:
        found = inflater.decompress(payload, MOST_INFLATED)
    except zlib.error:
        raise BadFrame("The payload is not what its flag says: zlib.", sequence=sequence) from None
    if inflater.unconsumed_tail or (not inflater.eof and len(found) >= MOST_INFLATED):
        raise BadFrame(
            f"The payload inflates to more than {MOST_INFLATED} bytes.", sequence=sequence, is_too_large=True
        )
    if not inflater.eof or inflater.unused_data:
        raise BadFrame("The deflated payload is cut off, or something follows it.", sequence=sequence)
    return found
