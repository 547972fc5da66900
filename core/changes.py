"""The words in which the control plane tells every data plane that rows changed.

Owns the channel's name and the message. A message is a hint that speeds things up: what is true stands in the version
columns, which every worker polls as well. Who publishes and who listens bring their own connection.
"""

from __future__ import annotations

from uuid import UUID

import msgspec

CHANNEL = "quiver:changes"


class Change(msgspec.Struct, frozen=True):
    """Rows of one tenant (its keys, models, settings), or, without a tenant, of the catalogue."""

    tenant_id: UUID | None = None


_decoder = msgspec.json.Decoder(Change)


def encode(change: Change) -> bytes:
    return msgspec.json.encode(change)


def decode(message: bytes) -> Change | None:
    """None for a message that is not ours; the poll finds what it may have meant."""
    try:
        return _decoder.decode(message)
    except msgspec.MsgspecError:
        return None
