"""uvicorn's WebSocket protocol on `websockets`, with short ways to read a frame, to wait for a message and to send one.

Owns these three, and when the client last sent a frame, pings and pieces of messages among them. Its pongs to our own
pings are its library's word, not its own: they keep the connection, and are no sign of an agent. Everything else (the
handshake, fragments, pings, closing) is the library's: what is wrong raises its errors, and it closes as RFC 6455 says.
Its own ways make three objects for a frame and wait for two things at once for each message, which cost about as much
as all that is ours in a `ping`.

Rests on `websockets.legacy` from within, so `requirements.txt` pins it, and tests go through RFC 6455 octet by octet.
"""

from __future__ import annotations

import asyncio
import time
from struct import Struct
from typing import Any

from uvicorn.protocols.websockets.websockets_impl import WebSocketProtocol
from websockets.exceptions import PayloadTooBig, ProtocolError
from websockets.frames import Opcode, apply_mask
from websockets.legacy.framing import Frame
from websockets.protocol import State

from core.asgi import Text
from embeddings.pacing import HEARD

_OPCODES = {int(each): each for each in Opcode}
_FIN, _RESERVED, _OPCODE, _MASKED, _SIZE = 0x80, 0x70, 0x0F, 0x80, 0x7F
_CONTROL, _MOST_CONTROL = 8, 125
_SHORT, _LONG = Struct("!H"), Struct("!Q")
_COPIED_BYTES = 65_536  # beyond it, two pieces cost less than one copy
_HEAD_SHORT, _HEAD_LONG = Struct("!BBH"), Struct("!BBQ")


class SocketProtocol(WebSocketProtocol):
    """To be given to uvicorn as its `ws` implementation; its extensions must be off."""

    heard_at = 0.0  # monotonic

    async def run_asgi(self) -> None:
        self.scope[HEARD] = lambda: self.heard_at  # type: ignore[literal-required]
        await super().run_asgi()

    def connection_open(self) -> None:
        super().connection_open()
        self.transfer_data_task.add_done_callback(self._wake)

    def _wake(self, _: object) -> None:
        """No message comes any more."""
        waiter = self._pop_message_waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def recv(self) -> Any:
        """The next message. Raises `ConnectionClosed`."""
        messages = self.messages
        while not messages:
            if self.transfer_data_task.done():
                await self.ensure_open()  # raises, once the connection has ended
            waiter: asyncio.Future[None] = self.loop.create_future()
            self._pop_message_waiter = waiter
            try:
                await waiter
            finally:
                self._pop_message_waiter = None
        message = messages.popleft()
        if self._put_message_waiter is not None:  # it stopped reading while enough was there
            self._put_message_waiter.set_result(None)
            self._put_message_waiter = None
        return message

    async def read_frame(self, max_size: int | None) -> Frame:
        read = self.reader.readexactly
        first, second = await read(2)
        opcode, size = _OPCODES.get(first & _OPCODE), second & _SIZE
        if opcode is None or first & _RESERVED or not second & _MASKED:
            raise ProtocolError("an opcode or a bit that nobody agreed on, or no mask")
        if opcode >= _CONTROL and (size > _MOST_CONTROL or not first & _FIN):
            raise ProtocolError("a control frame is whole and has at most 125 bytes")
        if size == 126:
            (size,) = _SHORT.unpack(await read(2))
        elif size == 127:
            (size,) = _LONG.unpack(await read(8))
        if max_size is not None and size > max_size:
            raise PayloadTooBig(size, max_size)
        masked = await read(4 + size)
        data = apply_mask(masked[4:], masked[:4])
        if opcode is not Opcode.PONG or data not in self.pings:
            self.heard_at = time.monotonic()
        return Frame(first >= _FIN, opcode, data)

    async def send(self, message: Text | bytes) -> None:  # type: ignore[override]
        """One frame; what is large is not copied. Raises `ConnectionClosed`; waits for a slow reader."""
        if self.state is not State.OPEN or self.transfer_data_task.done():
            await self.ensure_open()
        first, data = (0x82, message) if isinstance(message, bytes) else (0x81, _utf8(message))
        size = len(data)
        if size < 126:
            head = bytes((first, size))
        else:
            head = _HEAD_SHORT.pack(first, 126, size) if size < 65_536 else _HEAD_LONG.pack(first, 127, size)
        if size > _COPIED_BYTES:
            self.transport.writelines((head, data))
        else:
            self.transport.write(head + data)
        if self._paused or self.transport.is_closing():
            await self.drain()


def _utf8(text: Text) -> bytes:
    return text.encode() if isinstance(text, str) else text.obj  # type: ignore[return-value]
