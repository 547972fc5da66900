"""Who asks, when, and until when: what every part of the data plane knows of one request. Frozen; pure."""

from __future__ import annotations

from uuid import UUID

import msgspec

from embeddings.finding import NO_WISHES
from embeddings.snapshot import TenantSnapshot
from tenants.preferences import Preferences
from tenants.snapshots import KeyGrant


class Call(msgspec.Struct, frozen=True, gc=False):
    """`request_id` is a UUIDv7 made of `created_ms`."""

    request_id: str
    created_ms: int
    key: KeyGrant
    snapshot: TenantSnapshot
    started: float  # monotonic seconds
    deadline: float
    agent_id: str = ""
    claim_id: UUID | None = None  # of an `Idempotency-Key`
    free: bool = False  # it was charged already

    @property
    def preferences(self) -> Preferences:
        """Of the agent that asks."""
        return self.snapshot.config.agents.get(self.agent_id, NO_WISHES) if self.agent_id else NO_WISHES
