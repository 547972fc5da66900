"""What a door and its server agree on beyond ASGI."""

from __future__ import annotations

# An extension: a message of this type is a whole answer, with `status`, `headers` (its length among them) and `body`.
WHOLE = "quiver.answer"
