"""The data plane's WebSocket door, on Channels. Knows the wire and nothing else.

`__call__` and `dispatch` are overridden: Channels' own make a task and look after database connections in a thread for
every message, and no message here comes near the database.

A key comes in a header, as a subprotocol, or in a first message; never in the address, which others write into logs. No
cookie is looked at, so there is no need to look at an `Origin`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from channels.consumer import AsyncConsumer
from channels.exceptions import StopConsumer

from core import errors
from core.errors import InvalidApiKey, QuiverError
from embeddings.connection import RESTART, UNAUTHENTICATED, Connection
from embeddings.pacing import HEARD
from embeddings.sockets import Sockets
from tenants.admission import key_text

SUBPROTOCOL, _KEY = "quiver.v1", "key."
SOCKETS = "quiver.sockets"  # where the scope holds them

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class AgentConsumer(AsyncConsumer):  # type: ignore[misc]  # Channels has no types
    connection: Connection

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.base_send = send
        sockets: Sockets = scope[SOCKETS]
        self.connection = sockets.open(send, (scope.get("client") or ("",))[0], scope.get(HEARD))
        try:
            while True:
                await self.dispatch(await receive())
        except StopConsumer:
            return
        finally:
            sockets.closed(self.connection)

    async def dispatch(self, message: Mapping[str, Any]) -> None:
        """One event of the server's."""
        kind = message["type"]
        if kind == "websocket.receive":
            text = message.get("text")
            if not self.connection.is_closing:
                await self.connection.take(message["bytes"] if text is None else text)
        elif kind == "websocket.connect":
            await self._connect()
        else:
            raise StopConsumer

    async def _connect(self) -> None:
        """Accepts first: only an open socket can be told by a close code what is the matter."""
        offered: list[str] = self.scope["subprotocols"]
        chosen = SUBPROTOCOL if SUBPROTOCOL in offered else None
        await self.base_send({"type": "websocket.accept", "subprotocol": chosen})
        connection = self.connection
        if self.scope[SOCKETS].is_draining:
            connection.close(RESTART, "this process is stopping; connect again")
            return
        try:
            text = self._credential(offered, chosen)
            if text:
                await connection.authenticate(text)
        except (errors.Starting, errors.Draining) as error:
            connection.close(RESTART, error.message)
        except QuiverError as error:
            connection.close(UNAUTHENTICATED, error.message)

    def _credential(self, offered: list[str], chosen: str | None) -> str:
        """The key, or nothing where it comes in the first message."""
        if self.scope["query_string"]:
            raise InvalidApiKey("Nothing belongs into the address, least of all a key; send it in a header.")
        headers = dict(self.scope["headers"])
        authorization, x_api_key = headers.get(b"authorization", b""), headers.get(b"x-api-key", b"")
        keys = {each.removeprefix(_KEY) for each in offered if each.startswith(_KEY)}
        if authorization or x_api_key:
            keys.add(key_text(authorization=authorization.decode("latin-1"), x_api_key=x_api_key.decode("latin-1")))
        elif keys and chosen is None:
            raise InvalidApiKey(f"Offer the subprotocol {SUBPROTOCOL} beside the key.")
        if len(keys) > 1:
            raise InvalidApiKey("Several keys that differ were given; send one.")
        return next(iter(keys), "")


class UnknownPath(AsyncConsumer):  # type: ignore[misc]  # Channels has no types
    """Whatever else is asked for as a socket: refused before it is one, with 403, as ASGI has it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.close", "code": 4404})
