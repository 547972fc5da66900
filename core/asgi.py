"""What a door and its server agree on beyond ASGI."""

from __future__ import annotations

# An extension: a message of this type is a whole answer, with `status`, `headers` (its length among them) and `body`.
WHOLE = "quiver.answer"
# In a scope: the body, once all of it has come, unless it is large; without it `receive` gives the body in its parts.
BODY = "quiver.body"
# Of a WebSocket: the `text` of `websocket.send` may be a view of all of the bytes that are its UTF-8, because copies of
# megabytes hold up the loop, and lie in memory.
Text = str | memoryview
